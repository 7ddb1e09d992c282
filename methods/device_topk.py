"""Running top-k of scores that lie on a GPU, where they stay."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_ROW_BITS = 32
_LAST_ROW = (1 << _ROW_BITS) - 1
_MAGNITUDE = 0x7FFFFFFF  # the bits of a float32 but its sign
_NAN_BELOW_ALL = -(1 << 22)  # as int32, the bits of a NaN with its sign set


class DeviceTopK:
    """The ``k`` best rows of each query, as ``TopK`` has them: by score, then by row.

    A score and its row are one whole number, which sorts as the two do, so that no tie is left for
    the device's own top-k to break: lists are the same for any blocks in any order. NaN comes last.

    Args:
        n_queries: the number of queries that are searched together.
        k: the length of a list; lists are shorter only if fewer rows were pushed.
        device: where the scores are.
    """

    def __init__(self, n_queries: int, k: int, device: torch.device) -> None:
        self.k = k
        self._keys = torch.empty(n_queries, 0, dtype=torch.int64, device=device)

    def push(self, scores: Tensor, first_row: int) -> None:
        """Take in a block.

        Args:
            scores: scores ``[queries, block]``, float32.
            first_row: the row of the first column, which the others follow; below 2³².

        Raises:
            ValueError: a row does not fit into a key.
        """
        if first_row + scores.shape[1] > _LAST_ROW:
            raise ValueError(f"row {first_row + scores.shape[1]:,} is beyond {_LAST_ROW:,}")
        bits = (scores + 0.0).contiguous().view(torch.int32)  # minus zero becomes zero
        bits = torch.where(scores.isnan(), _NAN_BELOW_ALL, bits)
        rows = torch.arange(first_row, first_row + scores.shape[1], device=scores.device)
        keys = (_in_order(bits).long() << _ROW_BITS) | (_LAST_ROW - rows)
        keys = torch.cat([self._keys, keys], dim=1)
        self._keys = keys.topk(min(self.k, keys.shape[1]), dim=1).values

    @property
    def scores(self) -> np.ndarray:
        """Scores of the rows pushed so far, highest first: float64 ``[queries, min(k, rows)]``."""
        bits = _in_order((self._keys >> _ROW_BITS).int())
        return bits.view(torch.float32).double().cpu().numpy()

    @property
    def rows(self) -> np.ndarray:
        """Rows of ``scores``, the lowest first among equals: int64 ``[queries, min(k, rows)]``."""
        return (_LAST_ROW - (self._keys & _LAST_ROW)).cpu().numpy()


def _in_order(bits: Tensor) -> Tensor:
    """Bits of float32 as int32 that sort as the numbers do, and the way back."""
    return bits ^ ((bits >> 31) & _MAGNITUDE)
