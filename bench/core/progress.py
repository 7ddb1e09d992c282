"""Progress of every step above a second: a bar on a terminal, plain lines in a file and a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.core import run_log
from bench.core.escape import clean

T = TypeVar("T")

_LOG_EVERY_SECONDS = 15.0  # often enough to see life in a log, rare enough not to flood it
_BEAT_SECONDS = 4.0  # of one item: soon enough that nobody thinks that it hangs
_quiet = False
_open: list[_Lines] = []  # the steps under way in this process, the outermost first
_bars: Progress | None = None  # the bars on the terminal, the outermost step's first


def set_quiet(quiet: bool) -> None:
    """Silence progress and notices of this process (errors and results stay)."""
    global _quiet
    _quiet = quiet


@contextmanager
def silenced(quiet: bool) -> Iterator[None]:
    """A context in which progress and notices are silenced if ``quiet``; after it all is as before.

    What is silent already stays so.
    """
    before = _quiet
    set_quiet(before or quiet)
    try:
        yield
    finally:
        set_quiet(before)


def say(message: str) -> None:
    """Print one plain line to standard error, unless quiet; the run's log has it either way."""
    run_log.note(message)
    if not _quiet:
        # Names of files may hold characters that steer a terminal.
        print(clean(message), file=sys.stderr, flush=True)


def complain(message: str) -> None:
    """Print one line that quiet does not silence; the log of the run has it, too."""
    run_log.note(message)
    print(clean(message), file=sys.stderr, flush=True)


def track(
    items: Iterable[T], description: str, total: int | None = None, unit: str = "it"
) -> Iterator[T]:
    """Iterate over ``items`` and show how far it has come.

    Args:
        items: what to iterate over.
        description: what is being done, e.g. ``"encode passages"``.
        total: how many there are; ``len(items)`` if it has one.
        unit: what one item is called in a log line.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with counted(description, total, unit) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def counted(
    description: str, total: int | None, unit: str = "it"
) -> Iterator[Callable[[int], None]]:
    """Show how far a step has come that takes several items at a time.

    Args:
        description, total, unit: as of ``track``.

    Yields:
        a function that is told how many more items are done.
    """
    if not _quiet and sys.stderr.isatty():
        lines = _Lines(description, total, unit, run_log.note)
        with _bar(description, total) as advance:

            def advance_both(n: int) -> None:
                advance(n)
                lines.advance(n)

            with lines.beating():
                yield advance_both
    else:
        lines = _Lines(description, total, unit, say)
        with lines.beating():
            yield lines.advance


@contextmanager
def _bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    global _bars
    bars, is_outermost = _bars, _bars is None
    if bars is None:
        bars = _bars = Progress(*_columns(), console=Console(stderr=True), transient=True)
        bars.start()
    task = bars.add_task(description, total=total)
    try:
        yield partial(bars.advance, task)
    finally:
        bars.remove_task(task)
        if is_outermost:
            bars.stop()
            _bars = None


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


class _Lines:
    """The progress of one step as a line now and then, for a file or a log."""

    def __init__(
        self, description: str, total: int | None, unit: str, tell: Callable[[str], None]
    ) -> None:
        self._tell = tell
        self._description, self._total, self._unit = description, total, unit
        self._done = 0
        self._start = self._last = self._advanced = time.monotonic()

    def advance(self, n: int) -> None:
        self._done += n
        now = self._advanced = time.monotonic()
        if now - self._last < _LOG_EVERY_SECONDS or self._done == self._total:
            return
        self._last = now
        rate = self._done / max(now - self._start, 1e-9)
        left = f", {(self._total - self._done) / rate:.0f} s left" if self._total else ""
        self._tell(f"{self._so_far()} ({rate:.1f}/s{left})")

    @contextmanager
    def beating(self) -> Iterator[None]:
        """A context in which an item that takes long is heard of before it is done."""
        is_over = threading.Event()
        thread = threading.Thread(target=self._beat, args=(is_over,), daemon=True)
        _open.append(self)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            _open.remove(self)

    def _beat(self, is_over: threading.Event) -> None:
        wait = _BEAT_SECONDS
        while not is_over.wait(wait):
            now = time.monotonic()
            if _open[-1] is not self:  # the step within this one is heard of
                continue
            if now - max(self._last, self._advanced) >= _BEAT_SECONDS:
                self._last = now
                self._tell(f"{self._so_far()}, at the next for {now - self._advanced:.0f} s")
            wait = min(2 * wait, 60.0)  # an hour's block is no reason for hundreds of lines

    def _so_far(self) -> str:
        whole = f"{self._total:,}" if self._total else "?"
        return f"{self._description}: {self._done:,}/{whole} {self._unit}"
