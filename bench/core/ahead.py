"""Items of an iterator that are made in a thread while the one before is worked on."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_WAIT = 0.1  # seconds after which a thread that waits looks whether it is still asked


@dataclass(frozen=True)
class _Item(Generic[T]):
    """An item, told from what ends the items."""

    value: T


def ahead(items: Iterable[T], depth: int = 1) -> Generator[T]:
    """Stream the items, of which so many are made before they are asked for.

    They are made one after the other in one thread, which ends when the items do or when the
    stream is closed. For work that lets others run meanwhile: reading and copying memory.

    Args:
        items: what makes the items; it is closed, if it can be, in the thread.
        depth: the number of finished items that wait, at most; one more is being made.

    Raises:
        whatever making an item raises, behind the items before it.
    """
    ready: queue.Queue[_Item[T] | BaseException | None] = queue.Queue(depth)  # None: no more
    closed = threading.Event()

    def put(value: _Item[T] | BaseException | None) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(value, timeout=_WAIT)
                return

    def make() -> None:
        iterator = iter(items)
        try:
            for value in iterator:
                put(_Item(value))
                if closed.is_set():
                    break
            put(None)
        except BaseException as error:  # it is raised where the items are asked for
            put(error)
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item.value
    finally:
        closed.set()
        thread.join()
