"""DataInf: influence functions in closed form, by exchanging the inverse and the mean.

Per matrix of d weights, over the n passages' gradients g_i,

    H = (1/n) Σ_i (g_i g_iᵀ + λ I)
    H⁻¹ v ≈ (1/n) Σ_i (g_i g_iᵀ + λ I)⁻¹ v = (1 / (n λ)) Σ_i (v − (g_iᵀ v) / (λ + |g_i|²) g_i)

with λ = ``damping`` · (1 / (n d)) Σ_i |g_i|². The approximation takes the mean of the inverses for
the inverse of the mean, and each inverse is by the formula of Sherman and Morrison. Source: Kwon et
al. 2024, 2310.00902, who made it for the few weights of LoRA (``adapters=lora``); here it is for
all.

One pass over the passages finds the norms, whatever the queries. Two more follow for each group of
queries: Σ_i, and the scores. Nothing is stored.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.storage.sealed_arrays import arrays_sha256
from methods.base import IndexSize
from methods.gradient.gradient_sums import GradientSums
from methods.gradient.influence import Influence
from methods.gradient.partial_search import read_tensor, write_tensor
from methods.gradient.partial_sums import as_arrays
from methods.gradient.parts import PARTS, SUFFIX, Handed, PartsFolder


class DataInf(Influence):
    """Ranks by Σ_matrices ⟨g_m, (1/n) Σ_i (g_i g_iᵀ + λ I)⁻¹ g_q⟩.

    Passages without loss count among the n with a gradient of zero. A matrix of which all gradients
    are zero adds nothing.
    """

    def estimate(self) -> IndexSize:
        """Find λ of each matrix, in one pass over the passages."""
        sizes = self.encoder.block_sizes
        (squares,) = self.hessian_sums("squares", "gradient norms", _Squares()).tensors
        means = squares / torch.tensor(sizes) / len(self.hessian_rows())
        self._dampings = (self.config.damping * means).tolist()
        return IndexSize()

    def precondition(self, queries: Tensor) -> Tensor:
        """Multiply the queries ``[queries, dim]`` by H⁻¹, in one pass over the passages."""
        key = arrays_sha256(as_arrays([queries, torch.tensor(self._dampings)]))
        path = self.context.cache_dir / PARTS / f"queries-{key}" / f"queries{SUFFIX}"
        parts = PartsFolder(path.parent, self.context.engine, self.context.mirror)
        n_jobs = self.n_hessian_groups
        handed = parts.handed(queries, path, write_tensor, read_tensor, n_jobs)
        work = _Shares(handed, tuple(self._dampings))
        (total,) = self.hessian_sums(f"shares {key}", "DataInf", work).tensors
        shutil.rmtree(path.parent, ignore_errors=True)
        sums = total.to(queries.device)
        n_passages = len(self.hessian_rows())
        for v, part, damping in zip(
            *map(self.by_matrix, (queries, sums)), self._dampings, strict=True
        ):
            v.sub_(part.div_(n_passages)).mul_(1 / damping if damping > 0 else 0.0)
        return queries


class _Squares(GradientSums):
    """Σ_i |g_i|² of each matrix, float64 ``[matrices]``."""

    def zeros(self, sizes: list[int], device: torch.device) -> list[Tensor]:
        return [torch.zeros(len(sizes), dtype=torch.float64, device=device)]

    def add(self, sums: list[Tensor], gradients: list[Tensor]) -> None:
        sums[0] += torch.stack([g.double().square().sum() for g in gradients])


@dataclass(frozen=True)
class _Shares(GradientSums):
    """Σ_i (g_iᵀ v) / (λ + |g_i|²) g_i of each matrix, side by side, ``[queries, dim]``.

    Attributes:
        queries: v of each query, ``[queries, dim]``.
        dampings: λ of each matrix.
    """

    queries: Handed[Tensor]
    dampings: tuple[float, ...]

    def zeros(self, sizes: list[int], device: torch.device) -> list[Tensor]:  # noqa: ARG002
        return [torch.zeros_like(self.queries(), device=device)]

    def add(self, sums: list[Tensor], gradients: list[Tensor]) -> None:
        sizes = [g.shape[1] for g in gradients]
        split = (one.to(sums[0].device).split(sizes, dim=1) for one in (self.queries(), sums[0]))
        for g, v, total, damping in zip(gradients, *split, self.dampings, strict=True):
            if damping > 0:
                shares = (g @ v.T) / (damping + g.square().sum(1, keepdim=True))
                total.addmm_(shares.T, g)
