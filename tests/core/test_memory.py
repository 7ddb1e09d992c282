"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from bench.core import memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators differ")


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) / 1024


@glibc
def test_pieces_between_what_is_still_used_are_given_back() -> None:
    memory.give_back()
    taken = [bytearray(b"x" * 100_000) for _ in range(1000)]
    used = [bytearray(b"y" * 1_000) for _ in taken[::100]]  # above it all, so the heap's end stays
    pieces = taken[1::2]  # every second one is used on
    del taken[1::2]
    freed_mib = sum(map(len, pieces)) / (1 << 20)
    full = resident_mib()
    del pieces
    memory.give_back()
    assert full - resident_mib() > 0.8 * freed_mib
    assert all(piece[0] for piece in taken + used)


def test_an_allocator_without_a_way_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare:
        pass

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Bare())
    memory._trim.cache_clear()
    try:
        memory.give_back()
        assert memory._trim() is None
    finally:
        memory._trim.cache_clear()


def test_what_says_that_memory_ran_out() -> None:
    for message in ("CUDA out of memory.", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling …"):
        assert memory.ran_out(RuntimeError(message))
    assert memory.ran_out(MemoryError())
    assert not memory.ran_out(RuntimeError("shapes do not fit"))
