"""An index of one vector a passage: written once in chunks, then memory-mapped.

A folder holds the files of one format of vectors and ``index.json``, their sidecar, written last.
The folder is named by a key of everything that decides over a vector, the corpus included.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np

from bench.core import progress
from bench.core.errors import UserError
from bench.storage.arrays import map_array
from bench.storage.hashes import file_sha256
from bench.storage.whole_folders import whole_folder
from bench.tasks.passages import PassageStore

CHUNK = 4096  # passages embedded together: sorted by length they need little padding
_SIDECAR = "index.json"

Vectors = TypeVar("Vectors")
# Turns texts into vectors, and counts things on the way, such as texts that were cut.
Embed = Callable[[list[str]], tuple[Vectors, Mapping[str, int]]]


class VectorFormat(ABC, Generic[Vectors]):
    """The files in which vectors of one kind are kept.

    Attributes:
        files: names of all files but the sidecar.
    """

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
                stored = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                    folder / self.files[0],
                    mode="w+",
                    dtype=np.float32,
                    shape=(n_passages, vectors.shape[1]),
                )
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


def open_or_embed(
    folder: Path, passages: PassageStore, embed: Embed[Vectors], form: VectorFormat[Vectors]
) -> EmbeddingIndex[Vectors]:
    """The index in ``folder``; where there is none, the corpus is embedded first.

    A run that dies leaves nothing behind: the folder appears when it is finished.

    Args:
        folder: folder of the index, named by a key of everything that decides over a vector.
        passages: the corpus.
        embed: embeds at most ``CHUNK`` texts; called in the order of rows.
        form: format of the vectors.

    Raises:
        UserError: the index is there, but its files are not what was written.
    """
    if not folder.exists():
        with whole_folder(folder) as partial:
            _write(partial, passages, embed, form)
    return _open(folder, len(passages), form)


def _write(
    folder: Path, passages: PassageStore, embed: Embed[Vectors], form: VectorFormat[Vectors]
) -> None:
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
    sidecar = {
        "counts": counts,
        "seconds": round(time.perf_counter() - began, 3),
        "sha256": _hashes(folder, form),
    }
    (folder / _SIDECAR).write_text(json.dumps(sidecar), encoding="utf-8")


def _hashes(folder: Path, form: VectorFormat) -> dict[str, str]:
    return {name: file_sha256(folder / name) for name in form.files}


def _open(folder: Path, n_passages: int, form: VectorFormat[Vectors]) -> EmbeddingIndex[Vectors]:
    try:
        sidecar = json.loads((folder / _SIDECAR).read_text(encoding="utf-8"))
        # A changed number is still a number, and would quietly be a wrong score.
        if sidecar["sha256"] != _hashes(folder, form):
            raise ValueError("other bytes than were written")
        vectors = form.open(folder, n_passages)
        return EmbeddingIndex(vectors, dict(sidecar["counts"]), float(sidecar["seconds"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "damaged index of embeddings",
            where=str(folder),
            fix="delete this folder and run again",
        ) from error
