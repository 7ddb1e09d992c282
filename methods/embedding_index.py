"""An index of one vector a passage: embedded in chunks, each a job, and then memory-mapped.

A folder holds the files of one format of vectors, and is sealed (``bench.storage.sealed``). It is
named by a key of everything that decides over a vector, the texts included. The chunks that jobs
leave are in a folder beside it, ``KEY.parts``, until the index is whole: a run that was killed goes
on with them.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from bench.engines import Engine
from bench.engines.base import Job
from bench.engines.outcomes import outcomes, unless_single
from bench.storage.arrays import map_array, new_array
from bench.storage.mirror import Mirror
from bench.storage.parted import open_or_merge, rows_part
from bench.storage.sealed_arrays import read_arrays, write_arrays
from bench.storage.sharing import Sharing, inventory
from bench.tasks.passages import PassageStore

CHUNK = 4096  # passages embedded together: sorted by length they need little padding
_KIND = "chunk of embeddings"

Vectors = TypeVar("Vectors")
# Turns texts into vectors, and counts things on the way, such as texts that were cut.
Embed = Callable[[list[str]], tuple[Vectors, Mapping[str, int]]]


class VectorFormat(ABC, Generic[Vectors]):
    """The files in which vectors of one kind are kept."""

    files: ClassVar[tuple[str, ...]]

    @abstractmethod
    def arrays(self, vectors: Vectors) -> dict[str, np.ndarray]:
        """Vectors as arrays by name, of which ``of`` makes the same vectors again."""

    @abstractmethod
    def of(self, arrays: Mapping[str, np.ndarray]) -> Vectors:
        """Vectors from their arrays."""

    @abstractmethod
    def write(self, folder: Path, chunks: Iterator[Vectors], n_passages: int) -> None:
        """Write the vectors of consecutive passages as they come."""

    @abstractmethod
    def open(self, folder: Path, n_passages: int) -> Vectors:
        """Map the vectors that were written; raises OSError or ValueError if they are not there."""


class DenseVectors(VectorFormat[np.ndarray]):
    """Dense vectors in ``embeddings.npy``, float32 ``[passages, dim]``."""

    files = ("embeddings.npy",)

    def arrays(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """The matrix."""
        return {"vectors": vectors}

    def of(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The matrix."""
        return arrays["vectors"]

    def write(self, folder: Path, chunks: Iterator[np.ndarray], n_passages: int) -> None:
        """Write a matrix as wide as the first vectors, chunk by chunk."""
        stored, start = None, 0
        for vectors in chunks:
            if stored is None:
                shape = (n_passages, vectors.shape[1])
                stored = new_array(folder / self.files[0], np.float32, shape)
            stored[start : start + len(vectors)] = vectors
            start += len(vectors)
        assert stored is not None  # a corpus is never empty
        stored.flush()

    def open(self, folder: Path, n_passages: int) -> np.ndarray:
        """Map the matrix."""
        stored = map_array(folder / self.files[0])
        if len(stored) != n_passages or stored.dtype != np.float32:
            raise ValueError("other vectors")
        return stored


@dataclass(frozen=True)
class EmbeddingIndex(Generic[Vectors]):
    """The vectors of a corpus.

    Attributes:
        folder: where they are.
        form: the format of their files.
        n_passages: how many there are.
        vectors: memory-mapped and read-only, as their format opens them.
        counts: counts of the whole corpus, such as texts that were cut.
        seconds: time that embedding took, all processes together.
    """

    folder: Path
    form: VectorFormat[Vectors]
    n_passages: int
    vectors: Vectors
    counts: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class Embedder(Generic[Vectors]):
    """Embeds chunks of a corpus, here or in another process, to which it can be sent.

    Attributes:
        passages: the corpus.
        form: the format of the vectors.
        load: brings what embeds in another process; can be sent, too.
        here: what embeds, where it is at hand; it is not sent along.
    """

    passages: PassageStore
    form: VectorFormat[Vectors]
    load: Callable[[], Embed[Vectors]]
    here: Embed[Vectors] | None = field(default=None, compare=False)

    def __reduce__(self) -> tuple:
        return Embedder, (self.passages, self.form, self.load)

    def jobs(self, folder: Path) -> list[Job]:
        """A job for each chunk of the corpus, in the order of rows."""
        jobs = []
        for start in range(0, len(self.passages), CHUNK):
            rows = range(start, min(start + CHUNK, len(self.passages)))
            path = rows_part(folder, rows)
            jobs.append(Job(Embedder.write, (self, path, rows), path))
        return jobs

    def write(self, path: Path, rows: range) -> None:
        """Embed the passages of some rows, and write the vectors."""
        embed = self.here or self.load()
        began = time.perf_counter()
        texts = [passage.text for passage in self.passages.slice(rows.start, rows.stop)]
        self.passages.check_unchanged()  # this may be another process than the one that opened them
        vectors, counts = embed(texts)
        facts = {"counts": dict(counts), "seconds": time.perf_counter() - began}
        write_arrays(path, _KIND, self.form.arrays(vectors), facts)


def open_or_embed(
    folder: Path, embedder: Embedder[Vectors], engine: Engine, mirror: Mirror
) -> EmbeddingIndex[Vectors]:
    """The index in ``folder``; where there is none, the corpus is embedded first.

    The folder appears when it is finished. One process at a time embeds; others wait.

    Args:
        folder: folder of the index, named by a key of everything that decides over a vector.
        engine: runs a job for each chunk.
        mirror: a copy of the cache in a store, which the index is shared through.

    Raises:
        UserError: the index is there, but its files are not what was written.
    """
    passages, form = embedder.passages, embedder.form
    made_from = {"passages": len(passages), "sha256": passages.sha256}
    make = partial(_write, embedder, engine, Sharing(mirror, inventory(folder)))
    facts = open_or_merge(folder, "index of embeddings", made_from, make, mirror)
    vectors = form.open(folder, len(passages))
    counts = dict(facts["counts"])
    return EmbeddingIndex(folder, form, len(passages), vectors, counts, facts["seconds"])


def _write(
    embedder: Embedder[Vectors], engine: Engine, sharing: Sharing, folder: Path, parts: Path
) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    seconds = 0.0

    def chunks() -> Iterator[Vectors]:
        nonlocal seconds
        jobs, unit = embedder.jobs(parts), f"chunks of {CHUNK:,}"
        runs = unless_single(engine, len(jobs))
        for arrays, facts in outcomes(jobs, _read, runs, "embed passages", unit, sharing):
            counts.update(facts["counts"])
            seconds += facts["seconds"]
            yield embedder.form.of(arrays)

    embedder.form.write(folder, chunks(), len(embedder.passages))
    embedder.passages.check_unchanged()
    return {"counts": counts, "seconds": round(seconds, 3)}


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    return read_arrays(path, _KIND)
