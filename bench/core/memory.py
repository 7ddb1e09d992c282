"""How running out of memory is recognised, and how freed memory goes back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch

# Words of the errors by which torch's and CUDA's allocators say it without an exception of its own.
_OUT_OF_MEMORY = (
    "not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED",
)  # fmt: skip


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory ran out: torch.OutOfMemoryError is a RuntimeError."""
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or any(word in str(error) for word in _OUT_OF_MEMORY)


def give_back() -> None:
    """Give freed memory back to the system, where the allocator has a way to do so.

    glibc keeps freed memory. Batches of many lengths leave it in pieces that the next batch does
    not fit into, so that the resident size of a long run creeps up (benchmarks/growth.py).
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS and Windows have no malloc_trim
        return None
