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

# Padded tokens in a batch, where a setting leaves it open. On a CPU 512 to 2,048 took the same time
# within noise, and 4,096 up to 31% longer (benchmarks/batch_tokens.py); a GPU needs many to be busy
# (benchmarks/utilisation.py), and what does not fit into its memory is halved.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}


def token_budget(asked: int | None, device: torch.device) -> int:
    """Padded tokens in a batch: as asked, else what suits the device."""
    return _BATCH_TOKENS.get(device.type, _BATCH_TOKENS["cpu"]) if asked is None else asked


def batch_rows(longest: float, batch_size: int, budget: int) -> int:
    """How many texts a batch holds whose longest has ``longest`` tokens."""
    return max(1, min(batch_size, int(budget // max(1, longest))))


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
            takes what suits the device.

    Raises:
        UserError: a single text does not fit into memory, or a gradient is not a finite float32.
    """
    features = torch.empty(len(tokens), encoder.dim, dtype=torch.float32)
    lengths = [len(text.ids) for text in tokens]
    budget = token_budget(batch_tokens, encoder.device)
    # The longest first: if memory is short, it shows at once. Equal lengths keep their order.
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
            if on_the_way is not None:  # a GPU is at work on this batch meanwhile
                land(on_the_way)
            on_the_way = (
                started  # or nothing, and the same texts once more with what has landed gone
            )
            if started is not None:
                waiting = waiting[len(rows) :]
        if on_the_way is not None:
            land(on_the_way)
    memory.give_back()
    return features


class _OnTheWay:
    """Features of a batch on their way to the CPU, as float32.

    Attributes:
        rows: texts of the batch.
    """

    def __init__(self, rows: Sequence[int], encoded: Tensor) -> None:
        self.rows = list(rows)
        # Off a GPU it goes into pinned memory, and nobody waits for it here.
        self._features = encoded.float().to("cpu", non_blocking=encoded.is_cuda)
        self._copied = torch.cuda.Event() if encoded.is_cuda else None
        if (
            self._copied is not None
        ):  # on the stream of its own device, which may not be the current
            self._copied.record(torch.cuda.current_stream(encoded.device))

    def arrived(self, model: str) -> Tensor:
        """``[batch, dim]``, once they are there. Raises UserError if one is NaN or infinite."""
        if self._copied is not None:
            self._copied.synchronize()
        if not all(bound.isfinite() for bound in self._features.aminmax()):  # NaN comes through
            raise UserError(
                "a gradient is NaN or infinite",
                where=f"model {model}",
                fix="use model.gradient_dtype=float32 or wider (bfloat16 where half the memory is "
                "needed), or another checkpoint",
            )
        return self._features


def _fitting(longest: int, batch_size: int, budget: int, encoder: Encoder) -> int:
    """How many texts a batch holds whose first, and longest, is ``longest``."""
    if encoder.fitting_tokens is not None:
        budget = min(budget, encoder.fitting_tokens)
    return batch_rows(longest, batch_size, budget)


def _start(encoder: Encoder, rows: Sequence[int], tokens: Sequence[Tokens]) -> _OnTheWay | None:
    """Begin a batch; None if memory ran out."""
    try:
        return _OnTheWay(rows, encoder.encode([tokens[row] for row in rows]))
    except (MemoryError, RuntimeError) as error:
        if not memory.ran_out(error):
            raise
    # Past the except clause: the traceback, which holds the batch's tensors, is gone by now.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


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
