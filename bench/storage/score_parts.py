"""Scores of pairs that jobs leave in files of their own, until one process adds them to the rest.

A run has a folder for the parts of its jobs, below a folder beside the file of scores, and holds
it while it works. When all parts are there, they are added to the file at once, and the folder is
removed. A run that was killed leaves its folder: the next one that asks the same file adds what is
in it first, so that no finished job is done again, whatever the next run asks for.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from bench.storage.locks import exclusive, exclusive_if_free
from bench.storage.scores import Key, ScoreFile
from bench.storage.sealed import move_aside_if
from bench.storage.sealed_arrays import read_arrays, write_arrays

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

    The block adds the parts to the file (``add_parts``).
    """
    folder = _parts_of(file) / secrets.token_hex(8)
    with exclusive(folder):
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def add_parts(file: ScoreFile, parts: Sequence[ScorePart]) -> None:
    """Add the scores of parts to the file, and wait until they are on the disk.

    Raises:
        UserError: the disk does not take them.
    """
    file.add(
        {
            key: score
            for part in parts
            for key, score in part.scores.items()
            if key not in part.passing
        }
    )


def add_leftovers(file: ScoreFile) -> None:
    """Add to the file what killed runs have left of it; folders of runs that go on stay.

    Raises:
        UserError: the disk does not take it.
    """
    for folder in sorted(path for path in _parts_of(file).glob("*") if path.is_dir()):
        with exclusive_if_free(folder) as is_free:
            if not is_free:
                continue
            parts = []
            for path in sorted(folder.glob(f"*{_SUFFIX}")):
                move_aside_if(path, partial(read_part, path))
                if path.exists():
                    parts.append(read_part(path))
            add_parts(file, parts)
            shutil.rmtree(folder, ignore_errors=True)


def _parts_of(file: ScoreFile) -> Path:
    return file.path.with_name(f"{file.path.stem}.parts")
