"""What patched models said, kept across methods and runs: only new pairs cost a step."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.storage.disk import disk_errors

_SAVE_EVERY_SECONDS = 1.0  # what a killed run loses, at most; each passage would cost a tenth more
_CHUNK = 500  # query ids a statement; sqlite allows 999 variables in its oldest builds


class PatchCache:
    """(passage row, query id) → log-probability of the target after the step.

    One file holds one setting: its name must be a hash of model, corpus and step.
    """

    def __init__(self, path: Path) -> None:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60)
            self._saved, self._unsaved = time.monotonic(), list[tuple[int, str, float]]()
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS patched "
                "(passage INTEGER, query TEXT, log_probability REAL, PRIMARY KEY (passage, query))"
            )

    def known(self, passage: int, queries: Sequence[str]) -> dict[str, float]:
        """What is already measured of one passage, by query id."""
        found: dict[str, float] = {}
        for start in range(0, len(queries), _CHUNK):
            part = queries[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            statement = (
                f"SELECT query, log_probability FROM patched WHERE passage = ? "  # noqa: S608
                f"AND query IN ({marks})"
            )
            found.update(self._database.execute(statement, [passage, *part]))
        return found

    def add(self, passage: int, measured: Iterable[tuple[str, float]]) -> None:
        """Keep new measurements of one passage, from the next moment of saving on."""
        self._unsaved += [(passage, query, value) for query, value in measured]
        if time.monotonic() > self._saved + _SAVE_EVERY_SECONDS:
            self._save()

    def close(self) -> None:
        """Save what is not saved yet, and close the file."""
        self._save()
        self._database.close()

    def _save(self) -> None:
        # One transaction, begun and ended here: other processes may have the same file.
        self._database.executemany("INSERT OR REPLACE INTO patched VALUES (?, ?, ?)", self._unsaved)
        self._database.commit()
        self._unsaved.clear()
        self._saved = time.monotonic()
