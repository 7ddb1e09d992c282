"""Search over vectors by groups of rows: a job finds the best of a group, a merge the best of all.

Scores of a row do not depend on its group, and ``TopK`` merges lists by its one rule, so that the
lists are those of a search in one process. A corpus of one group is searched here, without jobs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from bench.engines import Engine
from bench.engines.base import Job
from bench.engines.outcomes import outcomes
from bench.storage.keys import content_key
from bench.storage.locks import exclusive
from bench.storage.mirror import Mirror
from bench.storage.parted import PART, rows_part
from bench.storage.sealed_arrays import arrays_sha256, read_arrays, write_arrays
from bench.storage.sharing import Sharing, merged_file
from methods.embedding_index import EmbeddingIndex, VectorFormat
from methods.topk import TopK
from methods.vector_search import Lists, nearest, search_rows

# Rows that one job searches: a multiple of every block, so that groups cut no block.
ROWS_A_JOB = 1 << 18
_LISTS, _QUERIES = "best rows", "queries of a search"

Vectors = TypeVar("Vectors")
# The best rows of a range for each query: vectors of the queries, stored vectors, range of rows,
# length of the lists.
Scan = Callable[[Vectors, Vectors, range, int], Lists]


def best_rows(
    index: EmbeddingIndex[Vectors],
    queries: Vectors,
    n_queries: int,
    k: int,
    scan: Scan[Vectors],
    engine: Engine,
    mirror: Mirror,
) -> Lists:
    """The ``k`` best rows of each query.

    Args:
        queries: their vectors; few enough that all lists fit into memory.
        scan: searches a range of rows; can be sent to another process.
        engine: runs a job for each group of rows.
        mirror: a copy of the cache in a store, which groups and lists are shared through.
    """
    if index.n_passages <= ROWS_A_JOB:
        return scan(queries, index.vectors, range(index.n_passages), k)
    arrays = index.form.arrays(queries)
    key = content_key([arrays_sha256(arrays), k, ROWS_A_JOB])
    folder = index.folder.with_name(f"{index.folder.name}.lists-{key}")
    search = _GroupSearch(index.folder, index.form, index.n_passages, folder, k, scan)
    jobs, unit = search.jobs(), f"groups of {ROWS_A_JOB:,} passages"

    def merge(whole: Path | None) -> Lists:
        write_arrays(search.queries, _QUERIES, arrays)
        best, sharing = TopK(n_queries, k), Sharing(mirror, whole)
        for rows, scores in outcomes(jobs, _read, engine, "search vectors", unit, sharing):
            best.push(scores, rows)
        return best.rows, best.scores

    with exclusive(folder):
        best, _ = merged_file(mirror, folder / f"best{PART}", _read, _write, merge)
        shutil.rmtree(folder, ignore_errors=True)
    mirror.drop(folder, [job.target.name for job in jobs])
    return best


def search_dense(
    index: EmbeddingIndex[np.ndarray],
    queries: np.ndarray,
    top_k: int,
    engine: Engine,
    mirror: Mirror,
) -> Iterator[Lists]:
    """The ``top_k`` rows with the highest dot product; see ``vector_search.search_rows``."""

    def find(asked: np.ndarray, n: int) -> Lists:
        return best_rows(index, asked, len(asked), n, nearest, engine, mirror)

    return search_rows(queries, index.vectors, top_k, find)


@dataclass(frozen=True)
class _GroupSearch(Generic[Vectors]):
    """A search that can be sent to another process.

    Attributes:
        index, form, n_passages: as of the index.
        folder: where the queries are, and where jobs leave their lists.
        k: length of the lists.
        scan: searches a range of rows.
    """

    index: Path
    form: VectorFormat[Vectors]
    n_passages: int
    folder: Path
    k: int
    scan: Scan[Vectors]

    @property
    def queries(self) -> Path:
        """The file with the vectors of the queries."""
        return self.folder / "queries.safetensors"

    def jobs(self) -> list[Job]:
        """A job for each group of rows, in their order."""
        jobs = []
        for start in range(0, self.n_passages, ROWS_A_JOB):
            rows = range(start, min(start + ROWS_A_JOB, self.n_passages))
            path = rows_part(self.folder, rows)
            jobs.append(Job(_GroupSearch.write, (self, path, rows), path))
        return jobs

    def write(self, path: Path, rows: range) -> None:
        """Search some rows, and write the list of each query."""
        arrays, _ = read_arrays(self.queries, _QUERIES)
        stored = self.form.open(self.index, self.n_passages)
        _write(path, self.scan(self.form.of(arrays), stored, rows, self.k))


def _write(path: Path, lists: Lists) -> None:
    rows, scores = lists
    write_arrays(path, _LISTS, {"rows": rows, "scores": scores})


def _read(path: Path) -> Lists:
    arrays, _ = read_arrays(path, _LISTS)
    return arrays["rows"], arrays["scores"]
