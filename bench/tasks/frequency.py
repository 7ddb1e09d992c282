"""The count of passages that name both entities of a fact, for any number of facts in one pass.

A multi-pattern matcher (Aho & Corasick 1975) finds all names at once, so a passage costs its own
length, whatever the number of names. The rule is that of the lexical judge (``bench.core.names``):
names as whole words, aliases count, case and accents do not. Naming both is not stating the fact.
"""

from __future__ import annotations

from collections.abc import Iterable

import ahocorasick

from bench.core.names import fold_name, fold_passage, is_spaced


class MentionCounter:
    """A counter, for each fact, of the passages that name its subject and its answer.

    Memory grows with the names; a passage is looked at and forgotten.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._counts: list[int] = []
        # Names are numbered in the order in which they come.
        self._answers: list[tuple[int, ...]] = []  # by fact: the names of its answer
        self._subjects: list[list[int]] = []  # by name: the facts whose subject it is
        # By name: its length, and whether it must begin and end at the edge of a word.
        self._edges: list[tuple[int, bool, bool]] = []
        self._matcher = ahocorasick.Automaton(ahocorasick.STORE_INTS)

    def add_fact(self, fact_id: str, subjects: Iterable[str], answers: Iterable[str]) -> None:
        """Take one fact; all of them come before the first passage.

        Args:
            fact_id: an id that no other fact has.
            subjects: the names of the fact's subject.
        """
        number = len(self._ids)
        self._ids.append(fact_id)
        self._counts.append(0)
        self._answers.append(self._numbers(answers))
        for name in self._numbers(subjects):
            self._subjects[name].append(number)

    def add_passage(self, text: str) -> None:
        """Count one passage for the facts that it names."""
        if not self._edges:  # the automaton cannot be made of no words
            return
        if self._matcher.kind != ahocorasick.AHOCORASICK:
            self._matcher.make_automaton()
        names = self._names_in(" ".join(fold_passage(text).split()))
        # A set, as several names may be of one fact's subject.
        named = {fact for name in names for fact in self._subjects[name]}
        for fact in named:
            self._counts[fact] += not names.isdisjoint(self._answers[fact])

    def frequencies(self) -> dict[str, int]:
        """The number of passages so far that name both entities, by fact id."""
        return dict(zip(self._ids, self._counts, strict=True))

    def _numbers(self, names: Iterable[str]) -> tuple[int, ...]:
        """The numbers of names, new ones if need be; a name that folds to nothing has none."""
        numbers = []
        for name in names:
            folded = fold_name(name)
            if not folded:
                continue
            number = self._matcher.get(folded, -1)
            if number < 0:
                number = len(self._edges)
                self._matcher.add_word(folded, number)
                self._edges.append((len(folded), is_spaced(folded[0]), is_spaced(folded[-1])))
                self._subjects.append([])
            numbers.append(number)
        return tuple(dict.fromkeys(numbers))

    def _names_in(self, text: str) -> set[int]:
        """The numbers of the names that stand in a folded text as whole words."""
        names = set()
        for last, name in self._matcher.iter(text):
            length, begins, ends = self._edges[name]
            before, after = last - length, last + 1
            if begins and before >= 0 and _in_word(text[before]):
                continue
            if ends and after < len(text) and _in_word(text[after]):
                continue
            names.add(name)
        return names


def _in_word(letter: str) -> bool:
    r"""Whether the regular expression ``\w`` matches a letter."""
    return letter.isalnum() or letter == "_"
