"""Passages of equal text are counted, and so are those that read as an annotated one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bench.tasks.base import Query, TaskBuilder, load_task
from bench.tasks.passages import Passage
from bench.tasks.texts import TextCounter


@given(st.lists(st.text(max_size=2), max_size=30), st.text(max_size=2))
def test_counts_are_those_of_the_texts_themselves(texts: list[str], asked: str) -> None:
    counter = TextCounter()
    for text in texts:
        counter.add(text)
    counts = Counter(texts)
    assert counter.repeated == len(texts) - len(counts)
    for text in {*texts, asked}:
        assert counter.copies(text) == counts[text]


@dataclass
class NoSettings:
    """A task without settings."""


class Given(TaskBuilder):
    """Passages and queries that a test chose."""

    def __init__(self, texts: list[str], gold: list[tuple[int, ...]]) -> None:
        super().__init__(NoSettings())
        self._texts, self._gold = texts, gold

    def fingerprint(self) -> list[object]:
        return [self._texts, self._gold]

    def passages(self) -> list[Passage]:
        return [Passage(row, f"p{row}", text) for row, text in enumerate(self._texts)]

    def queries(self) -> list[Query]:
        return [Query(f"q{i}", "a", "b", gold_rows=rows) for i, rows in enumerate(self._gold)]


def test_a_task_says_how_many_passages_read_as_an_annotated_one(tmp_path: Path) -> None:
    texts = ["a", "b", "a", "c", "a", "b"]
    # Of q0, both "b" are annotated; of q1, one "a" of three; of q2, two of three and "c".
    task = load_task("toy", Given(texts, [(1, 5), (2,), (0, 3, 4), ()]), tmp_path)
    assert task.counts["repeated_texts"] == 3
    assert task.counts["unannotated_copies_of_gold"] == 0 + 2 + 1
    alone = load_task("toy", Given(["a", "b"], [(0,)]), tmp_path)
    assert not {"repeated_texts", "unannotated_copies_of_gold"} & set(alone.counts)
