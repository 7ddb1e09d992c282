"""How a feature row is stored: four formats, from four bytes a dimension to one bit.

Only passages are stored. Queries keep full precision, so a score has the error of one side alone.

| storage | bytes a dimension | what is kept |
| --- | --- | --- |
| fp32 | 4 | the features |
| bf16 | 2 | 8 significant bits of each |
| int8 | 1 + 2/64 | codes from -127 to 127, a scale for each 64 dimensions |
| sign | 1/8 + 2/256 | a bit for each, a scale for each 256 dimensions: their mean magnitude |

A row of int8 or sign is a record of bytes: codes first, then scales as bfloat16. So each format is
one array ``[rows, width]`` in one file, and any row of it can be read alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as torch's own documentation has it

from methods.gradient.settings import Storage
from methods.vector_search import as_tensor


class Codec(ABC):
    """One format, for rows of ``dim`` dimensions.

    Args:
        weighted: whether the last dimension is no gradient, but a weight on a scale of its own.
    """

    def __init__(self, dim: int, weighted: bool) -> None:
        self.dim, self._weighted = dim, weighted

    @property
    @abstractmethod
    def bytes_per_row(self) -> int:
        """Bytes that a row takes on disk."""

    @abstractmethod
    def encode(self, features: Tensor) -> np.ndarray:
        """The stored form ``[rows, width]`` of features, float32 ``[rows, dim]``."""

    @abstractmethod
    def decode(self, stored: np.ndarray) -> Tensor:
        """Features, float32 ``[rows, dim]``, of their stored form, whose memory they may share."""


class _Float32(Codec):
    @property
    def bytes_per_row(self) -> int:
        return 4 * self.dim

    def encode(self, features: Tensor) -> np.ndarray:
        return features.numpy()

    def decode(self, stored: np.ndarray) -> Tensor:
        return as_tensor(stored)


class _BFloat16(Codec):
    """Features in bfloat16, kept as ``uint16`` since numpy has no such type."""

    @property
    def bytes_per_row(self) -> int:
        return 2 * self.dim

    def encode(self, features: Tensor) -> np.ndarray:
        return features.to(torch.bfloat16).view(torch.uint16).numpy()

    def decode(self, stored: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(stored)).view(torch.bfloat16).float()


class _Scaled(Codec):
    """Codes with a scale for each ``group`` dimensions; the last group may be shorter.

    A weight is a group of its own: in a group of gradients it would be rounded by their scale.
    """

    group: int

    @property
    def n_groups(self) -> int:
        """Number of scales of a row."""
        return len(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        """Number of dimensions of each group."""
        gradients = self.dim - self._weighted
        full, rest = divmod(gradients, self.group)
        return [self.group] * full + [rest] * (rest > 0) + [1] * self._weighted

    def _grouped(self, features: Tensor) -> Tensor:
        """Features by group, ``[rows, groups, group]``, filled up with zeros."""
        gradients = self.dim - self._weighted
        parts = [features[:, :gradients], features[:, gradients:]]
        filled = [F.pad(part, (0, -part.shape[1] % self.group)) for part in parts]
        return torch.cat(filled, dim=1).unflatten(1, (self.n_groups, self.group))

    def _flat(self, grouped: Tensor) -> Tensor:
        """Features ``[rows, dim]`` again, without what was filled up."""
        flat, gradients = grouped.flatten(1), self.dim - self._weighted
        if not self._weighted:
            return flat[:, :gradients]
        return torch.cat([flat[:, :gradients], flat[:, -self.group, None]], dim=1)

    def _scale(self, grouped: Tensor, scales: Tensor) -> Tensor:
        return self._flat(grouped.mul_(scales[:, :, None]))

    def _scales(self, stored: np.ndarray) -> Tensor:
        """Scales, float32 ``[rows, groups]``, from the end of each record."""
        tail = np.ascontiguousarray(stored[:, -2 * self.n_groups :]).view(np.uint16)
        return torch.from_numpy(tail.astype(np.int32) << 16).view(torch.float32)


class _Int8(_Scaled):
    """Whole numbers of steps; 127 steps are the largest magnitude of a group."""

    group = 64

    @property
    def bytes_per_row(self) -> int:
        return self.dim + 2 * self.n_groups

    def encode(self, features: Tensor) -> np.ndarray:
        grouped = self._grouped(features)
        # Scales are rounded up, so that the largest of a group still fits into 127 steps.
        bits, scales = _bfloat16_above(grouped.abs().amax(2) / 127)
        steps = torch.where(scales > 0, scales, 1.0)
        codes = (grouped / steps[:, :, None]).round_().clamp_(-127, 127).to(torch.int8)
        return _records(self._flat(codes).contiguous().numpy().view(np.uint8), bits)

    def decode(self, stored: np.ndarray) -> Tensor:
        codes = torch.from_numpy(stored[:, : self.dim].view(np.int8).astype(np.float32))
        return self._scale(self._grouped(codes), self._scales(stored))


class _Sign(_Scaled):
    """Signs; the scale is the mean magnitude, which leaves the least squared error."""

    group = 256

    @property
    def bytes_per_row(self) -> int:
        return -(-self.dim // 8) + 2 * self.n_groups

    def encode(self, features: Tensor) -> np.ndarray:
        sizes = torch.tensor(self._sizes)
        bits, _ = _bfloat16_above(self._grouped(features).abs().sum(2) / sizes)
        return _records(np.packbits(features.numpy() > 0, axis=1), bits)

    def decode(self, stored: np.ndarray) -> Tensor:
        n_bytes = -(-self.dim // 8)
        signs = torch.from_numpy(_SIGNS_OF_BYTE[stored[:, :n_bytes]].reshape(len(stored), -1))
        return self._scale(self._grouped(signs[:, : self.dim]), self._scales(stored))


# The eight signs that each byte stands for.
_SIGNS_OF_BYTE = (
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1) * np.float32(2) - 1
)


def _bfloat16_above(values: Tensor) -> tuple[np.ndarray, Tensor]:
    """The next bfloat16 that is not smaller than each value from 0: its bits, and in float32."""
    bits = values.float().contiguous().numpy().view(np.uint32)
    upper = ((bits.astype(np.uint64) + 0xFFFF) >> 16).astype(np.uint16)
    upper = np.minimum(upper, np.uint16(0x7F7F))  # the largest finite one
    return upper, torch.from_numpy(upper.astype(np.int32) << 16).view(torch.float32)


def _records(codes: np.ndarray, scale_bits: np.ndarray) -> np.ndarray:
    return np.concatenate([codes, np.ascontiguousarray(scale_bits).view(np.uint8)], axis=1)


_CODECS: dict[Storage, type[Codec]] = {
    Storage.fp32: _Float32,
    Storage.bf16: _BFloat16,
    Storage.int8: _Int8,
    Storage.sign: _Sign,
}


def make_codec(storage: Storage, dim: int, *, weighted: bool = False) -> Codec:
    """The codec of a format for rows of ``dim`` dimensions; ``none`` has none and is a ValueError.

    Args:
        weighted: whether the last dimension is a weight, not a gradient's.
    """
    if storage not in _CODECS:
        raise ValueError("storage none stores nothing")
    return _CODECS[storage](dim, weighted)
