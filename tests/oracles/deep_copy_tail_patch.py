"""Tail-patch the slow way: a deep copy of the model for each pair. Shares no code with metrics."""

from __future__ import annotations

import copy
import math

import torch


def log_probability(module, prompt_ids: list[int], target_ids: list[int]) -> float:
    """Log-probability of the target's tokens after the prompt's, one position at a time."""
    ids = [*prompt_ids, *target_ids]
    logits = module(input_ids=torch.tensor([ids])).logits[0].detach().double()
    return sum(
        float(torch.log_softmax(logits[position - 1], -1)[ids[position]])
        for position in range(len(prompt_ids), len(ids))
    )


def patched(
    module, passage_ids: list[int], learning_rate: float, moments: dict | None, clip: bool = True
):
    """A copy of the model after one step on one passage: Adafactor or Adam with fixed V, or SGD.

    ``moments``: parameter name → (row, col) for Adafactor's matrices, → (v,) for the rest.
    ``clip``: whether updates are clipped, as Adafactor's are. Without it, it is Adam's, with its ε.
    """
    twin = copy.deepcopy(module)
    twin.eval().requires_grad_(True)
    ids = torch.tensor([passage_ids])
    # Not transformers' own loss, which rounds the logits to float32.
    logits = twin(input_ids=ids).logits[0]
    torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:]).backward()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if parameter.grad is None:
                continue
            update = parameter.grad.double()
            if moments is not None:
                entry = [m.double() for m in moments[name]]
                v = entry[0]
                if len(entry) == 2:
                    v = torch.outer(entry[0], entry[1]) / entry[0].mean()
                update = update / (v.sqrt() + (0 if clip else 1e-8))
                if clip:
                    rms = update.square().mean().sqrt()
                    update = update / max(1.0, float(rms))
            parameter -= learning_rate * update.to(parameter.dtype)
    return twin


def delta(module, passage_ids, prompt_ids, target_ids, learning_rate, moments, clip=True):
    """(Δp, Δ log p) of the target for one step on the passage."""
    before = log_probability(module, prompt_ids, target_ids)
    twin = patched(module, passage_ids, learning_rate, moments, clip)
    after = log_probability(twin, prompt_ids, target_ids)
    return math.exp(after) - math.exp(before), after - before
