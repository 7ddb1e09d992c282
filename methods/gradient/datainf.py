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

import torch
from torch import Tensor

from methods.base import IndexSize
from methods.gradient.influence import Influence


class DataInf(Influence):
    """Ranks by Σ_matrices ⟨g_m, (1/n) Σ_i (g_i g_iᵀ + λ I)⁻¹ g_q⟩.

    Passages without loss count among the n with a gradient of zero. A matrix of which all gradients
    are zero adds nothing.
    """

    def estimate(self) -> IndexSize:
        """Find λ of each matrix, in one pass over the passages."""
        sizes = self.encoder.block_sizes
        squares = torch.zeros(len(sizes), dtype=torch.float64, device=self.encoder.device)
        for block in self.hessian_gradients("gradient norms"):
            squares += torch.stack([g.double().square().sum() for g in self.by_matrix(block)])
        means = squares.cpu() / torch.tensor(sizes) / len(self.hessian_rows())
        self._dampings = (self.config.damping * means).tolist()
        return IndexSize()

    def precondition(self, queries: Tensor) -> Tensor:
        """Multiply the queries ``[queries, dim]`` by H⁻¹, in one pass over the passages."""
        sums = torch.zeros_like(queries)
        n_passages = len(self.hessian_rows())
        for block in self.hessian_gradients("DataInf"):
            for g, v, total, damping in zip(
                *map(self.by_matrix, (block, queries, sums)), self._dampings, strict=True
            ):
                if damping > 0:
                    shares = (g @ v.T) / (damping + g.square().sum(1, keepdim=True))
                    total.addmm_(shares.T, g)
        for v, total, damping in zip(
            *map(self.by_matrix, (queries, sums)), self._dampings, strict=True
        ):
            v.sub_(total.div_(n_passages)).mul_(1 / damping if damping > 0 else 0.0)
        return queries
