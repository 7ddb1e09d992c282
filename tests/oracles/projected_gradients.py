"""Projected gradients of one example at a time: autograd, V in full, dense projections."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.models.language_model import LanguageModel, Tokens
from bench.models.second_moments import Factored
from methods.gradient.parameters import gradient_matrices
from methods.gradient.projection import projection
from methods.gradient.settings import Unsupported
from tests.fixtures.switches import switches


def oracle(
    model: LanguageModel,
    tokens: Tokens,
    kind: str | None,
    dim: int | None,
    unsupported: Unsupported = Unsupported.refuse,
) -> Tensor:
    """One example at a time: autograd, V in full, dense projections. Shares no hook."""
    module = model.module.double().requires_grad_(True)
    module.zero_grad()
    ids = torch.tensor([tokens.ids])
    logits = module(input_ids=ids).logits[0]
    loss = 0.0
    for position in range(tokens.loss_from, len(tokens.ids)):
        loss = loss - torch.log_softmax(logits[position - 1], -1)[tokens.ids[position]]
    loss.backward()
    blocks: dict[int, list[Tensor]] = {}
    for matrix in gradient_matrices(module, switches(unsupported=unsupported)):
        gradient = module.get_parameter(matrix.parameter).grad
        if kind is not None:
            gradient = gradient / full_v(model, matrix.parameter, kind).sqrt()
        if matrix.expert is not None:
            gradient = gradient[matrix.expert]
        if matrix.transposed:
            gradient = gradient.T
        if dim is not None:
            left = projection(0, matrix.name, "out", dim, gradient.shape[0])
            right = projection(0, matrix.name, "in", dim, gradient.shape[1])
            gradient = left @ gradient @ right.T
        blocks.setdefault(matrix.block, []).append(gradient.flatten())
    joined = [torch.cat(g) if dim is None else sum(g) for _, g in sorted(blocks.items())]
    return torch.cat(joined).detach()


def full_v(model: LanguageModel, name: str, kind: str) -> Tensor:
    moment = model.second_moments.by_name[name]
    if kind == "adafactor":
        assert isinstance(moment, Factored)
        row, col = moment.row.double(), moment.col.double()
        return row[..., :, None] * col[..., None, :] / row.mean(-1)[..., None, None]
    return (moment.value.double().sqrt() + 1e-8).square()
