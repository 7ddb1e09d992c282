"""The autocorrelation R that stands in for the Hessian, its mixing, and R^(-1/2).

Source: 2410.17413, section 3: R = λ R_eval + (1 - λ) R_train, block-diagonal; λ chosen so that
about 1,000 task-common components are weighed down: λ = σ_train[k] / (σ_eval[k] + σ_train[k]).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import UserError

MAX_BLOCK = 8192  # an eigendecomposition above this takes minutes and gigabytes a block
CROSSING_COMPONENTS = 1000  # the paper's k


def autocorrelation(blocks: Sequence[int], shards: Iterable[Tensor]) -> list[Tensor]:
    """Mean of g gᵀ over all rows, one matrix a block, accumulated in float64.

    Mean, not sum, so that λ does not depend on how many passages or queries there are
    (unverified: the paper does not say).

    Args:
        blocks: sizes of the blocks, adding up to the feature dimension.
        shards: features ``[rows, dim]``.

    Returns:
        float64 ``[size, size]`` for each block.

    Raises:
        UserError: a block is too large for its matrix.
    """
    if max(blocks) > MAX_BLOCK:
        raise UserError(
            f"a Hessian block of {max(blocks)} dimensions is larger than {MAX_BLOCK}",
            where="method.projection_dim",
            fix="set projection_dim to 90 or less, or method.hessian=none",
        )
    sums = [torch.zeros(size, size, dtype=torch.float64) for size in blocks]
    n_rows = 0
    for shard in shards:
        n_rows += len(shard)
        for total, part in zip(sums, shard.double().split(list(blocks), dim=1), strict=True):
            total.addmm_(part.T, part)
    return [total / max(1, n_rows) for total in sums]


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a block-diagonal R, of all blocks together, descending: float64 ``[dim]``."""

    values: Tensor

    @staticmethod
    def of(blocks: Sequence[Tensor]) -> Spectrum:
        """The spectrum of the blocks."""
        values = torch.cat([torch.linalg.eigvalsh(block) for block in blocks])
        return Spectrum(values.sort(descending=True).values.clamp_min(0))

    @property
    def rank(self) -> int:
        """How many eigenvalues are above rounding error."""
        floor = self.values[0] * len(self.values) * torch.finfo(torch.float64).eps
        return int((self.values > floor).sum())


def crossing_mixing(train: Sequence[Tensor], evaluation: Sequence[Tensor]) -> float:
    """λ by the crossing rule, with k capped by the rank of R_eval.

    Beyond its rank σ_eval is zero, and λ would be 1: R_train would silently play no part.
    """
    sigma_train, sigma_eval = Spectrum.of(train), Spectrum.of(evaluation)
    k = min(CROSSING_COMPONENTS, sigma_eval.rank, sigma_train.rank)
    if k < CROSSING_COMPONENTS:
        warnings.warn(
            f"mixing=auto: the query autocorrelation has rank {sigma_eval.rank}, so the crossing "
            f"is taken at component {k}, not {CROSSING_COMPONENTS}",
            stacklevel=2,
        )
    at_train, at_eval = sigma_train.values[k - 1], sigma_eval.values[k - 1]
    return float(at_train / (at_eval + at_train))


def inverse_sqrt(blocks: Sequence[Tensor], damping: float) -> list[Tensor]:
    """R^(-1/2) of each block by symmetric eigendecomposition.

    Args:
        blocks: float64 ``[size, size]``, symmetric.
        damping: added to every eigenvalue, as a share of the block's mean eigenvalue.

    Raises:
        UserError: a block is singular and there is no damping.
    """
    roots = []
    for block in blocks:
        values, vectors = torch.linalg.eigh(block)
        floor = damping * float(values.mean().clamp_min(0))
        damped = values.clamp_min(0) + floor
        if float(damped.min()) <= float(damped.max()) * 1e-14:
            raise UserError(
                "the autocorrelation R is rank-deficient and cannot be inverted",
                where="method.damping",
                fix="set a positive damping, a smaller projection_dim, or more passages",
            )
        roots.append((vectors * damped.rsqrt()) @ vectors.T)
    return roots


def apply_blocks(features: Tensor, blocks: Sequence[Tensor]) -> Tensor:
    """Multiply each block of the features by its symmetric matrix: ``[rows, dim]``."""
    sizes = [len(block) for block in blocks]
    parts = features.split(sizes, dim=1)
    return torch.cat(
        [part @ block.to(part.dtype) for part, block in zip(parts, blocks, strict=True)], dim=1
    )
