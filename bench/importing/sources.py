"""Which files are one ranking, and in which format, by looking into them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.core.errors import UserError
from bench.importing.bergson import FILES, SCORES
from bench.importing.settings import Format
from bench.importing.trec import FIELDS
from bench.storage import jsonlines
from bench.storage.files import expand_local
from bench.storage.hashes import file_sha256
from bench.storage.keys import content_key

_SHARD = re.compile(r"(?P<base>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})(?P<rest>.*)")
_ENDINGS = (".gz", ".jsonl", ".json", ".trec", ".run", ".txt")


@dataclass(frozen=True)
class RankingFiles:
    """The files of one ranking.

    Attributes:
        name: what they are called, without what says their format.
        format: the format of each of them.
        paths: their paths in the order of their shards; the folder itself for ``Format.bergson``.
    """

    name: str
    format: Format
    paths: tuple[Path, ...]

    @cached_property
    def sha256(self) -> str:
        """Hash of the content of all files, in their order; their names do not matter."""
        paths = self.paths
        if self.format is Format.bergson:
            paths = tuple(self.paths[0] / file for file in FILES)
        try:
            return content_key([file_sha256(path) for path in paths], length=64)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot read it ({reason})", where=str(error.filename)) from error


def find_rankings(files: Sequence[str], chosen: Format | None) -> list[RankingFiles]:
    """The rankings that files and folders hold: shards of one name are one ranking.

    Args:
        files: paths, globs and folders.
        chosen: their format, None to find it out by content.

    Raises:
        UserError: a file that does not exist, is given twice, or is in no known format; a shard
            that lacks its siblings.
    """
    rankings: list[RankingFiles] = []
    groups: dict[tuple[Path, str, str], list[Path]] = {}
    seen: set[Path] = set()
    for word in files:
        folder = _folder(word)
        for path in [folder] if folder else expand_local(word, "FILE"):
            if path.resolve() in seen:
                raise UserError("is given twice", where=str(path), fix="give each file once")
            seen.add(path.resolve())
            shard = None if folder else _SHARD.fullmatch(path.name)
            if shard:
                whole = f"{shard['base']}{shard['rest']}"
                groups.setdefault((path.parent, whole, shard["of"]), []).append(path)
            else:
                rankings.append(RankingFiles(_stem(path.name), _format(path, chosen), (path,)))
    for (_, whole, of), paths in groups.items():
        if len(paths) != int(of):
            raise UserError(
                f"{len(paths)} of its {int(of)} shards are given",
                where=str(paths[0]),
                fix="give all of them, e.g. as a glob",
            )
        ordered = tuple(sorted(paths))
        formats = {_format(path, chosen) for path in ordered}
        if len(formats) > 1:
            raise UserError("its shards are in different formats", where=str(ordered[0]))
        rankings.append(RankingFiles(_stem(whole), formats.pop(), ordered))
    return rankings


def _folder(word: str) -> Path | None:
    try:
        path = Path(word).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError):  # `expand_local` says what is wrong with it
        return None


def _stem(name: str) -> str:
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name


def _format(path: Path, chosen: Format | None) -> Format:
    if path.is_dir():
        if not (path / SCORES).is_file():
            raise UserError(
                f"is a folder without {SCORES}",
                where=str(path),
                fix="give a file, or the score folder of bergson",
            )
        if chosen not in (None, Format.bergson):
            raise UserError("is a folder", where=str(path), fix="leave format out, or give a file")
        return Format.bergson
    if chosen is Format.bergson or path.name == SCORES:
        raise UserError(
            "is a file, and bergson's scores are a folder",
            where=str(path),
            fix=f"give the folder that holds {SCORES}",
        )
    return chosen or _by_content(path)


def _by_content(path: Path) -> Format:
    for place, raw in jsonlines.lines(path):
        text = raw.removeprefix(b"\xef\xbb\xbf").lstrip()
        if text.startswith(b"{"):
            return Format.release
        if len(text.split()) == len(FIELDS):
            return Format.trec
        raise UserError(
            f"neither a JSON object nor the {len(FIELDS)} fields of a TREC run",
            where=str(place),
            fix="give a file in the release's format, a TREC run, or a score folder of bergson",
        )
    raise UserError("is empty", where=str(path), fix="give a file that ranks something")
