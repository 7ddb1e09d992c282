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
    module,
    passage_ids: list[int],
    learning_rate: float,
    moments: dict | None,
    clip: float | None = 1.0,
    epsilon: float = 0.0,
):
    """A copy of the model after one step on one passage: Adafactor or Adam with fixed V, or SGD.

    ``moments``: parameter name → (row, col) for Adafactor's matrices, → (v,) for the rest.
    ``clip``: RMS that no tensor's update exceeds; None leaves them alone.
    ``epsilon``: Adam's, added to the root of a V that has no factors.
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
                update = update / (v.sqrt() + epsilon)
            if clip is not None:
                rms = update.square().mean().sqrt()
                update = update / max(1.0, float(rms) / clip)
            parameter -= learning_rate * update.to(parameter.dtype)
    return twin


def delta(module, passage_ids, prompt_ids, target_ids, learning_rate, moments, clip, epsilon):
    """(Δp, Δ log p) of the target for one step on the passage."""
    before = log_probability(module, prompt_ids, target_ids)
    twin = patched(module, passage_ids, learning_rate, moments, clip, epsilon)
    after = log_probability(twin, prompt_ids, target_ids)
    return math.exp(after) - math.exp(before), after - before


def step_facts(module, passage_ids, learning_rate, moments, clip, epsilon):
    """(Share of tensors that are shorter for the clip, RMS of the whole step), from the weights."""
    pairs = [
        dict(patched(module, passage_ids, learning_rate, moments, c, epsilon).named_parameters())
        for c in (None, clip)
    ]
    lengths, total, n = [], 0.0, 0
    for name, weight in module.named_parameters():
        free, held = ((twin[name] - weight).double().norm().item() for twin in pairs)
        lengths.append(held < free * (1 - 1e-9))
        total += held**2
        n += weight.numel()
    return sum(lengths) / len(lengths), math.sqrt(total / n)
