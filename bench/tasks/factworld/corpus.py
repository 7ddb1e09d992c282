"""The corpus as a function of the row, in seeded order; only numbers are stored of a sentence."""

from __future__ import annotations

import numpy as np

from bench.core.errors import UserError
from bench.tasks.factworld.sentences import WorldSentence, Writer
from bench.tasks.factworld.unrelated import Unrelated
from bench.tasks.factworld.world import OBJECT_KINDS, World


class Corpus:
    """The sentences of a world, by row.

    Sentences are numbered: statements fact by fact, denials, introductions of second names,
    unrelated ones. A seeded permutation says which row has which; it, the fact of each statement
    and a random number for each sentence take 16 bytes a passage.

    Args:
        n_passages: number of rows; those that the facts leave are unrelated sentences.
        n_denied: number of sentences that deny a fact.
        n_introductions: number of sentences that introduce each second name.

    Raises:
        UserError: the facts, denials and introductions do not fit.
    """

    def __init__(
        self,
        world: World,
        writer: Writer,
        *,
        n_passages: int,
        n_denied: int,
        n_introductions: int,
        seed: int,
    ) -> None:
        self._world, self._writer = world, writer
        self._unrelated = Unrelated(seed)
        self._introductions = n_introductions
        self._subjects, self._objects = world.entities_with_second_name()
        n_names = len(self._subjects) + len(self._objects)
        self._ends = np.cumsum(world.frequency, dtype=np.int64)
        stated = int(self._ends[-1])
        self._bounds = stated, stated + n_denied, stated + n_denied + n_names * n_introductions
        self._check_size(n_passages, n_denied)
        rng = np.random.default_rng([seed, 5])
        self._order = rng.permutation(n_passages)
        self._draws = rng.integers(1 << 32, size=n_passages, dtype=np.uint32)
        self._denied = rng.integers(world.n_facts, size=n_denied, dtype=np.int32)
        self._stated = np.repeat(np.arange(world.n_facts, dtype=np.int32), world.frequency)

    def _check_size(self, n_passages: int, n_denied: int) -> None:
        if self._bounds[-1] <= n_passages:
            return
        share = 1 - n_denied / n_passages
        needed = int((self._bounds[-1] - n_denied) / share) + 2
        raise UserError(
            f"{self._world.n_facts:,} facts and the introductions of second names need at least "
            f"{needed:,} passages, found {n_passages:,}",
            where="task.n_passages",
            fix=f"set task.n_passages={needed}, or lower task.n_facts or task.n_objects",
        )

    def sentence(self, row: int) -> WorldSentence:
        """The sentence at a row."""
        number = int(self._order[row])
        draw = int(self._draws[number])
        stated, denied, introduced = self._bounds
        if number < stated:
            fact = self._world.fact(int(self._stated[number]))
            ordinal = number - (int(self._ends[fact.number]) - fact.frequency)
            return self._writer.state(fact, ordinal, draw & 0xFFFF)
        if number < denied:
            return self._deny(int(self._denied[number - stated]), draw)
        if number < introduced:
            return self._introduce(*divmod(number - denied, self._introductions))
        return WorldSentence(self._unrelated.text(number - introduced))

    def _deny(self, index: int, draw: int) -> WorldSentence:
        """A denial: half of them deny the truth, half that the object is another one."""
        fact = self._world.fact(index)
        draw, true = divmod(draw, 2)
        obj = fact.object if true else self._world.other_object(fact, draw)
        return self._writer.deny(fact, obj, draw >> 8)

    def _introduce(self, which: int, ordinal: int) -> WorldSentence:
        if which < len(self._subjects):
            entity = self._world.subject(int(self._subjects[which]))
        else:
            kind, number = self._objects[which - len(self._subjects)]
            entity = self._world.object(OBJECT_KINDS[kind], int(number))
        return self._writer.introduce(entity, ordinal, variant=which)

    def rows_by_fact(self) -> Rows:
        """The rows in which each fact is stated."""
        return Rows(np.argsort(self._order)[: self._bounds[0]], self._ends)


class Rows:
    """Rows of the sentences that state a fact, from the inverse of the corpus's order."""

    def __init__(self, rows: np.ndarray, ends: np.ndarray) -> None:
        self._rows, self._ends = rows, ends

    def of(self, fact: int) -> tuple[int, ...]:
        """Rows of one fact, ascending."""
        start = int(self._ends[fact - 1]) if fact else 0
        return tuple(np.sort(self._rows[start : int(self._ends[fact])]).tolist())
