"""Bundles: finished cells of one results folder, without texts, sealed, for a public board.

A bundle is a folder, or a zip file of one. ``cells/`` holds of each cell its settings, its result,
the values of each query, and its rankings without the texts (``bench.results.text_free``), in the
layout of a results folder. ``manifest.json``, which is written last, has the SHA-256 of every
file, who handed it in, and the version that wrote it. There is no date in it: the same cells give
the same bytes.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from bench.core.environment import __version__
from bench.core.errors import UserError
from bench.core.escape import clean
from bench.report.export.cells import check_new
from bench.results.problems import Problem, Problems
from bench.results.schema import CONFIG, PER_QUERY, RESULT, RETRIEVALS, Cell, read_cells
from bench.results.text_free import PASSAGES, RANKINGS, write_text_free
from bench.results.verify import Lists, verify
from bench.storage.bounds import MOST_TABLE_BYTES, check_inside, read_bytes
from bench.storage.documents import read_json
from bench.storage.packed import MOST_BYTES, MOST_FILES, pack, unpack
from bench.storage.sealed import MANIFEST, DamagedError, open_sealed, seal
from bench.storage.whole_folders import scratch_folder, whole_folder

KIND = "bundle"
_CELLS = "cells"
_LAYOUT = {"bundle layout": 1}  # what every bundle of this version is made by
_COPIED = (CONFIG, PER_QUERY, RESULT)
_FILES = (*_COPIED, RANKINGS, PASSAGES)
_MOST_NAME, _MOST_LINK = 100, 300
_FIX = "ask whoever sent it for the file that `tdabench submit` wrote"
# A part of a path that is no way up and means the same on every system.
_PART = re.compile(r"(?!\.)[^/\\:*?\"<>|\x00-\x1f]{1,200}")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are those that were written.

    Attributes:
        cells: the folder of its cells, in the layout of a results folder.
        by, link: who handed it in, and the address that was given, empty if none was.
        version: the version of this package that wrote it.
    """

    cells: Path
    by: str
    link: str
    version: str


# ------------------------------------------------------------------ writing


def write_bundle(results_dir: Path, target: Path, by: str, link: str = "") -> Problems:
    """Write the cells of a results folder as a bundle, if every number of theirs holds.

    Args:
        target: a new zip file, if its name ends in ``.zip``, or else a new folder.
        by: the person or group that hands it in.
        link: an address (http or https) that tells more; empty for none.

    Returns:
        what does not hold of the cells; where anything does not, nothing is written.

    Raises:
        UserError: a name or link that cannot be shown, no cell, a cell whose task has no hash, a
            target that is there already, or one that the disk does not take.
    """
    _check_source(by, link)
    if target.suffix == ".zip":
        if target.exists():
            raise UserError("is there already", where=str(target), fix="give --out a new file")
    else:
        check_new(target)
    problems = verify(results_dir)
    if problems:
        return problems
    cells = read_cells(results_dir)
    for cell in cells:
        _check_comparable(cell)
    facts = {"by": by, "link": link, "version": __version__, "cells": len(cells)}
    if target.suffix == ".zip":
        with scratch_folder(target) as scratch:
            _fill(scratch, results_dir, cells, facts)
            pack(scratch, target)
    else:
        if target.exists():
            target.rmdir()  # it is empty: the new one is renamed into its place
        with whole_folder(target) as folder:
            _fill(folder, results_dir, cells, facts)
    return problems


def _fill(folder: Path, results_dir: Path, cells: list[Cell], facts: dict[str, object]) -> None:
    for cell in cells:
        copy = folder / _CELLS / cell.folder.relative_to(results_dir)
        copy.mkdir(parents=True)
        for name in _COPIED:
            (copy / name).write_bytes(read_bytes(cell.folder / name, MOST_TABLE_BYTES))
        write_text_free(cell.folder / RETRIEVALS, copy)
    seal(folder, KIND, KIND, _LAYOUT, facts)


def _check_comparable(cell: Cell) -> None:
    if not cell.result.task.get("sha256"):
        raise UserError(
            "its task has no hash, so that no row of a board is known to be comparable with it",
            where=str(cell.folder / RESULT),
            fix="import the rankings with task=…, which has one",
        )


def _check_source(by: object, link: object) -> None:
    """Refuse a name or an address that a page cannot show as it is.

    Raises:
        UserError: names the option.
    """
    if not isinstance(by, str) or not by.strip() or by != clean(by) or len(by) > _MOST_NAME:
        raise UserError(
            f"expected a name of one line, {_MOST_NAME} characters at most, found {by!r:.60}",
            where="--by",
        )
    if link != "" and not (isinstance(link, str) and len(link) <= _MOST_LINK and _is_web(link)):
        raise UserError(
            f"expected an address that begins with https:// or http://, {_MOST_LINK} characters "
            f"at most, found {link!r:.60}",
            where="--link",
        )


def _is_web(link: str) -> bool:
    if not link.isascii() or not link.isprintable() or " " in link:
        return False
    try:
        parts = urlsplit(link)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        )
    except ValueError:
        return False


# ------------------------------------------------------------------ reading


def is_bundle(path: Path) -> bool:
    """Whether a path can only be meant as a bundle: a file, or a folder with a manifest."""
    return path.is_file() or (path / MANIFEST).exists()


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """The bundle of a folder or a zip file, for the block; anybody may have written it.

    Raises:
        UserError: there is none, it holds anything that a bundle does not, a file is not what its
            manifest says, or it is beyond a bound of ``bench.storage.packed``.
    """
    if path.is_dir():
        _check_folder(path)
        yield _sound(path, path)
    elif not path.exists():
        raise UserError("no such bundle", where=str(path))
    else:
        with TemporaryDirectory(prefix="tdabench-bundle-") as scratch:
            unpack(path, Path(scratch), _belongs)
            yield _sound(Path(scratch), path)


def verify_bundle(bundle: Bundle) -> Problems:
    """Recompute the numbers of a bundle from its rankings and its values of each query."""
    return verify(bundle.cells, Lists.text_free)


def verify_path(path: Path) -> Problems:
    """Check a bundle from its manifest to its numbers; what is damaged is a problem.

    Raises:
        UserError: there is no such file or folder.
    """
    if not path.exists():
        raise UserError("no such bundle", where=str(path))
    try:
        with opened(path) as bundle:
            return verify_bundle(bundle)
    except UserError as error:
        return Problems([Problem(path.name, KIND, error.what)])


def _belongs(name: str) -> bool:
    """Whether a bundle has files of this name: the manifest, and those of cells."""
    if name == MANIFEST:
        return True
    first, *folders, file = name.split("/") if "/" in name else ("", name)
    is_cell = first == _CELLS and len(folders) == 4 and file in _FILES
    return is_cell and all(_PART.fullmatch(part) for part in folders)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds links, files of other names, or too much."""
    check_inside(folder / MANIFEST, folder)
    n_files = n_bytes = 0
    for path in folder.rglob("*"):
        name, state = path.relative_to(folder).as_posix(), path.lstat()
        n_files, n_bytes = n_files + 1, n_bytes + state.st_size
        if n_files > MOST_FILES or n_bytes > MOST_BYTES:
            raise UserError(
                f"holds more than {MOST_FILES:,} files and folders, or {MOST_BYTES:,} bytes",
                where=str(folder),
                fix="hand it in as several",
            )
        if stat.S_ISDIR(state.st_mode):
            continue
        if not stat.S_ISREG(state.st_mode):
            raise UserError(f"{name[:120]!r} is a link, or no file", where=str(folder), fix=_FIX)
        if not _belongs(name):
            raise UserError(f"{name[:120]!r} does not belong there", where=str(folder), fix=_FIX)


def _sound(folder: Path, path: Path) -> Bundle:
    """The bundle of a folder whose names are known to be harmless, checked by its manifest."""
    if not (folder / MANIFEST).is_file():
        raise UserError(f"is no bundle: it holds no {MANIFEST}", where=str(path), fix=_FIX)
    _check_manifest(folder / MANIFEST, path)
    try:
        facts = open_sealed(folder, KIND, _LAYOUT, name=KIND)
    except DamagedError as error:
        raise UserError(f"damaged bundle: {error.fault}", where=str(path), fix=_FIX) from error
    by, link, version = facts.get("by"), facts.get("link"), facts.get("version")
    try:
        _check_source(by, link)
    except UserError as error:
        raise UserError(f"{MANIFEST}: {error.what}", where=str(path), fix=_FIX) from error
    if not isinstance(version, str) or len(version) > _MOST_NAME or version != clean(version):
        raise UserError(f"{MANIFEST}: facts.version is no version", where=str(path), fix=_FIX)
    return Bundle(folder / _CELLS, str(by), str(link), version)


def _check_manifest(manifest: Path, path: Path) -> None:
    """Refuse a manifest of another form than this package writes, whoever sealed it."""
    try:
        record = read_json(manifest)
    except UserError as error:
        raise UserError(f"{MANIFEST}: {error.what}", where=str(path), fix=_FIX) from error
    fault = ""
    if not isinstance(record, dict) or {"kind", "name", "made_from"} - record.keys():
        fault = "is no manifest"
    elif not isinstance(record.get("facts"), dict):
        fault = "has no facts"
    elif not isinstance(files := record.get("files"), dict) or not all(map(_belongs, files)):
        fault = "lists files that no bundle has"
    elif not all(
        isinstance(one, dict)
        and type(one.get("bytes")) is int
        and isinstance(one.get("sha256"), str)
        for one in files.values()
    ):
        fault = "does not say size and hash of every file"
    if fault:
        raise UserError(f"{MANIFEST} {fault}", where=str(path), fix=_FIX)
