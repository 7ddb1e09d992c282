"""-log of the summed probability of several answers, written out, for autograd to take apart."""

from __future__ import annotations

import torch
from torch import Tensor


def log_probability(module, prompt: list[int], answer: list[int]) -> Tensor:
    """Log-probability of an answer's tokens behind the prompt's, one position at a time."""
    ids = [*prompt, *answer]
    logits = module(input_ids=torch.tensor([ids])).logits[0]
    return sum(torch.log_softmax(logits[t - 1], -1)[ids[t]] for t in range(len(prompt), len(ids)))


def loss(module, prompt: list[int], answers: list[list[int]]) -> Tensor:
    """-log Σ p."""
    return -sum(torch.exp(log_probability(module, prompt, one)) for one in answers).log()


def gradients(module, prompt: list[int], answers: list[list[int]], matrices: list[str]) -> list:
    """The gradient of each named matrix, as arrays."""
    parameters = dict(module.named_parameters())
    grads = torch.autograd.grad(
        loss(module, prompt, answers), [parameters[name] for name in matrices]
    )
    return [gradient.numpy() for gradient in grads]
