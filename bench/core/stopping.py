"""The signals that ask a command to end, and what each does.

* SIGINT (Ctrl-C) ends the command at once, with what is at hand.
* SIGTERM (schedulers send it before they kill) and SIGHUP (the terminal was closed) let the jobs
  of an engine that have begun come to their end, and none begins after them. Outside such jobs they
  end the command at once, too.

Ending at once means ``Stopped``, raised wherever the main thread is; from then on further signals
change nothing, so that nobody's impatience breaks the cleaning up. A library may keep the main
thread from hearing a signal, or swallow what is raised. Files are whole or not there however a
process ends, so a thread that does hear the signal ends the process if it is not over in time.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from bench.core.descendants import kill_below

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# From Ctrl-C to the end; what is left behind is removed by the next run.
_ENDING_SECONDS = 0.7
_CLEANING_SECONDS = 1.5  # with jobs in other processes, which get a second to clean up

_asked: int | None = None  # the signal that decides how the command ends
_is_handling = False  # whether the signals come here
_has_raised = False
_finishing = 0  # how many blocks of finish_first are running
_abandoning = 0  # how many of them abandon their jobs by themselves


class Stopped(KeyboardInterrupt):
    """The command was asked to end; like Ctrl-C, it is no error that a sweep goes past.

    Attributes:
        number: the number of the signal that asked.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def asked() -> bool:
    """Whether the command has been asked to end, so that no other job may begin."""
    return _asked is not None


def asked_at_once() -> bool:
    """Whether jobs that have begun are to be abandoned, too."""
    return _asked == signal.SIGINT


@contextmanager
def finish_first(*, abandons: bool = False) -> Iterator[None]:
    """Let SIGTERM and SIGHUP wait until the block ends; a block of several jobs looks at ``asked``.

    Args:
        abandons: let SIGINT wait as well: the block looks at ``asked_at_once`` several times a
            second, and abandons its jobs.

    Raises:
        Stopped: at the end of the block, however it ends, if the command was asked to end.
    """
    global _finishing, _abandoning
    _finishing += 1
    _abandoning += abandons
    try:
        yield
    finally:
        _finishing -= 1
        _abandoning -= abandons
        if _asked is not None:
            _raise(_asked)


@contextmanager
def on_signals() -> Iterator[None]:
    """Let the signals end the block with ``Stopped``. Only the main thread may enter it.

    A block within another changes nothing. A signal that the process was started to ignore (by
    ``nohup``, for instance) is ignored.
    """
    global _is_handling
    if _is_handling:
        yield
        return
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    _forget()
    _is_handling = True
    before = {number: signal.signal(number, _ask) for number in heard}
    try:
        with _ended_in_time(heard):
            yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _ask:
                signal.signal(number, handler)
        _is_handling = False
        _forget()


def end_now(status: int) -> NoReturn:
    """End the process and all that it has started, without what libraries do at the end of one.

    That could hang, or print what was interrupted of it; and not every library's processes end soon
    when they are left alone.
    """
    kill_below(os.getpid())
    os._exit(status)


def all_done() -> None:
    """Let the signals end the process without a word from now on: nothing is left to interrupt."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _ask:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def deaf() -> Iterator[None]:
    """A context in which processes are started that hear none of the signals.

    A terminal, and some schedulers, send a signal to the whole group of processes. Workers do what
    the process that started them tells them, and are told of the signal by that alone.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forget() -> None:
    global _asked, _has_raised
    _asked, _has_raised = None, False


def _ask(number: int, _: Any) -> None:
    # The signal may come twice: some schedulers send it to a process and to its group.
    global _asked
    if _asked is None or number == signal.SIGINT:
        _asked = number
    waits = _abandoning if asked_at_once() else _finishing
    if not waits and not _has_raised:
        _raise(_asked)


def _raise(number: int) -> None:
    global _has_raised
    _has_raised = True
    raise Stopped(number)


@contextmanager
def _ended_in_time(heard: list[signal.Signals]) -> Iterator[None]:
    """A context in which SIGINT ends the process soon, whatever keeps the main thread from it."""
    if signal.SIGINT not in heard or not hasattr(os, "set_blocking"):
        yield
        return
    ends, begins = os.pipe()
    os.set_blocking(begins, False)
    is_over = threading.Event()
    before = signal.set_wakeup_fd(begins, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_end_in_time, args=(ends, is_over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(before)
        os.close(begins)
        watcher.join()
        os.close(ends)


def _end_in_time(signals: int, is_over: threading.Event) -> None:
    """End the process if the block is not over soon after a SIGINT.

    Args:
        signals: a pipe that gets a byte, its number, for each signal when it comes, also while the
            main thread is in a library.
        is_over: set when the block is over.
    """
    while number := os.read(signals, 1):
        seconds = _CLEANING_SECONDS if _abandoning else _ENDING_SECONDS
        if number[0] == signal.SIGINT and not is_over.wait(seconds):
            with suppress(OSError):  # the terminal may be gone; and the main thread may be printing
                os.write(2, f"{line(signal.SIGINT)}\n".encode())
            end_now(128 + signal.SIGINT)


def line(number: int) -> str:
    """What a command says when it ends by this signal."""
    word = "interrupted" if number == signal.SIGINT else "stopped"
    return f"{word}: what is finished is kept; run again to go on"
