"""A query's probability where several of its answers count, and what each has to do with it.

log P = log Σ_a p_a, over the answers a of ``LanguageModel.query_answers``, so that with the loss
L_a = -log p_a the gradient is that of a weighted sum of losses, ∇(-log P) = Σ_a (p_a / P) ∇L_a. Of
a query with one answer, log P is its log-probability, bit for bit, and the weight is 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.models.language_model import LanguageModel, Tokens, target_log_probs


def log_sums(log_probs: Sequence[float], sizes: Sequence[int]) -> list[float]:
    """The log of the summed probability of each query's answers (nats).

    Args:
        log_probs: log-probabilities of all queries' answers, one query behind the other.
        sizes: how many answers each query has.
    """
    parts = torch.tensor(log_probs, dtype=torch.float64).split(list(sizes))
    return [float(part.logsumexp(0)) for part in parts]


def answer_weights(log_probs: Tensor, sizes: Sequence[int]) -> Tensor:
    """The share p_a / P of each answer in its query's probability.

    Args:
        log_probs: float64 ``[..., answers]``, one query behind the other.
        sizes: how many answers each query has.

    Returns:
        float64, of the same shape; a query's shares sum to 1.
    """
    return torch.cat([part.softmax(-1) for part in log_probs.split(list(sizes), dim=-1)], dim=-1)


def query_log_probs(
    model: LanguageModel, queries: Sequence[Sequence[Tokens]]
) -> tuple[list[float], list[bool]]:
    """The log-probability of each query, and whether greedy decoding would give one of its answers.

    Args:
        model: the model that is asked.
        queries: the answers of each query, as ``LanguageModel.query_answers`` has them.

    Returns:
        two lists of length ``len(queries)``.
    """
    sizes = [len(answers) for answers in queries]
    log_probs, recalled = target_log_probs(model, [one for answers in queries for one in answers])
    places = torch.arange(len(recalled)).split(sizes)
    return log_sums(log_probs, sizes), [any(recalled[at] for at in part) for part in places]
