"""Scores taken apart by token the slow way: hooks, outer products, dense projections, float64.

Nothing of the engine's collectors is used: one position at a time, δ_t x_tᵀ is written out, divided
by √V, projected and whitened, as if that position alone made up the passage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.models.language_model import LanguageModel, Tokens
from methods.gradient.parameters import gradient_matrices
from methods.gradient.projection import projection
from tests.fixtures.switches import switches
from tests.oracles.projected_gradients import full_v


def token_features(
    model: LanguageModel, tokens: Tokens, kind: str | None, dim: int | None
) -> np.ndarray:
    """Raw features of each position of a text, ``[tokens, dim]``; they sum to the text's own."""
    module = model.module.double().requires_grad_(True)
    matrices = gradient_matrices(module, switches())
    factors: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str):
        def hook(_, inputs, output):
            output.retain_grad()
            factors[name] = inputs[0].detach()[0], output

        return hook

    handles = [one.module.register_forward_hook(note(one.name)) for one in matrices]
    logits = module(input_ids=torch.tensor([tokens.ids])).logits[0]
    for handle in handles:
        handle.remove()
    loss = torch.zeros((), dtype=torch.float64)
    for position in range(tokens.loss_from, len(tokens.ids)):
        loss = loss - torch.log_softmax(logits[position - 1], -1)[tokens.ids[position]]
    loss.backward()
    rows = []
    for position in range(len(tokens.ids)):
        blocks: dict[int, list[Tensor]] = {}
        for matrix in matrices:
            x, output = factors[matrix.name]
            gradient = torch.outer(output.grad[0, position], x[position])  # [out, in]
            if kind is not None:
                v = full_v(model, matrix.name, kind)
                gradient = gradient / (v.T if matrix.transposed else v).sqrt()
            if dim is not None:
                left = projection(0, matrix.name, "out", dim, gradient.shape[0])
                right = projection(0, matrix.name, "in", dim, gradient.shape[1])
                gradient = left @ gradient @ right.T
            blocks.setdefault(matrix.block, []).append(gradient.flatten())
        joined = [torch.cat(g) if dim is None else sum(g) for _, g in sorted(blocks.items())]
        rows.append(torch.cat(joined).detach().numpy())
    module.requires_grad_(False)
    return np.stack(rows)


def shares(
    by_token: Sequence[np.ndarray],
    queries: np.ndarray,
    roots: Sequence[np.ndarray] | None,
    unit_norm: bool,
) -> list[list[np.ndarray]]:
    """The shares of each passage's tokens in its score, by query and passage.

    Args:
        by_token: ``token_features`` of each passage.
        queries: raw features of the queries, ``[queries, dim]``.
        roots: R^(-1/2) of each block; None where there is none.
    """

    def whitened(rows: np.ndarray) -> np.ndarray:
        if roots is None:
            return rows
        ends = np.cumsum([len(root) for root in roots])[:-1]
        parts = np.split(rows, ends, axis=1)
        return np.concatenate([p @ r for p, r in zip(parts, roots, strict=True)], axis=1)

    asked = whitened(queries)
    if unit_norm:
        asked = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    found = []
    for query in asked:
        of_query = []
        for rows in by_token:
            finished = whitened(rows)
            norm = np.linalg.norm(finished.sum(0)) if unit_norm else 1.0
            of_query.append(finished @ query / norm)
        found.append(of_query)
    return found


def roots_of(
    passages: np.ndarray, queries: np.ndarray, sizes: Sequence[int], mixing: float, damping: float
) -> list[np.ndarray]:
    """R^(-1/2) of each block, R mixed from both sides, each ``[rows, dim]``."""
    ends = np.cumsum(sizes)[:-1]
    sides = [np.split(side, ends, axis=1) for side in (passages, queries)]
    roots = []
    for p, q in zip(*sides, strict=True):
        r = mixing * q.T @ q / len(q) + (1 - mixing) * p.T @ p / len(p)
        values, vectors = np.linalg.eigh(r)
        damped = np.maximum(values, 0) + damping * values.mean()
        roots.append(vectors @ np.diag(damped**-0.5) @ vectors.T)
    return roots
