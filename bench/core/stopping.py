"""What SIGTERM does, which schedulers send before they kill: begun work ends, none is begun.

Outside ``finish_first`` the run ends at once, as it does at Ctrl-C; files are whole or not there.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_asked = False
_finishing = 0  # how many blocks of finish_first are running


class Stopped(BaseException):
    """The run was asked to stop. Like KeyboardInterrupt, it is no error that a sweep goes past."""


def asked() -> bool:
    """Whether the run has been asked to stop."""
    return _asked


@contextmanager
def finish_first() -> Iterator[None]:
    """Let a request to stop wait until the block ends; a block of several jobs looks at ``asked``.

    Raises:
        Stopped: at the end of the block, however it ends, if the run was asked to stop.
    """
    global _finishing
    _finishing += 1
    try:
        yield
    finally:
        _finishing -= 1
        if _asked:
            raise Stopped


@contextmanager
def on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block with ``Stopped``. Only the main thread may enter it."""
    global _asked
    _asked = False
    before = signal.signal(signal.SIGTERM, _ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _asked = False


def _ask(*_: Any) -> None:
    # The signal may come twice: some schedulers send it to a process and to its group.
    global _asked
    _asked = True
    if not _finishing:
        raise Stopped
