"""Random Gaussian projections from a counter-based generator, so that none need be stored.

Row ``i`` of a projection is a function of (seed, matrix name, side, i) alone. So a smaller
dimension is a prefix of a larger one (up to the common scale), and neither device nor shard nor the
order of matrices plays a part.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def projection(seed: int, name: str, side: str, dim: int, size: int) -> Tensor:
    """A projection ``P`` with E⟨Px, Py⟩ = ⟨x, y⟩.

    Args:
        name: name of the weight matrix.
        side: ``"out"`` or ``"in"``.

    Returns:
        P, float64 ``[dim, size]``, with normal entries of variance ``1 / dim``.
    """
    digest = hashlib.sha256(f"{seed}/{side}/{name}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype=np.uint64)
    rows = [_normals(key, row, size) for row in range(dim)]
    return torch.from_numpy(np.stack(rows)) / dim**0.5


def _normals(key: np.ndarray, row: int, size: int) -> np.ndarray:
    """Standard normals of one row, by Box-Muller on Philox's raw output.

    numpy promises that Philox's raw stream never changes; it does not promise so for its normals.
    """
    pairs = (size + 1) // 2
    raw = np.random.Philox(key=key, counter=[0, 0, row, 0]).random_raw(2 * pairs)
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # never 0
    radius = np.sqrt(-2.0 * np.log(uniform[:pairs]))
    angle = 2.0 * np.pi * uniform[pairs:]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:size]
