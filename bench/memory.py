"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


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
