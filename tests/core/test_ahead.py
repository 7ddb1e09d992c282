"""Items that a thread makes ahead of their use."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from bench.core.ahead import ahead


@pytest.mark.parametrize("depth", [1, 3])
def test_all_items_come_in_order(depth: int) -> None:
    assert list(ahead(range(50), depth)) == list(range(50))
    assert list(ahead([], depth)) == []


def test_an_item_is_made_while_the_one_before_is_worked_on() -> None:
    begun = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(begun):
            event.set()
            yield number

    for number in ahead(items()):
        if number + 1 < len(begun):
            assert begun[number + 1].wait(10), "the next is begun without being asked for"


def test_no_more_are_made_than_may_wait() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    stream = ahead(items(), depth=2)
    assert next(stream) == 0
    time.sleep(0.3)
    assert len(made) <= 4, "one is worked on, two wait, one is made"
    stream.close()


def test_what_making_an_item_raises_comes_behind_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    stream = ahead(items())
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(stream)


def test_the_thread_ends_with_its_stream() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    stream = ahead(items())
    next(stream)
    stream.close()
    assert closed.is_set()
    assert threading.active_count() == before
