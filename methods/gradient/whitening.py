"""Multiplying features by R^(-1/2), for three forms of R.

| form | R of a block | memory a block of n | when |
| --- | --- | --- | --- |
| full | as estimated | n² | the paper's; n up to 8,192 |
| low_rank | U Σ Uᵀ + D, r components and a diagonal | n·r | larger blocks |
| diagonal | D | n | blocks of any size |

Scores are inner products on both sides, so any W with WᵀW = R^(-1) gives the same ones; for
low_rank it is not the symmetric root.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core import progress
from bench.core.errors import UserError
from bench.storage.sealed_arrays import read_arrays, write_arrays
from methods.gradient import hessian

OVERSAMPLING = 8  # directions beyond the components; Halko et al. 2011 advise 5 to 10
LOW_RANK_PRODUCTS = 3  # of R with directions: the range, one power iteration, the fit


class Whitening(ABC):
    """Some W with WᵀW = R^(-1)."""

    @abstractmethod
    def apply(self, features: Tensor) -> Tensor:
        """W g of each row: ``[rows, dim]``; in the dtype and on the device of ``to``."""

    def transposed(self, features: Tensor) -> Tensor:
        """Wᵀ g of each row, as ``apply``; W is symmetric unless a form says otherwise."""
        return self.apply(features)

    @property
    def bytes(self) -> int:
        """Memory that it takes in float64 and, converted, in float64 at most."""
        values = [v if isinstance(v, list) else [v] for v in vars(self).values()]
        return 16 * sum(tensor.numel() for tensors in values for tensor in tensors)

    def to(self, dtype: torch.dtype, device: torch.device) -> Whitening:
        """The same in another dtype, on another device."""
        moved = {
            name: [tensor.to(device, dtype) for tensor in value]
            if isinstance(value, list)
            else value.to(device, dtype)
            for name, value in vars(self).items()
        }
        return type(self)(**moved)


@dataclass(frozen=True)
class BlockWhitening(Whitening):
    """One symmetric matrix a block.

    Attributes:
        roots: ``[size, size]`` for each block.
    """

    roots: list[Tensor]

    def apply(self, features: Tensor) -> Tensor:
        """Multiply each block of the features by its matrix."""
        parts = features.split([len(root) for root in self.roots], dim=1)
        return torch.cat([part @ root for part, root in zip(parts, self.roots, strict=True)], dim=1)


@dataclass(frozen=True)
class DiagonalWhitening(Whitening):
    """Each dimension by its own factor: ``[dim]``."""

    factors: Tensor

    def apply(self, features: Tensor) -> Tensor:
        """Multiply each dimension by its factor."""
        return features * self.factors


@dataclass(frozen=True)
class LowRankWhitening(Whitening):
    """W = (I + B (Γ - I) Bᵀ) D^(-1/2), of each block.

    Attributes:
        factors: the diagonal of D^(-1/2), ``[dim]``.
        bases: B, orthonormal, ``[size, components]``.
        gains: the diagonal of Γ - I, ``[components]``.
    """

    factors: Tensor
    bases: list[Tensor]
    gains: list[Tensor]

    def apply(self, features: Tensor) -> Tensor:
        """Scale each dimension, then the components of each block."""
        return self._by_component(features * self.factors)

    def transposed(self, features: Tensor) -> Tensor:
        """Scale the components of each block, then each dimension."""
        return self._by_component(features) * self.factors

    def _by_component(self, features: Tensor) -> Tensor:
        parts = features.split([len(basis) for basis in self.bases], dim=1)
        return torch.cat(
            [
                part + ((part @ basis) * gains) @ basis.T
                for part, basis, gains in zip(parts, self.bases, self.gains, strict=True)
            ],
            dim=1,
        )


_KIND = "whitening"
_FORMS = {form.__name__: form for form in (BlockWhitening, DiagonalWhitening, LowRankWhitening)}


def write_whitening(
    path: Path, whitening: Whitening, facts: dict[str, Any], seconds: float
) -> None:
    """Write a whitening, what is known of how it came about, and what it took, as a sealed file."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in vars(whitening).items():
        if isinstance(value, list):
            arrays |= {f"{name}.{i:05d}": one.cpu().numpy() for i, one in enumerate(value)}
        else:
            arrays[name] = value.cpu().numpy()
    about = {"form": type(whitening).__name__, "facts": facts, "seconds": seconds}
    write_arrays(path, _KIND, arrays, about)


def read_whitening(path: Path) -> tuple[Whitening, dict[str, Any], float]:
    """The whitening, the facts and the seconds of ``write_whitening``, on the CPU.

    Raises:
        DamagedError: the file is not what was written.
    """
    arrays, about = read_arrays(path, _KIND)
    fields: dict[str, Any] = {}
    for name in sorted(arrays):
        field, is_list, _ = name.partition(".")
        tensor = torch.from_numpy(arrays[name])
        if is_list:
            fields.setdefault(field, []).append(tensor)
        else:
            fields[field] = tensor
    return _FORMS[about["form"]](**fields), about["facts"], about["seconds"]


def only_whitening(path: Path) -> Whitening:
    """The whitening of ``write_whitening``, for jobs."""
    return read_whitening(path)[0]


def full(blocks: Sequence[Tensor], dampings: Sequence[float]) -> tuple[BlockWhitening, list[int]]:
    """R^(-1/2) of each block by symmetric eigendecomposition.

    Args:
        blocks: float64 ``[size, size]``, symmetric.
        dampings: what is added to every eigenvalue of each block, as a share of the block's mean
            eigenvalue.

    Returns:
        the whitening, and the rank of each block before damping.

    Raises:
        UserError: a block is singular and there is no damping.
    """
    roots, ranks = [], []
    steps = progress.track(blocks, "eigendecompositions of R", unit="blocks")
    for block, damping in zip(steps, dampings, strict=True):
        values, vectors = torch.linalg.eigh(block)
        ranks.append(hessian.rank(values))
        damped = values.clamp_min(0) + damping * values.mean().clamp_min(0)
        _refuse_singular(damped)
        roots.append((vectors * damped.rsqrt()) @ vectors.T)
    return BlockWhitening(roots), ranks


def diagonal(
    squares: Tensor, blocks: Sequence[int], dampings: Sequence[float]
) -> DiagonalWhitening:
    """R^(-1/2) from the diagonal of R alone, ``[dim]``, damped as in ``full``.

    Raises:
        UserError: a dimension is zero and there is no damping.
    """
    damped = squares + _floors(squares, blocks, dampings)
    for part in damped.split(list(blocks)):
        _refuse_singular(part)
    return DiagonalWhitening(damped.rsqrt())


def low_rank(
    squares: Tensor,
    blocks: Sequence[int],
    multiply: Callable[[list[Tensor]], list[Tensor]],
    *,
    components: int,
    dampings: Sequence[float],
    seed: int,
) -> LowRankWhitening:
    """The largest components of R, and the diagonal of what they leave.

    Three passes over the features find them (randomised range finder with one power iteration, then
    Rayleigh and Ritz; Halko et al. 2011), and no matrix ``[size, size]`` is formed. Without the
    power iteration the diagonal, a small difference of large numbers, was off by tens of percent.

    Args:
        squares: the diagonal of R, float64 ``[dim]``.
        multiply: R times the directions of each block; called three times.
        components: eigenvectors a block, at most.
        dampings: those of the blocks, as in ``full``.

    Raises:
        UserError: a dimension is zero and there is no damping.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = [min(components, size) for size in blocks]
    bases = [
        torch.randn(size, min(size, n + OVERSAMPLING), generator=generator, dtype=torch.float64)
        for size, n in zip(blocks, wanted, strict=True)
    ]
    bases = [basis.to(squares.device) for basis in bases]
    for _ in range(LOW_RANK_PRODUCTS - 1):
        bases = [torch.linalg.qr(image).Q for image in multiply(bases)]
    images = multiply(bases)
    left, floors = list(squares.split(list(blocks))), _floors(squares, blocks, dampings)
    low_rank = []  # for each block a matrix whose outer product is the part of R that is kept
    for number, (basis, image, n) in enumerate(zip(bases, images, wanted, strict=True)):
        small = basis.T @ image
        values, vectors = torch.linalg.eigh((small + small.T) / 2)
        values, vectors = values[-n:].clamp_min(0), basis @ vectors[:, -n:]
        left[number] = (left[number] - vectors.square() @ values).clamp_min(0)
        low_rank.append(vectors * values.sqrt())
    damped = torch.cat(left) + floors
    for part in damped.split(list(blocks)):
        _refuse_singular(part)
    factors = damped.rsqrt()
    scaled = [f[:, None] * a for f, a in zip(factors.split(list(blocks)), low_rank, strict=True)]
    inner = [_inner(block) for block in scaled]
    return LowRankWhitening(factors, [b for b, _ in inner], [g for _, g in inner])


def _inner(scaled: Tensor) -> tuple[Tensor, Tensor]:
    """(I + A Aᵀ)^(-1/2) as ``I + B diag(gains) Bᵀ``, from A ``[size, components]``."""
    basis, singular, _ = torch.linalg.svd(scaled, full_matrices=False)
    return basis, (1 + singular.square()).rsqrt() - 1


def _floors(squares: Tensor, blocks: Sequence[int], dampings: Sequence[float]) -> Tensor:
    """What damping adds to each dimension: a share of its block's mean eigenvalue, ``[dim]``."""
    parts = zip(squares.split(list(blocks)), dampings, strict=True)
    return torch.cat([(damping * part.mean()).expand(len(part)) for part, damping in parts])


def _refuse_singular(damped: Tensor) -> None:
    if not damped.any():  # damping is a share of the mean eigenvalue, which is zero
        raise UserError(
            "the autocorrelation R is zero: no passage or query in it has a gradient",
            where="method.hessian",
            fix="check that the texts have tokens to predict, or set method.hessian=none",
        )
    if float(damped.min()) <= float(damped.max()) * 1e-14:
        raise UserError(
            "the autocorrelation R is rank-deficient and cannot be inverted",
            where="method.damping",
            fix="set a positive damping, a smaller projection_dim, or more passages",
        )
