"""What patched models said, kept across methods and runs: only new pairs cost a step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from bench.storage.score_parts import ScorePart, add_leftovers, add_parts, part_folder
from bench.storage.scores import Key, ScoreFile

Pair = tuple[int, str]  # row of a passage, id of a query


class StepOutcome(NamedTuple):
    """What a step on one passage did, and what the model then said of one query.

    Attributes:
        log_probability: of the query's target after the step, in nats; NaN where there was none.
        clipped: share of the parameter tensors whose update was clipped.
        rms: root mean square of what the step adds to the parameters.
    """

    log_probability: float
    clipped: float
    rms: float


class PatchCache:
    """(passage row, query id) → outcome of the step, on disk.

    The file's name must be a key of all that an outcome depends on beside the pair.
    """

    def __init__(self, path: Path) -> None:
        self._file = ScoreFile(path)

    def known(self, pairs: Collection[Pair]) -> dict[Pair, StepOutcome]:
        """The outcomes of those of ``pairs`` that are kept whole, killed runs' included.

        Raises:
            UserError: the file cannot be read.
        """
        add_leftovers(self._file)
        keys = {key for pair in pairs for key in _keys(pair)}
        return _outcomes(pairs, self._file.known(keys))

    def part_folder(self) -> AbstractContextManager[Path]:
        """A folder for the parts of this run, until ``add`` has them."""
        return part_folder(self._file)

    def add(self, pairs: Collection[Pair], parts: Sequence[ScorePart]) -> dict[Pair, StepOutcome]:
        """Keep what jobs have measured.

        Args:
            pairs: those that they were to measure.
            parts: what they left, as ``part_of_outcomes`` makes it.

        Returns:
            the outcome of each pair.

        Raises:
            UserError: the disk does not take them.
        """
        add_parts(self._file, parts)
        return _outcomes(pairs, {key: v for part in parts for key, v in part.scores.items()})


def part_of_outcomes(outcomes: Mapping[Pair, StepOutcome]) -> ScorePart:
    """The outcomes of a job as it leaves them; those that are not finite are not kept."""
    scores: dict[Key, float] = {}
    passing: set[Key] = set()
    for pair, outcome in outcomes.items():
        scores.update(zip(_keys(pair), outcome, strict=True))
        if not all(map(math.isfinite, outcome)):
            passing.update(_keys(pair))
    return ScorePart(scores, passing)


def _outcomes(pairs: Collection[Pair], scores: Mapping[Key, float]) -> dict[Pair, StepOutcome]:
    """The outcomes of those pairs of which every number is there."""
    keys = {pair: _keys(pair) for pair in pairs}
    return {
        pair: StepOutcome(*(scores[key] for key in three))
        for pair, three in keys.items()
        if all(key in scores for key in three)
    }


def _keys(pair: Pair) -> list[Key]:
    """The key of each number of a pair's outcome, in the order of ``StepOutcome``."""
    row, query_id = pair
    query = hashlib.sha256(query_id.encode()).digest()[:16]
    return [
        (row.to_bytes(15, "little") + bytes([number]), query)
        for number in range(len(StepOutcome._fields))
    ]
