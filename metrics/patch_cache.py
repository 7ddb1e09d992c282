"""What patched models said, kept across methods and runs: only new pairs cost a step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.engines.base import Engine, Job
from bench.engines.scoring import scored
from bench.storage.mirror import Mirror
from bench.storage.score_parts import ScorePart
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

    Args:
        path: the file; its name must be a key of all that an outcome depends on beside the pair.
        mirror: the copy of the cache in a store, which outcomes are shared through.
    """

    def __init__(self, path: Path, mirror: Mirror) -> None:
        self._file, self._mirror = ScoreFile(path), mirror

    def measured(
        self,
        pairs: Collection[Pair],
        jobs: Callable[[Collection[Pair], Path], list[Job]],
        engine: Engine,
    ) -> dict[Pair, StepOutcome]:
        """The outcome of each pair; those that are not kept whole are measured.

        Args:
            jobs: gives the jobs for all pairs but those that are kept, which leave what
                ``part_of_outcomes`` makes in a folder.
            engine: runs the jobs.

        Raises:
            UserError: the file cannot be read, the disk does not take what is measured, or the
                store cannot be reached.
        """

        def missing(kept: Mapping[Key, float], folder: Path) -> list[Job]:
            return jobs(_outcomes(pairs, kept).keys(), folder)

        keys = {key for pair in pairs for key in _keys(pair)}
        label, unit = "tail-patch", "batches of passages"
        made = scored(self._file, self._mirror, keys, missing, engine, label, unit)
        return _outcomes(pairs, made.scores)


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
