"""Scores of pairs that jobs leave in files of their own, until one process adds them to the rest.

A run has a folder for the parts of its jobs, below a folder beside the file of scores, and holds
it while it works. When all parts are there, they are added to the file at once, and the folder is
removed. A run that was killed leaves its folder: the next one that asks the same file adds what is
in it first, so that no finished job is done again, whatever the next run asks for.

With a store, parts are copied there as any job's files are (``bench.storage.sharing``), without the
name of their run. What a run has added is kept there as one file, in a folder of such files: other
machines add from these what they lack.
"""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from bench.storage.keys import content_key
from bench.storage.locks import exclusive, exclusive_if_free
from bench.storage.mirror import Mirror
from bench.storage.scores import Key, ScoreFile
from bench.storage.sealed import move_aside_if
from bench.storage.sealed_arrays import read_arrays, write_arrays
from bench.storage.sharing import Sharing, bring_sound

_KIND = "scores of a job"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class ScorePart:
    """What one job scored.

    Attributes:
        scores: score by pair of keys.
        passing: pairs whose scores are for this run alone, and are scored again by the next one.
        counts: what was counted on the way.
    """

    scores: Mapping[Key, float]
    passing: Collection[Key] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def lasting(self) -> dict[Key, float]:
        """The scores that later runs may have: neither passing nor NaN."""
        return {
            key: score
            for key, score in self.scores.items()
            if key not in self.passing and not math.isnan(score)
        }


def part_path(folder: Path, name: str) -> Path:
    """Where a part is; ``name`` is a key of all that its scores follow from."""
    return folder / f"{name}{_SUFFIX}"


def write_part(path: Path, part: ScorePart) -> None:
    """Write a part as a sealed file.

    Raises:
        UserError: the disk does not take it.
    """
    keys = b"".join(first + second for first, second in part.scores)
    passing = frozenset(part.passing)
    arrays: dict[str, np.ndarray] = {
        "keys": np.frombuffer(keys, dtype=np.uint8),
        "scores": np.fromiter(part.scores.values(), dtype=np.float64),
        "passing": np.fromiter((key in passing for key in part.scores), dtype=bool),
    }
    write_arrays(path, _KIND, arrays, {"counts": dict(part.counts)})


def read_part(path: Path) -> ScorePart:
    """Read a part.

    Raises:
        DamagedError: it is not what was written.
    """
    arrays, facts = read_arrays(path, _KIND)
    joined = arrays["keys"].tobytes()
    keys = [(joined[i : i + 16], joined[i + 16 : i + 32]) for i in range(0, len(joined), 32)]
    passing = {key for key, passes in zip(keys, arrays["passing"].tolist(), strict=True) if passes}
    scores = dict(zip(keys, arrays["scores"].tolist(), strict=True))
    return ScorePart(scores, passing, facts["counts"])


@contextmanager
def part_folder(file: ScoreFile) -> Iterator[Path]:
    """An empty folder for the parts of one run; it is removed at the end of a block that succeeds.

    The block adds the parts to the file (``add_parts``). The folder has the same name in each run,
    which is what parts say of where they belong; the folder above it has a name of its own.
    """
    run = _parts_of(file) / secrets.token_hex(8)
    with exclusive(run):
        folder = run / _parts_of(file).name
        folder.mkdir()
        yield folder
        shutil.rmtree(run, ignore_errors=True)


def sharing_of(file: ScoreFile, mirror: Mirror, folder: Path, whole: Path | None) -> Sharing:
    """How the parts in a folder of ``part_folder`` are shared.

    Args:
        mirror: the copy in a store of a folder that the file is in.
        whole: where ``add_parts`` will keep what the parts hold together.
    """
    run = folder.parent
    there = None if whole is None else run / whole.relative_to(file.path.parent)
    return Sharing(mirror.lent(run, file.path.parent), there, is_lasting)


def is_lasting(path: Path) -> bool:
    """Whether all that a part holds may serve later runs."""
    part = read_part(path)
    return len(part.lasting) == len(part.scores)


def whole_of(file: ScoreFile, names: Collection[str]) -> Path:
    """Where parts of these names are kept together, for the store."""
    return part_path(_shared_of(file), content_key(sorted(names)))


def add_parts(file: ScoreFile, parts: Sequence[ScorePart], mirror: Mirror, whole: Path) -> None:
    """Add the scores of parts to the file, and wait until they are on the disk, and in the store.

    Args:
        mirror, whole: as of ``sharing_of``.

    Raises:
        UserError: the disk does not take them, or the store cannot be reached.
    """
    scores = {key: score for part in parts for key, score in part.lasting.items()}
    file.add(scores)
    if mirror.url is not None and scores:
        write_part(whole, ScorePart(scores))
        mirror.keep(whole)


def known_scores(file: ScoreFile, keys: Collection[Key], mirror: Mirror) -> dict[Key, float]:
    """The scores of those of ``keys`` that are in the file, killed runs' and the store's included.

    Raises:
        UserError: the file cannot be read, or the store cannot be reached.
    """
    add_leftovers(file, mirror)
    scores = file.known(keys)
    left = frozenset(keys).difference(scores)
    folder, new = _shared_of(file), dict[Key, float]()
    names = mirror.names(folder) if left else ()
    for path in sorted(folder / name for name in names if name.endswith(_SUFFIX)):
        if path.exists() or bring_sound(mirror, path, read_part):
            lasting = read_part(path).lasting
            new |= {key: lasting[key] for key in left.intersection(lasting)}
    file.add(new)
    return scores | new


def add_leftovers(file: ScoreFile, mirror: Mirror) -> None:
    """Add to the file what killed runs have left of it; folders of runs that go on stay.

    Raises:
        UserError: the disk does not take it, or the store cannot be reached.
    """
    for folder in sorted(path for path in _parts_of(file).glob("*") if path.is_dir()):
        with exclusive_if_free(folder) as is_free:
            if not is_free:
                continue
            parts = []
            paths = sorted(folder.rglob(f"*{_SUFFIX}"))
            for path in paths:
                move_aside_if(path, partial(read_part, path))
                if path.exists():
                    parts.append(read_part(path))
            add_parts(file, parts, mirror, whole_of(file, [path.name for path in paths]))
            shutil.rmtree(folder, ignore_errors=True)


def _parts_of(file: ScoreFile) -> Path:
    return file.path.with_name(f"{file.path.stem}.parts")


def _shared_of(file: ScoreFile) -> Path:
    return file.path.with_name(f"{file.path.stem}.shared")
