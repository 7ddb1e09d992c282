"""Features of queries: of each the gradient of -log P, where P is the probability of its answers.

Where several answers count, that is a weighted sum of the gradients of their losses
(``bench.models.answers``). Correction and projection are linear, so the sum is taken of raw
features; whitening and unit norm come after it. Of several checkpoints, each has its own weights:
what its model gave the answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.models.answers import answer_weights
from bench.models.language_model import Tokens
from methods.gradient.batching import Encoder, encode_all


def encode_queries(
    encoder: Encoder,
    queries: Sequence[Sequence[Tokens]],
    batch_size: int,
    batch_tokens: int | None = None,
) -> Tensor:
    """Raw features of queries, float32 ``[queries, encoder.dim]`` on the CPU.

    Beside these, no more than ``batch_size`` answers are in memory. A passage weight, if there is
    one, is not weighted: it is of passages alone.

    Args:
        queries: the answers of each query.
        batch_size, batch_tokens: as of ``encode_all``.

    Raises:
        UserError: as of ``encode_all``.
    """
    answers = [one for own in queries for one in own]
    if len(answers) == len(queries):
        return encode_all(encoder, answers, batch_size, batch_tokens)
    sizes = torch.tensor([len(own) for own in queries])
    weights = answer_weights(encoder.log_probs(answers, batch_size), sizes.tolist()).float()
    query_of = torch.arange(len(queries)).repeat_interleave(sizes)
    features = torch.zeros(len(queries), encoder.dim)
    for start in range(0, len(answers), batch_size):
        some = slice(start, start + batch_size)
        encoded = encode_all(encoder, answers[some], batch_size, batch_tokens)
        parts = encoded[:, : sum(encoder.parts)].split(encoder.parts, dim=1)
        for part, weight in zip(parts, weights[:, some], strict=True):
            part.mul_(weight[:, None])
        features.index_add_(0, query_of[some], encoded)
    return features
