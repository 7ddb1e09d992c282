"""Sparse vectors, and the files in which ``methods.embedding_index`` keeps them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.storage.arrays import map_array
from methods.embedding_index import VectorFormat


@dataclass(frozen=True)
class SparseRows:
    """Sparse vectors, whose entries stand one after the other.

    Attributes:
        starts: place at which the entries of each vector begin, int64 ``[vectors + 1]``.
        dims: dimension of each entry, int32 ``[entries]``.
        weights: value of each entry, float32 ``[entries]``.
    """

    starts: np.ndarray
    dims: np.ndarray
    weights: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.starts.nbytes + self.dims.nbytes + self.weights.nbytes

    def block(self, start: int, stop: int, width: int) -> Tensor:
        """Vectors ``start`` to ``stop`` as a sparse float64 tensor ``[stop - start, width]``."""
        entries = slice(int(self.starts[start]), int(self.starts[stop]))
        row = np.repeat(np.arange(stop - start), np.diff(self.starts[start : stop + 1]))
        places = torch.from_numpy(np.stack([row, self.dims[entries].astype(np.int64)]))
        values = torch.from_numpy(self.weights[entries].astype(np.float64))
        return torch.sparse_coo_tensor(
            places, values, (stop - start, width), is_coalesced=True, check_invariants=False
        )


class SparseVectors(VectorFormat[SparseRows]):
    """Sparse vectors in ``starts.npy``, ``dims.bin`` and ``weights.bin``."""

    files = ("starts.npy", "dims.bin", "weights.bin")

    def arrays(self, vectors: SparseRows) -> dict[str, np.ndarray]:
        """The three arrays."""
        return {"starts": vectors.starts, "dims": vectors.dims, "weights": vectors.weights}

    def of(self, arrays: Mapping[str, np.ndarray]) -> SparseRows:
        """Vectors over the three arrays."""
        return SparseRows(arrays["starts"], arrays["dims"], arrays["weights"])

    def write(self, folder: Path, chunks: Iterator[SparseRows], n_passages: int) -> None:
        """Append the entries; memory holds the places where vectors begin, 8 bytes each."""
        starts = array("q", [0])
        paths = [folder / name for name in self.files]
        with open(paths[1], "wb") as dims, open(paths[2], "wb") as weights:
            for rows in chunks:
                starts.extend((rows.starts[1:] + starts[-1]).tolist())
                dims.write(rows.dims.astype(np.int32).tobytes())
                weights.write(rows.weights.astype(np.float32).tobytes())
        assert len(starts) == n_passages + 1
        np.save(paths[0], np.array(starts, dtype=np.int64), allow_pickle=False)

    def open(self, folder: Path, n_passages: int) -> SparseRows:
        """Map all vectors."""
        starts = np.asarray(map_array(folder / self.files[0]))
        if len(starts) != n_passages + 1:
            raise ValueError("other vectors")
        dims, weights = (
            # An empty file cannot be mapped.
            np.memmap(folder / name, dtype, "r") if starts[-1] else np.zeros(0, dtype)
            for name, dtype in zip(self.files[1:], (np.int32, np.float32), strict=True)
        )
        return SparseRows(starts, dims, weights)
