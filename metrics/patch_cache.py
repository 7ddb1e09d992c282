"""What patched models said, kept across methods and runs: only new pairs cost a step."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.storage.scores import Key, ScoreFile

_SAVE_EVERY_SECONDS = 1.0  # the most that a killed run loses; saving each passage costs a tenth

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
        self._saved, self._unsaved = time.monotonic(), dict[Key, float]()

    def known(self, pairs: Collection[Pair]) -> dict[Pair, StepOutcome]:
        """The outcomes of those of ``pairs`` that are kept whole.

        Raises:
            UserError: the file cannot be read.
        """
        keys = {pair: _keys(pair) for pair in pairs}
        kept = self._file.known({key for three in keys.values() for key in three})
        return {
            pair: StepOutcome(*(kept[key] for key in three))
            for pair, three in keys.items()
            if all(key in kept for key in three)
        }

    def add(self, measured: Mapping[Pair, StepOutcome]) -> None:
        """Keep new outcomes, from the next moment of saving on.

        Raises:
            UserError: the disk does not take them.
        """
        for pair, outcome in measured.items():
            self._unsaved.update(zip(_keys(pair), outcome, strict=True))
        if time.monotonic() > self._saved + _SAVE_EVERY_SECONDS:
            self.close()

    def close(self) -> None:
        """Save what is not saved yet."""
        self._file.add(self._unsaved)
        self._unsaved.clear()
        self._saved = time.monotonic()


def _keys(pair: Pair) -> list[Key]:
    """The key of each number of a pair's outcome, in the order of ``StepOutcome``."""
    row, query_id = pair
    query = hashlib.sha256(query_id.encode()).digest()[:16]
    return [
        (row.to_bytes(15, "little") + bytes([number]), query)
        for number in range(len(StepOutcome._fields))
    ]
