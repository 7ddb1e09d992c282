"""Invented names, computed from numbers: nothing is stored, and no two entities share one."""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np

from bench.tasks.factworld.kinds import GIVEN_NAMES, KINDS, NameForm

_ONSETS = (
    "b", "d", "f", "h", "j", "k", "l", "m", "n", "p",
    "r", "s", "t", "v", "w", "br", "dr", "kr", "st", "tr",
)  # fmt: skip
# Each syllable is consonants and one vowel, so a word falls into syllables in one way only.
_SYLLABLES = tuple(onset + vowel for onset in _ONSETS for vowel in "aeiou")
_N_GIVEN_NAMES = 256  # few, so that persons share given names and only both words name one


class Near(IntEnum):
    """The way in which a name differs from the one it nearly equals."""

    NONE = 0
    LETTER = 1
    SYLLABLE = 2


class Namer:
    """Names by kind and number; a seed decides which number has which name.

    Within a form, numbers go through a seeded bijection (x -> a x + b modulo the number of names)
    and the result is written in mixed radix: companion, ending, syllables. Near-duplicates take
    an ending that no ordinary name has, or a third syllable, so they collide with none.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        self._steps: dict[NameForm, tuple[int, int]] = {}
        for form in (GIVEN_NAMES, *(f for k in KINDS.values() for f in (k.usual, k.second))):
            size = _n_names(form)
            step = int(rng.integers(size // 3, size))
            while math.gcd(step, size) != 1:
                step += 1
            self._steps[form] = step, int(rng.integers(size))
        self._given = tuple(
            self._word(GIVEN_NAMES, self._place(GIVEN_NAMES, i), Near.NONE).capitalize()
            for i in range(_N_GIVEN_NAMES)
        )

    def name(self, kind: str, number: int, near: int = Near.NONE, *, second: bool = False) -> str:
        """The usual or second name of entity ``number`` of ``kind``, without article.

        Args:
            near: a way to differ; the name is then the near-duplicate of that entity's name.
        """
        form = KINDS[kind].second if second else KINDS[kind].usual
        if second:  # an entity and its near-duplicate share the number, but no second name
            number, near = 2 * number + (near != Near.NONE), Near.NONE
        companions = self._given if form.companions is None else form.companions
        place, companion = divmod(self._place(form, number), len(companions))
        word = self._word(form, place, near)
        if KINDS[kind].proper or (second and kind == "species"):  # Latin names are capitalised
            word = word.capitalize()
        return form.pattern.format(word=word, companion=companions[companion])

    def _place(self, form: NameForm, number: int) -> int:
        step, start = self._steps[form]
        return (number * step + start) % _n_names(form)

    def _word(self, form: NameForm, place: int, near: int) -> str:
        place, ending = divmod(place, len(form.endings))
        first, last = divmod(place, len(_SYLLABLES))
        middle = _SYLLABLES[(7 * first + last) % len(_SYLLABLES)] if near == Near.SYLLABLE else ""
        endings = form.near_endings if near == Near.LETTER else form.endings
        return _SYLLABLES[first] + middle + _SYLLABLES[last] + endings[ending]


def _n_names(form: NameForm) -> int:
    companions = _N_GIVEN_NAMES if form.companions is None else len(form.companions)
    return len(_SYLLABLES) ** 2 * len(form.endings) * companions


def capacity(kind: str) -> int:
    """How many entities of a kind have usual and second names of their own."""
    return min(_n_names(KINDS[kind].usual), _n_names(KINDS[kind].second) // 2)
