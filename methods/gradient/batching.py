"""Batches by length and token budget, made smaller when memory runs out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench import memory, progress
from bench.errors import UserError
from bench.models.language_model import Tokens
from methods.gradient.checkpoints import CheckpointEncoder
from methods.gradient.encoder import GradientEncoder

Encoder = GradientEncoder | CheckpointEncoder

# What allocators of torch say where there is no exception of their own for it.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def encode_all(
    encoder: Encoder,
    tokens: Sequence[Tokens],
    batch_size: int,
    batch_tokens: int | None = None,
) -> Tensor:
    """Features of many texts: float32 ``[len(tokens), encoder.dim]`` on the CPU, in their order.

    Runs out of memory? The batch is halved, and no later one is as large; that is said once.

    Args:
        batch_size: texts in a batch, at most.
        batch_tokens: tokens in a batch, padding included, at most; one text may exceed it. None
            sets no bound.

    Raises:
        UserError: a single text does not fit into memory, or a gradient is not finite.
    """
    features = torch.empty(len(tokens), encoder.dim, dtype=torch.float32)
    lengths = [len(text.ids) for text in tokens]
    # The longest first: if memory is short, it shows at once. Equal lengths keep their order.
    waiting = sorted(range(len(tokens)), key=lambda row: -lengths[row])
    with progress.counted("encode", len(tokens), unit="texts") as advance:
        while waiting:
            rows = waiting[: _fitting(lengths[waiting[0]], batch_size, batch_tokens, encoder)]
            encoded = _encode(encoder, [tokens[row] for row in rows])
            if encoded is None:
                _lower_limit(encoder, len(rows), lengths[rows[0]])
                continue
            features[rows] = encoded
            waiting = waiting[len(rows) :]
            advance(len(rows))
    memory.give_back()
    return features


def _fitting(longest: int, batch_size: int, batch_tokens: int | None, encoder: Encoder) -> int:
    bounds = [bound for bound in (batch_tokens, encoder.fitting_tokens) if bound is not None]
    return _rows(longest, batch_size, min(bounds, default=None))


def _rows(longest: int, batch_size: int, batch_tokens: int | None) -> int:
    """How many texts a batch holds whose first, and longest, is ``longest``."""
    if batch_tokens is None:
        return batch_size
    return max(1, min(batch_size, batch_tokens // max(1, longest)))


def _encode(encoder: Encoder, batch: Sequence[Tokens]) -> Tensor | None:
    """Features as float32 on the CPU; None if memory ran out."""
    try:
        return encoder.encode(batch).float().cpu()
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not _is_out_of_memory(error):
            raise
    # Past the except clause: the traceback, which holds the batch's tensors, is gone by now.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _is_out_of_memory(error: Exception) -> bool:
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or any(word in str(error) for word in _OUT_OF_MEMORY)


def _lower_limit(encoder: Encoder, rows: int, longest: int) -> None:
    """Halve what a batch may hold, for this encoder's lifetime."""
    if rows == 1:
        raise UserError(
            f"out of memory with a single text of {longest} tokens in a batch",
            where=f"encoding on {encoder.device}",
            fix="use a shorter model.context_length, a smaller method.projection_dim or model, "
            "or a machine with more memory",
        )
    if encoder.fitting_tokens is None:
        progress.say(
            f"encoding: out of memory with {rows} texts of {longest} tokens in a batch; going on "
            "with smaller batches"
        )
    encoder.fitting_tokens = rows // 2 * longest
