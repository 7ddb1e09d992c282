"""Raw projected gradients of the corpus in memory-mapped shards.

What is stored does not depend on Hessian, mixing or norm, so methods that differ in these share one
index. A shard is done when its sidecar is there and equal to what is expected; sidecars are written
last, so a run that dies half way goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench import progress
from bench.errors import UserError
from bench.passages import PassageStore
from bench.storage import file_sha256, whole_file
from methods.gradient.batching import encode_all
from methods.gradient.encoder import GradientEncoder

if TYPE_CHECKING:
    from collections import Counter

    from bench.models.language_model import LanguageModel

SHARD_ROWS = 2048  # a shard of 2^16 dims in float32 is then 512 MiB: held in memory once


@dataclass(frozen=True)
class GradientIndex:
    """The finished shards of one corpus.

    Attributes:
        folder: where they are.
        n_rows: passages.
        dim: feature dimensions.
        seconds: what encoding took when it was done, all runs together.
    """

    folder: Path
    n_rows: int
    dim: int
    seconds: float

    @property
    def bytes(self) -> int:
        """Bytes of features on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("shard-*.npy"))

    @property
    def n_shards(self) -> int:
        """How many shards hold the rows."""
        return -(-self.n_rows // SHARD_ROWS)

    def shards(self, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """Stream (first row, features ``[rows, dim]`` in ``dtype``) in row order."""
        for number in range(self.n_shards):
            stored = np.load(_shard_path(self.folder, number), mmap_mode="r", allow_pickle=False)
            yield number * SHARD_ROWS, torch.from_numpy(np.array(stored)).to(dtype)


@dataclass(frozen=True)
class IndexBuilder:
    """Encodes a corpus into shards, skipping those that are done.

    Attributes:
        folder: of this index alone.
        key: hash of everything that the features depend on; a shard with another key is refused.
        batch_size, batch_tokens: bounds of a forward pass; they change no ranking in float64.
    """

    folder: Path
    key: str
    model: LanguageModel
    encoder: GradientEncoder
    passages: PassageStore
    batch_size: int
    batch_tokens: int | None

    def build(self, counts: Counter[str]) -> GradientIndex:
        """Encode what is not encoded yet.

        Args:
            counts: gets ``passages_truncated`` and ``passages_without_loss``.

        Raises:
            UserError: the folder holds a foreign or damaged shard, or the disk is full.
        """
        starts = range(0, len(self.passages), SHARD_ROWS)
        seconds = 0.0
        shards = progress.track(starts, "encode passages", unit=f"shards of {SHARD_ROWS}")
        for number, start in enumerate(shards):
            sidecar = _read_sidecar(self.folder, number, self.key) or self._encode(number, start)
            seconds += sidecar["seconds"]
            for name in ("passages_truncated", "passages_without_loss"):
                counts[name] += sidecar[name]
        return GradientIndex(self.folder, len(self.passages), self.encoder.dim, seconds)

    def _encode(self, number: int, start: int) -> dict[str, Any]:
        began = time.perf_counter()
        texts = (passage.text for passage in self.passages.slice(start, start + SHARD_ROWS))
        tokens = [self.model.passage_tokens(text) for text in texts]
        features = encode_all(self.encoder, tokens, self.batch_size, self.batch_tokens)
        path = _shard_path(self.folder, number)
        with whole_file(path, "wb") as stream:
            np.save(stream, features.numpy(), allow_pickle=False)
        sidecar = {
            "key": self.key,
            "first_row": start,
            "rows": len(tokens),
            "dim": self.encoder.dim,
            "dtype": "float32",
            "sha256": file_sha256(path),
            "seconds": round(time.perf_counter() - began, 3),
            "passages_truncated": sum(t.truncated for t in tokens),
            "passages_without_loss": sum(t.n_loss == 0 for t in tokens),
        }
        with whole_file(path.with_suffix(".json")) as stream:
            json.dump(sidecar, stream)
        return sidecar


def _read_sidecar(folder: Path, number: int, key: str) -> dict[str, Any] | None:
    """The sidecar of a finished shard whose bytes are what it says; None if there is none yet."""
    path = _shard_path(folder, number)
    sidecar_path = path.with_suffix(".json")
    if not sidecar_path.exists():
        return None
    try:
        sidecar = json.loads(sidecar_path.read_text(encoding="utf-8"))
        sound = sidecar["key"] == key and file_sha256(path) == sidecar["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError(
            "foreign or damaged index shard",
            where=str(path),
            fix="delete this folder and run again",
        )
    return sidecar


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.npy"
