"""What patched models said, kept across methods and runs: only new pairs cost a step."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.storage.disk import disk_errors

_SAVE_EVERY_SECONDS = 1.0  # the most that a killed run loses; saving each passage costs a tenth
_CHUNK = 500  # query ids a statement; sqlite allows 999 variables in its oldest builds


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
    """Outcomes of steps by passage row and query id.

    One file holds one setting: its name must be a hash of model, corpus and step.
    """

    def __init__(self, path: Path) -> None:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60)
            self._saved = time.monotonic()
            self._unsaved: list[tuple[int, str, float, float, float]] = []
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS patched (passage INTEGER, query TEXT, "
                "log_probability REAL, clipped REAL, rms REAL, PRIMARY KEY (passage, query))"
            )

    def known(self, passage: int, queries: Sequence[str]) -> dict[str, StepOutcome]:
        """Known outcomes of the step on one passage, by query id."""
        known: dict[str, StepOutcome] = {}
        for start in range(0, len(queries), _CHUNK):
            part = queries[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            statement = (
                f"SELECT query, log_probability, clipped, rms FROM patched "  # noqa: S608
                f"WHERE passage = ? AND query IN ({marks})"
            )
            for query, *numbers in self._database.execute(statement, [passage, *part]):
                known[query] = StepOutcome(*numbers)
        return known

    def add(self, passage: int, measured: Iterable[tuple[str, StepOutcome]]) -> None:
        """Keep new measurements of one passage, from the next moment of saving on."""
        self._unsaved += [(passage, query, *outcome) for query, outcome in measured]
        if time.monotonic() > self._saved + _SAVE_EVERY_SECONDS:
            self._save()

    def close(self) -> None:
        """Save what is not saved yet, and close the file."""
        self._save()
        self._database.close()

    def _save(self) -> None:
        # One transaction, begun and ended here: other processes may have the same file.
        self._database.executemany(
            "INSERT OR REPLACE INTO patched VALUES (?, ?, ?, ?, ?)", self._unsaved
        )
        self._database.commit()
        self._unsaved.clear()
        self._saved = time.monotonic()
