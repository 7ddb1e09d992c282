"""Batches by length and token budget, made smaller when memory runs out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.core import memory, progress
from bench.core.errors import UserError
from bench.models.language_model import Tokens
from methods.gradient.checkpoints import CheckpointEncoder
from methods.gradient.encoder import GradientEncoder

Encoder = GradientEncoder | CheckpointEncoder

# Padded tokens in a batch, where a setting leaves the number open. On a CPU, 512 to 2,048 took the
# same time within noise, and 4,096 up to 31% longer (benchmarks/batch_tokens.py). A GPU needs many
# to be busy (benchmarks/utilisation.py); a batch that does not fit into its memory is halved.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}


def token_budget(asked: int | None, device: torch.device) -> int:
    """Padded tokens in a batch: the number asked for, or else the one that suits the device."""
    return _BATCH_TOKENS.get(device.type, _BATCH_TOKENS["cpu"]) if asked is None else asked


def batch_rows(longest: float, batch_size: int, budget: int) -> int:
    """Number of texts in a batch whose longest has ``longest`` tokens."""
    return max(1, min(batch_size, int(budget // max(1, longest))))


def encode_all(
    encoder: Encoder,
    tokens: Sequence[Tokens],
    batch_size: int,
    batch_tokens: int | None = None,
) -> Tensor:
    """Features of many texts: float32 ``[len(tokens), encoder.dim]`` on the CPU, in their order.

    Where memory runs out, the batch is halved and no later one is as large; that is said once.

    Args:
        batch_size: number of texts in a batch, at most.
        batch_tokens: number of tokens in a batch, padding included, at most; a single text may
            exceed it. None takes the number that suits the device.

    Raises:
        UserError: a single text does not fit into memory, or a gradient is not a finite float32.
    """
    features = torch.empty(len(tokens), encoder.dim, dtype=torch.float32)
    lengths = [len(text.ids) for text in tokens]
    budget = token_budget(batch_tokens, encoder.device)
    # The longest texts come first: if memory is short, it shows at once.
    waiting = sorted(range(len(tokens)), key=lambda row: -lengths[row])
    on_the_way: _OnTheWay | None = None
    with progress.counted("encode", len(tokens), unit="texts") as advance:

        def land(batch: _OnTheWay) -> None:
            features[batch.rows] = batch.arrived(encoder.name)
            advance(len(batch.rows))

        while waiting:
            rows = waiting[: _fitting(lengths[waiting[0]], batch_size, budget, encoder)]
            started = _start(encoder, rows, tokens)
            if started is None and on_the_way is None:
                _lower_limit(encoder, len(rows), lengths[rows[0]])
            if on_the_way is not None:  # a GPU is at work on the batch just started
                land(on_the_way)
            # If nothing was started, the same texts are tried again, now that a batch has landed.
            on_the_way = started
            if started is not None:
                waiting = waiting[len(rows) :]
        if on_the_way is not None:
            land(on_the_way)
    memory.give_back()
    return features


class _OnTheWay:
    """Features of a batch on their way to the CPU, as float32.

    Attributes:
        rows: numbers of the texts in the batch.
    """

    def __init__(self, rows: Sequence[int], encoded: Tensor) -> None:
        self.rows = list(rows)
        # From a GPU, the features travel into pinned memory while this thread goes on.
        self._features = encoded.float().to("cpu", non_blocking=encoded.is_cuda)
        self._copied = torch.cuda.Event() if encoded.is_cuda else None
        if self._copied is not None:  # the stream of its device, which may not be the current one
            self._copied.record(torch.cuda.current_stream(encoded.device))

    def arrived(self, model: str) -> Tensor:
        """Wait for the features, ``[batch, dim]``; a NaN or infinite one raises UserError."""
        if self._copied is not None:
            self._copied.synchronize()
        if not all(bound.isfinite() for bound in self._features.aminmax()):  # a NaN is its bounds
            raise UserError(
                "a gradient is NaN or infinite",
                where=f"model {model}",
                fix="use model.gradient_dtype=float32 or wider (bfloat16 where half the memory is "
                "needed), or another checkpoint",
            )
        return self._features


def _fitting(longest: int, batch_size: int, budget: int, encoder: Encoder) -> int:
    """Number of texts in a batch that fits the budget and what the encoder has learnt to fit."""
    if encoder.fitting_tokens is not None:
        budget = min(budget, encoder.fitting_tokens)
    return batch_rows(longest, batch_size, budget)


def _start(encoder: Encoder, rows: Sequence[int], tokens: Sequence[Tokens]) -> _OnTheWay | None:
    """Encode a batch, perhaps still at work on a GPU; None if memory ran out."""
    try:
        return _OnTheWay(rows, encoder.encode([tokens[row] for row in rows]))
    except (MemoryError, RuntimeError) as error:
        if not memory.ran_out(error):
            raise
    # Only after the except clause is the traceback gone, which holds the batch's tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _lower_limit(encoder: Encoder, rows: int, longest: int) -> None:
    """Halve the tokens that a batch may hold, for the lifetime of this encoder."""
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
