"""TrackStar and its ablations by brute force: numpy and autograd, no code shared with the engine.

Exact gradients (no projection), one block a layer group and kind, everything in float64.
"""

from __future__ import annotations

import numpy as np
import torch


def gradients(module, texts: list[tuple[list[int], int]], matrices: list[str]) -> list[list]:
    """For each (token ids, first counted token): the loss gradient of each named matrix."""
    parameters = dict(module.named_parameters())
    found = []
    for ids, loss_from in texts:
        logits = module(input_ids=torch.tensor([ids])).logits[0]
        loss = -sum(
            torch.log_softmax(logits[t - 1], -1)[ids[t]] for t in range(loss_from, len(ids))
        )
        grads = torch.autograd.grad(loss, [parameters[name] for name in matrices])
        found.append([g.numpy() for g in grads])
    return found


def features(grads, blocks: list[list[int]], second_moments: list[tuple] | None) -> list[list]:
    """Divide by sqrt(V), V = r cᵀ / mean(r), and lay each block's matrices side by side."""
    rows = []
    for example in grads:
        if second_moments is not None:
            example = [
                g / np.sqrt(np.outer(r, c) / r.mean())
                for g, (r, c) in zip(example, second_moments, strict=True)
            ]
        rows.append([np.concatenate([example[i].ravel() for i in block]) for block in blocks])
    return rows


def scores(train, queries, hessian: str, mixing: float, damping: float, unit_norm: bool):
    """``[queries, train]`` scores: R^(-1/2) by block, then the norm over all blocks together."""
    done = []
    for b in range(len(train[0])):
        t, q = np.stack([x[b] for x in train]), np.stack([x[b] for x in queries])
        if hessian != "none":
            r = t.T @ t / len(t)
            if hessian == "mixed":
                r = mixing * (q.T @ q / len(q)) + (1 - mixing) * r
            values, vectors = np.linalg.eigh(r)
            values = np.maximum(values, 0) + damping * values.mean()
            root = vectors @ np.diag(values**-0.5) @ vectors.T
            t, q = t @ root, q @ root
        done.append((t, q))
    t = np.concatenate([part for part, _ in done], axis=1)
    q = np.concatenate([part for _, part in done], axis=1)
    if unit_norm:
        t, q = t / np.linalg.norm(t, axis=1)[:, None], q / np.linalg.norm(q, axis=1)[:, None]
    return q @ t.T
