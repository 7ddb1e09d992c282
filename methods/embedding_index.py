"""One vector a passage on disk: written once in chunks, then memory-mapped by whoever asks again.

Layout of an index folder: ``embeddings.npy`` (float32 ``[passages, dim]``) and ``index.json``, its
sidecar, written last. The folder's name says what the vectors are of: it is a key of everything
that moves them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import progress
from bench.errors import UserError
from bench.passages import PassageStore
from bench.storage import file_sha256, map_array, whole_folder

CHUNK = 4096  # passages embedded together: sorted by length they need little padding
_EMBEDDINGS, _SIDECAR = "embeddings.npy", "index.json"

# Texts to vectors, float32 [texts, dim], and what was counted on the way, such as cut texts.
Embed = Callable[[list[str]], tuple[np.ndarray, Mapping[str, int]]]


@dataclass(frozen=True)
class EmbeddingIndex:
    """The vectors of a corpus.

    Attributes:
        vectors: float32 ``[passages, dim]``, memory-mapped and read-only.
        counts: what was counted while embedding, over the whole corpus.
        seconds: what embedding took, in the run that did it.
    """

    vectors: np.ndarray
    counts: dict[str, int]
    seconds: float


def open_or_embed(folder: Path, passages: PassageStore, embed: Embed) -> EmbeddingIndex:
    """The index in ``folder``, which is embedded first if there is none.

    A run that dies leaves nothing behind: the folder appears when it is finished.

    Args:
        folder: named by a key of whatever moves a vector, the corpus included.
        passages: the corpus.
        embed: called with at most ``CHUNK`` texts, in the order of rows.

    Raises:
        UserError: the index is there, but its files are not what was written.
    """
    if not folder.exists():
        with whole_folder(folder) as partial:
            _write(partial, passages, embed)
    return _open(folder, len(passages))


def _write(folder: Path, passages: PassageStore, embed: Embed) -> None:
    began = time.perf_counter()
    stored = None
    counts: Counter[str] = Counter()
    starts = range(0, len(passages), CHUNK)
    for start in progress.track(starts, "embed passages", unit=f"chunks of {CHUNK}"):
        texts = [passage.text for passage in passages.slice(start, start + CHUNK)]
        vectors, counted = embed(texts)
        if stored is None:  # the first vectors say how long one is
            stored = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                folder / _EMBEDDINGS,
                mode="w+",
                dtype=np.float32,
                shape=(len(passages), vectors.shape[1]),
            )
        stored[start : start + len(texts)] = vectors
        counts.update(counted)
    assert stored is not None  # a corpus is never empty
    stored.flush()
    sidecar = {
        "counts": counts,
        "seconds": round(time.perf_counter() - began, 3),
        "sha256": file_sha256(folder / _EMBEDDINGS),
    }
    (folder / _SIDECAR).write_text(json.dumps(sidecar), encoding="utf-8")


def _open(folder: Path, n_passages: int) -> EmbeddingIndex:
    try:
        sidecar = json.loads((folder / _SIDECAR).read_text(encoding="utf-8"))
        stored = map_array(folder / _EMBEDDINGS)
        index = EmbeddingIndex(stored, dict(sidecar["counts"]), float(sidecar["seconds"]))
        # A changed number is still a number, and would quietly be a wrong score.
        sound = sidecar["sha256"] == file_sha256(folder / _EMBEDDINGS)
        sound = sound and len(stored) == n_passages and stored.dtype == np.float32
    except (OSError, ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError(
            "damaged index of embeddings",
            where=str(folder),
            fix="delete this folder and run again",
        )
    return index
