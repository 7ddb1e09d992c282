"""The autocorrelation R that stands in for the Hessian: estimated, mixed, its spectrum.

Source: 2410.17413, section 3: R = λ R_eval + (1 - λ) R_train, block-diagonal; λ chosen so that
about 1,000 task-common components of 65,536 are weighed down: λ = σ_train[k] / (σ_eval[k] +
σ_train[k]).
Every estimate is a mean over rows, not a sum, so that λ does not depend on how many passages or
queries there are (unverified: the paper does not say). All are accumulated in float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.core import progress
from bench.core.errors import UserError
from methods.gradient.parts import Handed

MAX_BLOCK = 8192  # an eigendecomposition above this takes minutes and gigabytes a block
CROSSING_SHARE = 1000 / 2**16  # the paper's k, about 1,000, of its 2^16 dimensions
# The bound on an automatic λ: the larger of the paper's two. Beyond it R_train is next to nothing.
MOST_MIXING = 0.99

_CPU = torch.device("cpu")
_FIX = "set method.mixing to a number (0.9 is the paper's for T-REx), or ask more queries"


class Statistic(ABC):
    """A sum over rows of features, from which some form of R is made; sums of parts add up."""

    @property
    @abstractmethod
    def key(self) -> list[Any]:
        """What tells it from other statistics, as a JSON value."""

    @abstractmethod
    def zeros(self, device: torch.device) -> list[Tensor]:
        """The sums over no rows, float64."""

    @abstractmethod
    def add(self, sums: list[Tensor], features: Tensor) -> None:
        """Add some rows, ``[rows, dim]`` in any dtype and on any device, to the sums."""

    def sums(self, parts: Iterable[Tensor], device: torch.device) -> tuple[list[Tensor], int]:
        """The sums over all rows, on the device, and how many rows there are."""
        sums, n_rows = self.zeros(device), 0
        for features in parts:
            n_rows += len(features)
            self.add(sums, features)
        return sums, n_rows

    def mean(self, parts: Iterable[Tensor], device: torch.device = _CPU) -> list[Tensor]:
        """The means over all rows, on the device; zeros where there are none."""
        sums, n_rows = self.sums(parts, device)
        return [total / max(1, n_rows) for total in sums]


@dataclass(frozen=True)
class Outer(Statistic):
    """Σ g gᵀ, whose mean is R: float64 ``[size, size]`` for each block.

    Attributes:
        blocks: sizes of the blocks, adding up to the feature dimension.

    Raises:
        UserError: a block is too large for its matrix.
    """

    blocks: Sequence[int]

    def __post_init__(self) -> None:
        check_blocks(self.blocks)

    @property
    def key(self) -> list[Any]:
        """See ``Statistic.key``."""
        return [type(self).__name__, list(self.blocks)]

    def zeros(self, device: torch.device) -> list[Tensor]:
        """See ``Statistic.zeros``."""
        return [torch.zeros(n, n, dtype=torch.float64, device=device) for n in self.blocks]

    def add(self, sums: list[Tensor], features: Tensor) -> None:
        """See ``Statistic.add``."""
        split = features.to(sums[0].device).double().split(list(self.blocks), dim=1)
        for total, part in zip(sums, split, strict=True):
            total.addmm_(part.T, part)


@dataclass(frozen=True)
class Squares(Statistic):
    """Σ g², whose mean is the diagonal of R: float64 ``[dim]``."""

    dim: int

    @property
    def key(self) -> list[Any]:
        """See ``Statistic.key``."""
        return [type(self).__name__, self.dim]

    def zeros(self, device: torch.device) -> list[Tensor]:
        """See ``Statistic.zeros``."""
        return [torch.zeros(self.dim, dtype=torch.float64, device=device)]

    def add(self, sums: list[Tensor], features: Tensor) -> None:
        """See ``Statistic.add``."""
        sums[0] += features.to(sums[0].device).double().square().sum(0)


@dataclass(frozen=True)
class Products(Statistic):
    """Σ g (gᵀ Ω), whose mean is R times some directions Ω, without R.

    Attributes:
        directions: float64 ``[size, columns]`` for each block; the sums are of the same shapes.
        name: what tells the directions from others.
    """

    directions: Handed[Sequence[Tensor]]
    name: str = ""

    @property
    def key(self) -> list[Any]:
        """See ``Statistic.key``."""
        return [type(self).__name__, self.name]

    def zeros(self, device: torch.device) -> list[Tensor]:
        """See ``Statistic.zeros``."""
        return [torch.zeros_like(block, device=device) for block in self.directions()]

    def add(self, sums: list[Tensor], features: Tensor) -> None:
        """See ``Statistic.add``."""
        device, directions = sums[0].device, self.directions()
        sizes = [len(block) for block in directions]
        split = features.to(device).double().split(sizes, dim=1)
        for total, part, block in zip(sums, split, directions, strict=True):
            total.addmm_(part.T, part @ block.to(device))


def check_blocks(blocks: Sequence[int]) -> None:
    """Refuse, with a UserError, a block that is too large for its matrix."""
    if max(blocks) > MAX_BLOCK:
        raise UserError(
            f"a Hessian block of {max(blocks):,} dimensions is larger than {MAX_BLOCK:,}",
            where="method.projection_dim",
            fix="set projection_dim to 90 or less, or method.hessian_form=low_rank or diagonal",
        )


def mix(evaluation: Sequence[Tensor], train: Sequence[Tensor], mixing: float) -> list[Tensor]:
    """λ R_eval + (1 - λ) R_train: ``[size, size]`` a block, or ``[dim]``, as given."""
    return [mixing * e + (1 - mixing) * t for e, t in zip(evaluation, train, strict=True)]


def spectra(blocks: Sequence[Tensor], whose: str) -> list[Tensor]:
    """Eigenvalues of each block of an R, ascending: float64 ``[size]``, none below zero.

    Args:
        blocks: float64 ``[size, size]``, symmetric.
        whose: what R is from, for the progress.
    """
    steps = progress.track(blocks, f"spectrum of R of the {whose}", unit="blocks")
    return [torch.linalg.eigvalsh(block).clamp_min(0) for block in steps]


def rank(values: Tensor) -> int:
    """How many of a matrix's eigenvalues are above rounding error."""
    floor = values.max() * len(values) * torch.finfo(torch.float64).eps
    return int((values > floor).sum())


def crossing_component(dim: int) -> int:
    """k of the crossing rule, counted from 1: the paper's share of ``dim`` dimensions."""
    return max(1, round(CROSSING_SHARE * dim))


def refuse_too_few(blocks: Sequence[int], n_queries: int) -> None:
    """Refuse, before anything is encoded, what the crossing rule has no answer for.

    Each block of R of the queries has at most as many components as there are queries: where all
    together are fewer than k, σ_eval[k] is zero and λ is 1.

    Args:
        n_queries: how many queries R_eval would be from.

    Raises:
        UserError: there are too few queries.
    """
    k = crossing_component(sum(blocks))
    most = sum(min(size, n_queries) for size in blocks)
    if most < k:
        raise UserError(
            f"mixing=auto compares component {k:,} of the spectra ({CROSSING_SHARE:.1%} of "
            f"{sum(blocks):,} dimensions), and R of {n_queries:,} queries has at most {most:,}",
            where="method.mixing",
            fix=_FIX,
        )


def crossing_mixing(train: Sequence[Tensor], evaluation: Sequence[Tensor]) -> float:
    """λ = σ_train[k] / (σ_eval[k] + σ_train[k]), σ the sorted eigenvalues of all blocks together.

    k is the paper's share of the dimensions, 1,000 of 65,536 (2410.17413, section 3), so that the
    same share of task-common components is weighed down at any size. It is not bounded by the rank
    of R_eval: components at the end of its rank are next to zero, and would make λ nearly 1.

    Args:
        train, evaluation: eigenvalues of R of the passages and of the queries, ``[size]`` a block.

    Returns:
        λ, at most ``MOST_MIXING``.

    Raises:
        UserError: λ would be larger, or both eigenvalues are zero.
    """
    sorted_train, sorted_eval = (
        torch.cat(list(values)).sort(descending=True).values for values in (train, evaluation)
    )
    k = crossing_component(len(sorted_train))
    at_train, at_eval = float(sorted_train[k - 1]), float(sorted_eval[k - 1])
    if at_train <= 0:
        raise UserError(
            f"mixing=auto compares component {k:,} of the spectra, and R of the passages has none",
            where="method.mixing",
            fix="check that the passages have tokens to predict, or set method.mixing to a number",
        )
    mixing = at_train / (at_eval + at_train)
    if mixing > MOST_MIXING:
        raise UserError(
            f"mixing=auto gives λ = {mixing:.6g}, which leaves R of the passages next to no part: "
            f"component {k:,} of R of the queries is {at_eval / at_train:.2g} times theirs (the "
            f"paper's λ are 0.9 and {MOST_MIXING:g})",
            where="method.mixing",
            fix=_FIX,
        )
    return mixing


def mean_leverage(root: Tensor, evaluation: Tensor, mixing: float, n_queries: int) -> float:
    """A query's mean part in its own R: the mean over queries of h = (λ / n) gᵀ R⁻¹ g, in [0, 1).

    R holds the query's own outer product with the weight λ / n. By Sherman and Morrison's formula
    that part alone makes the query's whitened square gᵀ R⁻¹ g smaller by the factor 1 - h. At 0 a
    query has no part in what it is whitened by; near 1 whitening takes away what is its own. The
    mean over queries is (λ / n) tr(R⁻¹ R_eval).

    Args:
        root: R^(-1/2) of a block, damping included, ``[size, size]``.
        evaluation: R_eval of the block, ``[size, size]``.
        mixing: λ.
        n_queries: n, how many queries R_eval is from.
    """
    return mixing / n_queries * float(((root @ evaluation) * root).sum())
