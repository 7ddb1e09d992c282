"""What ties the processes that do jobs to the one that gave them out."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

CLEANING_SECONDS = 1.0  # for a job that is interrupted to remove what it has half written
LOOK_EVERY_SECONDS = 0.2  # at workers, and at whether the run is to end
# Not SIGINT, to which workers are deaf (``stopping.deaf``); Windows has neither.
_INTERRUPTS = getattr(signal, "SIGUSR1", signal.SIGINT)


def end_after(until_gone: Callable[[], object]) -> None:
    """Interrupt this process once ``until_gone`` returns, and end it a moment later at the latest.

    Args:
        until_gone: waits until the process that gave out the jobs is gone, or wants no more of them
            done. It runs in a thread; the main thread gets a KeyboardInterrupt.
    """
    signal.signal(_INTERRUPTS, _interrupt)

    def end() -> None:
        until_gone()
        if hasattr(signal, "pthread_kill"):  # ends waiting for a disk or a lock, too
            signal.pthread_kill(threading.main_thread().ident or 0, _INTERRUPTS)
        time.sleep(CLEANING_SECONDS)
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold a file for the block, for processes that are told of its end by ``until_let_go``."""
    import fcntl  # Windows has none

    with open(file, "w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def until_let_go(file: Path) -> None:
    """Return when nobody holds a file: its holder has let it go, or is gone."""
    import fcntl

    with suppress(FileNotFoundError), open(file, encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt
