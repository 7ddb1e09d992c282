"""What patched models said, kept across methods and runs: only new pairs cost a step."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from bench.storage.scores import Key, ScoreFile

_SAVE_EVERY_SECONDS = 1.0  # what a killed run loses, at most; each passage would cost a tenth more

Pair = tuple[int, str]  # row of a passage, id of a query


class PatchCache:
    """(passage row, query id) → log-probability of the target after the step.

    One file holds one setting: its name must be a hash of model, corpus and step.
    """

    def __init__(self, path: Path) -> None:
        self._file = ScoreFile(path)
        self._saved, self._unsaved = time.monotonic(), dict[Key, float]()

    def known(self, pairs: Collection[Pair]) -> dict[Pair, float]:
        """The log-probabilities of those of ``pairs`` that are already measured.

        Raises:
            UserError: the file cannot be read.
        """
        keys = {_key(pair): pair for pair in pairs}
        return {keys[key]: value for key, value in self._file.known(keys).items()}

    def add(self, measured: Mapping[Pair, float]) -> None:
        """Keep new measurements, from the next moment of saving on.

        Raises:
            UserError: the disk does not take them.
        """
        self._unsaved.update({_key(pair): value for pair, value in measured.items()})
        if time.monotonic() > self._saved + _SAVE_EVERY_SECONDS:
            self.close()

    def close(self) -> None:
        """Save what is not saved yet."""
        self._file.add(self._unsaved)
        self._unsaved.clear()
        self._saved = time.monotonic()


def _key(pair: Pair) -> Key:
    row, query_id = pair
    return row.to_bytes(16, "little"), hashlib.sha256(query_id.encode()).digest()[:16]
