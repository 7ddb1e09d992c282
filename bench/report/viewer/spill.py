"""A database for passages and rankings on their way to the viewer: memory holds neither."""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any

from bench.report.viewer.reading import valid_unicode

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE passage (
    number INTEGER PRIMARY KEY, key BLOB UNIQUE, query INTEGER, id TEXT, text TEXT);
CREATE TABLE ranking (
    method INTEGER, query INTEGER, passages BLOB, rest TEXT, PRIMARY KEY (method, query));
"""
_MOST_VARIABLES = 900  # SQLite takes 999 in its oldest builds
_MOST_KNOWN = 1 << 18  # passages whose numbers are held in memory, in some 40 MB


class Spill:
    """A database in which equal passages have one number, and which gives all back in order.

    The final numbers follow the first query that lists a passage, so that the passages of a query
    lie close together.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(_TABLES)
        self._database.execute("BEGIN")
        self._count = 0
        self._known = dict[bytes, int]()  # some of the passages, by their keys
        self._final = array("I")

    def close(self) -> None:
        """Close the file, which the caller deletes."""
        self._database.close()

    def add(
        self,
        method: int,
        query: int,
        ids: Sequence[str],
        texts: Sequence[str],
        rest: dict[str, Any],
    ) -> None:
        """Keep one ranking: its passages in order, and ``rest`` as it is."""
        numbers = array(
            "I",
            self._numbers(query, [valid_unicode(i) for i in ids], list(map(valid_unicode, texts))),
        )
        self._database.execute(
            "INSERT INTO ranking VALUES (?, ?, ?, ?)",
            (method, query, numbers.tobytes(), json.dumps(rest)),
        )

    def _numbers(self, query: int, ids: list[str], texts: list[str]) -> list[int]:
        keys = [_key(passage_id, text) for passage_id, text in zip(ids, texts, strict=True)]
        known = self._known
        if len(known) > _MOST_KNOWN:
            known.clear()
        unknown = [key for key in keys if key not in known]
        for start in range(0, len(unknown), _MOST_VARIABLES):
            part = unknown[start : start + _MOST_VARIABLES]
            marks = ",".join("?" * len(part))
            query_text = f"SELECT key, number FROM passage WHERE key IN ({marks})"  # noqa: S608 - marks
            known.update(self._database.execute(query_text, part))
        new = []
        for key, passage_id, text in zip(keys, ids, texts, strict=True):
            if key not in known:
                self._count += 1
                known[key] = self._count
                new.append((self._count, key, query, passage_id, text))
        self._database.executemany("INSERT INTO passage VALUES (?, ?, ?, ?, ?)", new)
        return [known[key] for key in keys]

    def passages(self) -> Iterator[tuple[str, str]]:
        """The id and the text of every passage in the final order, read before ``rankings``."""
        self._final = array("I", bytes(4 * (self._count + 1)))
        rows = "SELECT number, id, text FROM passage ORDER BY query, number"
        with closing(self._database.execute(rows)) as cursor:
            for place, (number, passage_id, text) in enumerate(cursor):
                self._final[number] = place
                yield passage_id, text

    def rankings(self, method: int) -> Iterator[tuple[int, list[int], dict[str, Any]]]:
        """The rankings of a method by query: its number, its passages' final numbers, the rest."""
        rows = "SELECT query, passages, rest FROM ranking WHERE method = ? ORDER BY query"
        with closing(self._database.execute(rows, (method,))) as cursor:
            for query, blob, rest in cursor:
                numbers = array("I")
                numbers.frombytes(blob)
                yield query, [self._final[number] for number in numbers], json.loads(rest)


def _key(passage_id: str, text: str) -> bytes:
    length = len(passage_id)  # so that no id runs into its text
    return blake2b(f"{length} {passage_id}{text}".encode(), digest_size=16).digest()
