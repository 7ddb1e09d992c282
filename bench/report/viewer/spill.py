"""Files for passages and rankings on their way to the viewer: memory holds neither."""

from __future__ import annotations

import sqlite3
from array import array
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

import numpy as np

from bench.report.viewer.values import valid_unicode

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE passage (
    number INTEGER PRIMARY KEY, key BLOB UNIQUE, query INTEGER, id TEXT, text TEXT);
"""
_MOST_VARIABLES = 900  # SQLite takes 999 in its oldest builds
# Passages that are held in memory with their numbers: some 60 MB of them beside their characters.
_MOST_KNOWN, _MOST_CHARACTERS = 1 << 17, 1 << 25

Passage = tuple[str, str]  # its id and its text


class Spill:
    """A folder for passages, of which equal ones have one number, and rankings, in any order.

    The final numbers follow the first query that lists a passage, so that the passages of a query
    lie close together.

    Args:
        folder: an empty one, which the caller deletes after ``close``.
    """

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / "passages.sqlite", isolation_level=None)
        self._database.executescript(_TABLES)
        self._database.execute("BEGIN")
        self._count = 0
        # Texts and numbers of some passages by their ids, which may have other texts as well.
        self._texts, self._numbers = dict[str, str](), dict[str, int]()
        self._characters = 0  # of these
        self._final = np.empty(0, dtype=np.uintc)
        # Rankings lie one behind the other: the numbers of their passages, then what is kept as is.
        self._rankings = open(folder / "rankings", "w+b")  # noqa: SIM115 - `close` closes it
        self._end = 0
        # The places of each method's: query, where a ranking begins, how many passages, its end.
        self._places: dict[int, array[int]] = defaultdict(lambda: array("Q"))

    def close(self) -> None:
        """Close the files."""
        self._rankings.close()
        self._database.close()

    def add(self, method: int, query: int, ids: list[str], texts: list[str], rest: str) -> None:
        """Keep one ranking: its passages in order, and ``rest`` as it is."""
        if list(map(self._texts.get, ids)) == texts:
            numbers = list(map(self._numbers.__getitem__, ids))
        else:
            numbers = self._take_in(query, list(zip(ids, texts, strict=True)))
        content = array("I", numbers).tobytes() + valid_unicode(rest).encode()
        self._rankings.write(content)
        end = self._end + len(content)
        self._places[method].extend((query, self._end, len(numbers), end))
        self._end = end

    def _take_in(self, query: int, passages: list[Passage]) -> list[int]:
        """The numbers of passages of which some are not known; new ones are taken in."""
        if len(self._texts) > _MOST_KNOWN or self._characters > _MOST_CHARACTERS:
            self._texts.clear()
            self._numbers.clear()
            self._characters = 0
        valid = [(valid_unicode(passage_id), valid_unicode(text)) for passage_id, text in passages]
        keys = [_key(*passage) for passage in valid]
        numbers = dict[bytes, int]()
        for start in range(0, len(keys), _MOST_VARIABLES):
            part = keys[start : start + _MOST_VARIABLES]
            marks = ",".join("?" * len(part))
            query_text = f"SELECT key, number FROM passage WHERE key IN ({marks})"  # noqa: S608 - marks
            numbers.update(self._database.execute(query_text, part))
        new = []
        for key, (passage_id, text) in zip(keys, valid, strict=True):
            if key not in numbers:
                self._count += 1
                numbers[key] = self._count
                new.append((self._count, key, query, passage_id, text))
        self._database.executemany("INSERT INTO passage VALUES (?, ?, ?, ?, ?)", new)
        for key, (passage_id, text) in zip(keys, passages, strict=True):
            self._characters += len(passage_id) + len(text)
            self._texts[passage_id] = text
            self._numbers[passage_id] = numbers[key]
        return list(map(numbers.__getitem__, keys))

    def passages(self) -> Iterator[Passage]:
        """The id and the text of every passage in the final order, read before ``rankings``."""
        self._final = np.zeros(self._count + 1, dtype=np.uintc)
        rows = "SELECT number, id, text FROM passage ORDER BY query, number"
        with closing(self._database.execute(rows)) as cursor:
            for place, (number, passage_id, text) in enumerate(cursor):
                self._final[number] = place
                yield passage_id, text

    def rankings(self, method: int) -> Iterator[tuple[int, list[int], str]]:
        """The rankings of a method by query: its number, its passages' final numbers, the rest."""
        places = np.array(self._places[method], dtype=np.uint64).reshape(-1, 4)
        for query, start, length, end in places[places[:, 0].argsort()].tolist():
            self._rankings.seek(start)
            content = self._rankings.read(end - start)
            numbers = np.frombuffer(content, dtype=np.uintc, count=length)
            yield query, self._final[numbers].tolist(), content[numbers.nbytes :].decode()


def _key(passage_id: str, text: str) -> bytes:
    length = len(passage_id)  # so that no id runs into its text
    return blake2b(f"{length} {passage_id}{text}".encode(), digest_size=16).digest()
