"""How long threads that wait keep a core busy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_SPINS = "GOMP_SPINCOUNT"


@contextmanager
def brief_spinning() -> Iterator[None]:
    """A context in which threads of OpenMP spin for a moment while they wait, and then sleep.

    With OpenMP's long default, one of two cores taken made a training step of `tiny` ten times
    slower; never spinning halves the speed of tail-patch on a quiet machine. OpenMP reads it once,
    when torch is imported; a value that is set already stays.
    """
    if _SPINS in os.environ:
        yield
        return
    os.environ[_SPINS] = "1000"
    try:
        yield
    finally:
        del os.environ[_SPINS]
