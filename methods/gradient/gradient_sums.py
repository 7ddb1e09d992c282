"""Sums over exact gradients of a group of passages, as a job that leaves a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.core import progress
from methods.gradient.partial_sums import Sums, write_sums
from methods.gradient.source import EncodedFeatures

MOST_GROUPS_OF_SUMS = 64  # a group's sums may be as large as the model


class GradientSums(ABC):
    """What is summed up; plain data, so that it can be sent to other processes."""

    @abstractmethod
    def zeros(self, sizes: list[int], device: torch.device) -> list[Tensor]:
        """The sums over no passages.

        Args:
            sizes: numbers of weights of the matrices.
        """

    @abstractmethod
    def add(self, sums: list[Tensor], gradients: list[Tensor]) -> None:
        """Add some passages to the sums.

        Args:
            gradients: those of each matrix, ``[passages, out · in]``.
        """


def sum_gradients(
    source: EncodedFeatures,
    work: GradientSums,
    rows: np.ndarray,
    rows_at_once: int,
    dtype: torch.dtype,
    what: str,
    target: Path,
) -> None:
    """The job of a group: the sums over the passages at these rows, encoded some at a time."""
    encoder = source.encoder.only
    sums = work.zeros(encoder.block_sizes, encoder.device)
    starts = range(0, len(rows), rows_at_once)
    for start in progress.track(starts, what, unit="blocks"):
        gradients = source.rows(rows[start : start + rows_at_once]).to(encoder.device, dtype)
        work.add(sums, list(gradients.split(encoder.block_sizes, dim=1)))
    write_sums(target, Sums(sums, len(rows), {}))
