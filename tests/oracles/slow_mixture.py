"""A mixture of experts in plain layers: every expert computes every token, most of them zeros."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bench.models.language_model import LanguageModel


def in_plain_layers(model: LanguageModel) -> LanguageModel:
    """A float64 copy of a Mixtral model whose routers and experts are ``nn.Linear`` each."""
    twin = copy.copy(model)
    twin.module = copy.deepcopy(model.module).double()
    for layer in twin.module.model.layers:  # type: ignore[union-attr]
        layer.mlp = _Mixture(layer.mlp)
    return twin


class _Mixture(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.gate = _linear(block.gate.weight)
        self.up = nn.ModuleList(_linear(one) for one in block.experts.gate_up_proj)
        self.down = nn.ModuleList(_linear(one) for one in block.experts.down_proj)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(flat).float().softmax(-1).topk(2)
        weights = weights / weights.sum(-1, keepdim=True)
        total = torch.zeros_like(flat)
        for expert, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            is_sent = chosen == expert
            gate, value = up(flat * is_sent.any(-1, keepdim=True)).chunk(2, dim=-1)
            own = (weights * is_sent).sum(-1, keepdim=True)
            total = total + own * down(nn.functional.silu(gate) * value)
        return total.reshape(x.shape)


def _linear(weight: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    made.weight = nn.Parameter(weight.detach().clone())
    return made
