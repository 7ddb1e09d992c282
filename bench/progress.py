"""Progress of every step above a second: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.escape import clean

T = TypeVar("T")

_LOG_EVERY_SECONDS = 15.0  # often enough to see life in a log, rare enough not to flood it
_quiet = False
_inside = False  # a step whose bar is shown


def set_quiet(quiet: bool) -> None:
    """Silence progress and notices of this process (errors and results stay)."""
    global _quiet
    _quiet = quiet


@contextmanager
def one_bar() -> Iterator[None]:
    """Show no progress of steps in the block: a terminal shows one bar at a time. Notices stay."""
    global _inside
    before, _inside = _inside, True
    try:
        yield
    finally:
        _inside = before


def say(message: str) -> None:
    """Print one plain line to standard error, unless quiet."""
    if not _quiet:
        print(clean(message), file=sys.stderr, flush=True)  # names of files may steer a terminal


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
    if _quiet or _inside:
        yield from items
    elif sys.stderr.isatty():
        yield from _track_bar(items, description, total)
    else:
        yield from _track_lines(items, description, total, unit)


def _track_bar(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


def _track_lines(items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= _LOG_EVERY_SECONDS and done:
            last = now
            rate = done / (now - start)
            remaining = f", {(total - done) / rate:.0f} s left" if total else ""
            say(f"{description}: {done}/{total or '?'} {unit} ({rate:.1f}/s{remaining})")
        yield item
