"""Random features of passages that are nowhere held."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from methods.gradient.source import FeatureSource


class DrawnFeatures(FeatureSource):
    """Rows drawn when they are asked for, the same for the same first row.

    Attributes:
        read: how many rows were asked for so far.
    """

    def __init__(self, n_rows: int, dim: int) -> None:
        self._n_rows, self._dim, self.read = n_rows, dim, 0

    @property
    def n_rows(self) -> int:
        return self._n_rows

    def n_blocks(self, rows_at_once: int) -> int:
        return -(-self.n_rows // rows_at_once)

    def blocks(self, rows_at_once: int) -> Iterator[tuple[int, torch.Tensor]]:
        for start in range(0, self.n_rows, rows_at_once):
            yield start, self.rows(np.arange(start, min(start + rows_at_once, self.n_rows)))

    def rows(self, rows: np.ndarray) -> torch.Tensor:
        self.read += len(rows)
        generator = torch.Generator().manual_seed(int(rows[0]))
        return torch.randn(len(rows), self._dim, generator=generator)
