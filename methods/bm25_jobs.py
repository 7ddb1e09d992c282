"""BM25's search as jobs: each answers some of the queries over the whole index.

A query's list depends on the query and the index alone, so that groups of queries need no merge.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.engines import Engine
from bench.engines.base import Job
from bench.engines.outcomes import outcomes
from bench.storage.keys import content_key
from bench.storage.locks import exclusive
from bench.storage.mirror import Mirror
from bench.storage.parted import rows_part
from bench.storage.sealed_arrays import read_arrays, write_arrays
from bench.storage.sharing import Sharing
from methods.bm25_scoring import InvertedIndexScorer, Variant
from methods.word_index import map_index

QUERIES_A_JOB = 2048  # some seconds over a million sentences
_KIND = "lists of some queries"

Words = Sequence[str]  # of one query


@dataclass(frozen=True)
class ListSearch:
    """A search for the ``k`` best passages, here or in another process, to which it can be sent.

    Attributes:
        index: folder of the index of words.
        variant, k1, b: the formula.
        here: scores, where the index is open; it is not sent along.
    """

    index: Path
    variant: Variant
    k1: float
    b: float
    k: int
    here: InvertedIndexScorer | None = field(default=None, compare=False)

    def __reduce__(self) -> tuple:
        return ListSearch, (self.index, self.variant, self.k1, self.b, self.k)

    def lists(
        self, queries: Sequence[Words], engine: Engine, mirror: Mirror
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows and scores of each query, highest score first, ties by row.

        Args:
            mirror: a copy of the cache in a store, where the lists stay.
        """
        formula = [self.variant.value, self.k1, self.b, self.k, QUERIES_A_JOB]
        key = content_key([*formula, [list(words) for words in queries]])
        folder = self.index.with_name(f"{self.index.name}.lists-{key}")
        with exclusive(folder):
            jobs = []
            for start in range(0, len(queries), QUERIES_A_JOB):
                some = queries[start : start + QUERIES_A_JOB]
                path = rows_part(folder, range(start, start + len(some)))
                jobs.append(Job(ListSearch.write, (self, path, some), path))
            unit = f"times {QUERIES_A_JOB:,} queries"
            for lists in outcomes(jobs, _read, engine, "search bm25", unit, Sharing(mirror)):
                yield from lists
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, path: Path, queries: Sequence[Words]) -> None:
        """Search for some queries, and write their lists one after the other."""
        scorer = self.here or _opened(self)
        found = [scorer.search(words, self.k) for words in queries]
        rows, scores = map(np.concatenate, zip(*found, strict=True))
        lengths = np.array([len(one) for one, _ in found], dtype=np.int64)
        write_arrays(path, _KIND, {"rows": rows, "scores": scores, "lengths": lengths})


def _read(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    arrays, _ = read_arrays(path, _KIND)
    ends = np.cumsum(arrays["lengths"])[:-1]
    rows, scores = (np.split(arrays[name], ends) for name in ("rows", "scores"))
    return list(zip(rows, scores, strict=True))


# The index that this process opened last, and what it scores: its jobs share them.
_open: list[tuple[ListSearch, InvertedIndexScorer]] = []


def _opened(search: ListSearch) -> InvertedIndexScorer:
    if not (_open and _open[-1][0] == search):
        index = map_index(search.index, seconds=0.0)
        _open[:] = [(search, InvertedIndexScorer(index, search.variant, search.k1, search.b))]
    return _open[-1][1]
