"""An index of one vector a passage: written once in chunks, then memory-mapped.

A folder holds the files of one format of vectors, and is sealed (``bench.storage.sealed``). It is
named by a key of everything that decides over a vector, the texts included.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from bench.core import progress
from bench.storage.arrays import map_array, new_array
from bench.storage.keys import content_key
from bench.storage.sealed import open_or_make
from bench.tasks.passages import PassageStore
from methods.base import Context

CHUNK = 4096  # passages embedded together: sorted by length they need little padding

Vectors = TypeVar("Vectors")
# Turns texts into vectors, and counts things on the way, such as texts that were cut.
Embed = Callable[[list[str]], tuple[Vectors, Mapping[str, int]]]


class VectorFormat(ABC, Generic[Vectors]):
    """The files in which vectors of one kind are kept."""

    files: ClassVar[tuple[str, ...]]

    @abstractmethod
    def write(self, folder: Path, chunks: Iterator[Vectors], n_passages: int) -> None:
        """Write the vectors of consecutive passages as they come."""

    @abstractmethod
    def open(self, folder: Path, n_passages: int) -> Vectors:
        """Map the vectors that were written; raises OSError or ValueError if they are not there."""


class DenseVectors(VectorFormat[np.ndarray]):
    """Dense vectors in ``embeddings.npy``, float32 ``[passages, dim]``."""

    files = ("embeddings.npy",)

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
        vectors: memory-mapped and read-only, as their format opens them.
        counts: counts of the whole corpus, such as texts that were cut.
        seconds: time that embedding took in the run that did it.
    """

    vectors: Vectors
    counts: dict[str, int]
    seconds: float


def index_of(
    context: Context,
    kind: str,
    settings: Mapping[str, Any],
    embed: Embed[Vectors],
    form: VectorFormat[Vectors],
) -> EmbeddingIndex[Vectors]:
    """The index of a task's passages, embedded unless the cache or its copy in a store has it.

    Args:
        kind: the name of the folder of such indexes.
        settings: all that a vector depends on beside its text, as JSON values.
    """
    passages = context.task.passages
    key = content_key({**settings, "corpus": passages.sha256})
    folder = context.cache_dir / "index" / kind / key
    with context.mirror.shared(folder):
        index = open_or_embed(folder, passages, embed, form)
    context.counts.update(index.counts)
    context.facts["encoding_seconds"] = index.seconds
    return index


def open_or_embed(
    folder: Path, passages: PassageStore, embed: Embed[Vectors], form: VectorFormat[Vectors]
) -> EmbeddingIndex[Vectors]:
    """The index in ``folder``; where there is none, the corpus is embedded first.

    A run that dies leaves nothing behind: the folder appears when it is finished.

    Args:
        folder: folder of the index, named by a key of everything that decides over a vector.
        embed: embeds at most ``CHUNK`` texts; called in the order of rows.

    Raises:
        UserError: the index is there, but its files are not what was written.
    """
    made_from = {"passages": len(passages), "sha256": passages.sha256}
    facts = open_or_make(
        folder, "index of embeddings", made_from, lambda part: _write(part, passages, embed, form)
    )
    vectors = form.open(folder, len(passages))
    return EmbeddingIndex(vectors, dict(facts["counts"]), facts["seconds"])


def _write(
    folder: Path, passages: PassageStore, embed: Embed[Vectors], form: VectorFormat[Vectors]
) -> dict[str, Any]:
    began = time.perf_counter()
    counts: Counter[str] = Counter()

    def chunks() -> Iterator[Vectors]:
        starts = range(0, len(passages), CHUNK)
        for start in progress.track(starts, "embed passages", unit=f"chunks of {CHUNK}"):
            texts = [passage.text for passage in passages.slice(start, start + CHUNK)]
            vectors, counted = embed(texts)
            counts.update(counted)
            yield vectors

    form.write(folder, chunks(), len(passages))
    passages.check_unchanged()
    return {"counts": counts, "seconds": round(time.perf_counter() - began, 3)}
