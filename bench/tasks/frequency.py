"""How many passages of a corpus name both entities of each fact: one pass for any number of facts.

A multi-pattern matcher (Aho & Corasick 1975) finds all names at once, so a passage costs its own
length, whatever the number of names. The rule is that of the lexical judge (``bench.core.names``):
names as whole words, aliases count, case and accents do not. Naming both is not stating the fact.
"""

from __future__ import annotations

from collections.abc import Iterable

import ahocorasick

from bench.core.names import fold_name, fold_passage, is_spaced


class MentionCounter:
    """Counts, for each fact, the passages that name its subject and its answer.

    Memory grows with the names; a passage is looked at and forgotten.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._counts: list[int] = []
        self._answers: list[tuple[int, ...]] = []  # names of each fact's answer
        self._subjects: list[list[int]] = []  # the facts that have a name for their subject
        self._edges: list[tuple[int, bool, bool]] = []  # of a name: length, must begin / end a word
        self._matcher = ahocorasick.Automaton(ahocorasick.STORE_INTS)

    def add_fact(self, fact_id: str, subjects: Iterable[str], answers: Iterable[str]) -> None:
        """Take one fact; all of them come before the first passage.

        Args:
            fact_id: each once.
            subjects: what its subject is called.
            answers: what its answer is called.
        """
        number = len(self._ids)
        self._ids.append(fact_id)
        self._counts.append(0)
        self._answers.append(self._numbers(answers))
        for name in self._numbers(subjects):
            self._subjects[name].append(number)

    def add_passage(self, text: str) -> None:
        """Count one passage for the facts that it names."""
        if not self._edges:  # an automaton of no words is none
            return
        if self._matcher.kind != ahocorasick.AHOCORASICK:
            self._matcher.make_automaton()
        found = self._found(" ".join(fold_passage(text).split()))
        named = {fact for name in found for fact in self._subjects[name]}  # once, by several names
        for fact in named:
            self._counts[fact] += not found.isdisjoint(self._answers[fact])

    def frequencies(self) -> dict[str, int]:
        """By fact id, in how many passages so far both are named."""
        return dict(zip(self._ids, self._counts, strict=True))

    def _numbers(self, names: Iterable[str]) -> tuple[int, ...]:
        """The numbers of names, new ones if need be; a name that folding empties has none."""
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

    def _found(self, text: str) -> set[int]:
        """The names that stand in a folded text as whole words."""
        found = set()
        for last, name in self._matcher.iter(text):
            length, begins, ends = self._edges[name]
            before, after = last - length, last + 1
            if begins and before >= 0 and _in_word(text[before]):
                continue
            if ends and after < len(text) and _in_word(text[after]):
                continue
            found.add(name)
        return found


def _in_word(letter: str) -> bool:
    r"""Whether the regular expression ``\w`` matches."""
    return letter.isalnum() or letter == "_"
