"""The autocorrelation R that stands in for the Hessian: estimated, mixed, its spectrum.

Source: 2410.17413, section 3: R = λ R_eval + (1 - λ) R_train, block-diagonal; λ chosen so that
about 1,000 task-common components are weighed down: λ = σ_train[k] / (σ_eval[k] + σ_train[k]).
Every estimate is a mean over rows, not a sum, so that λ does not depend on how many passages or
queries there are (unverified: the paper does not say). All are accumulated in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.progress import say

_CPU = torch.device("cpu")
MAX_BLOCK = 8192  # an eigendecomposition above this takes minutes and gigabytes a block
CROSSING_COMPONENTS = 1000  # the paper's k
_NEARLY_QUERIES_ALONE = 0.99  # a λ above the paper's .9 and .99 is outside what it looked at


def autocorrelation(
    blocks: Sequence[int], parts: Iterable[Tensor], device: torch.device = _CPU
) -> list[Tensor]:
    """Mean of g gᵀ over all rows, one matrix a block.

    Args:
        blocks: sizes of the blocks, adding up to the feature dimension.
        parts: features ``[rows, dim]``.
        device: where it is summed up, and stays.

    Returns:
        float64 ``[size, size]`` for each block.

    Raises:
        UserError: a block is too large for its matrix.
    """
    check_blocks(blocks)
    sums = [torch.zeros(size, size, dtype=torch.float64, device=device) for size in blocks]
    n_rows = 0
    for features in parts:
        n_rows += len(features)
        split = features.to(device).double().split(list(blocks), dim=1)
        for total, part in zip(sums, split, strict=True):
            total.addmm_(part.T, part)
    return [total / max(1, n_rows) for total in sums]


def check_blocks(blocks: Sequence[int]) -> None:
    """Refuse, with a UserError, a block that is too large for its matrix."""
    if max(blocks) > MAX_BLOCK:
        raise UserError(
            f"a Hessian block of {max(blocks):,} dimensions is larger than {MAX_BLOCK:,}",
            where="method.projection_dim",
            fix="set projection_dim to 90 or less, or method.hessian_form=low_rank or diagonal",
        )


def mean_squares(dim: int, parts: Iterable[Tensor], device: torch.device = _CPU) -> Tensor:
    """The diagonal of R alone: float64 ``[dim]``, on the device."""
    total, n_rows = torch.zeros(dim, dtype=torch.float64, device=device), 0
    for features in parts:
        n_rows += len(features)
        total += features.to(device).double().square().sum(0)
    return total / max(1, n_rows)


def products(directions: Sequence[Tensor], parts: Iterable[Tensor]) -> list[Tensor]:
    """R times some directions, without R: the mean of g (gᵀ Ω).

    Args:
        directions: float64 ``[size, columns]`` for each block, on one device.

    Returns:
        float64 ``[size, columns]`` for each block, there.
    """
    sums, n_rows = [torch.zeros_like(block) for block in directions], 0
    sizes = [len(block) for block in directions]
    for features in parts:
        n_rows += len(features)
        split = features.to(sums[0].device).double().split(sizes, dim=1)
        for total, part, block in zip(sums, split, directions, strict=True):
            total.addmm_(part.T, part @ block)
    return [total / max(1, n_rows) for total in sums]


def mix(evaluation: Sequence[Tensor], train: Sequence[Tensor], mixing: float) -> list[Tensor]:
    """λ R_eval + (1 - λ) R_train: ``[size, size]`` a block, or ``[dim]``, as given."""
    return [mixing * e + (1 - mixing) * t for e, t in zip(evaluation, train, strict=True)]


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
        return rank(self.values)


def rank(values: Tensor) -> int:
    """How many of a matrix's eigenvalues are above rounding error."""
    floor = values.max() * len(values) * torch.finfo(torch.float64).eps
    return int((values > floor).sum())


def crossing_mixing(train: Sequence[Tensor], evaluation: Sequence[Tensor]) -> float:
    """λ by the crossing rule, with k capped by the rank of R_eval.

    Beyond its rank σ_eval is zero, and λ would be 1: R_train would silently play no part. Within
    it, few queries of unequal norm may come near that; it is said, since the rule has no answer.

    Args:
        train, evaluation: R of the passages and of the queries, float64 ``[size, size]`` a block.

    Raises:
        UserError: one of the two is zero.
    """
    sigma_train, sigma_eval = Spectrum.of(train), Spectrum.of(evaluation)
    k = min(CROSSING_COMPONENTS, sigma_eval.rank, sigma_train.rank)
    if k == 0:
        raise UserError(
            "mixing=auto compares spectra, and all gradients of the queries or of the passages "
            "are zero",
            where="method.mixing",
            fix="set method.mixing to a number",
        )
    at_train, at_eval = sigma_train.values[k - 1], sigma_eval.values[k - 1]
    mixing = float(at_train / (at_eval + at_train))
    if k < CROSSING_COMPONENTS:
        say(
            f"mixing=auto: the query autocorrelation has rank {sigma_eval.rank}, so the crossing "
            f"is taken at component {k}, not {CROSSING_COMPONENTS}: λ = {mixing:.4g}"
        )
    if mixing > _NEARLY_QUERIES_ALONE:
        say(
            f"mixing=auto: λ = {mixing:.6g} leaves the passages' autocorrelation next to no part, "
            f"since component {k} of the queries' is {float(at_eval / at_train):.1e} of the "
            "passages'; more queries, or a number for method.mixing, would give it one"
        )
    return mixing
