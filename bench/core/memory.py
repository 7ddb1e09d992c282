"""Memory that ran out, and memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch

# What allocators of torch and CUDA's libraries say where there is no exception of its own for it.
_OUT_OF_MEMORY = (
    "not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED",
)  # fmt: skip


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory ran out: torch.OutOfMemoryError is a RuntimeError."""
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or any(word in str(error) for word in _OUT_OF_MEMORY)


def give_back() -> None:
    """Give freed memory back to the system; where the allocator has no way to do so, nothing.

    glibc keeps what is freed. Batches of many lengths leave it in pieces that the next batch does
    not fit, so that the resident size of a long run creeps up (benchmarks/growth.py).
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
