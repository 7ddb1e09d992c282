"""Sentences that state no fact of the world."""

from __future__ import annotations

import math

import numpy as np

_PATTERNS = (
    "{time}, the {adjective} {thing} near the {place} was {done}.",
    "the {adjective} {thing} beside the {place} was {done} {time}.",
    "visitors to the {place} saw that the {adjective} {thing} was {done} {time}.",
)
_SLOTS: dict[str, tuple[str, ...]] = {
    "adjective": (
        "old", "wooden", "narrow", "painted", "rusty", "heavy", "small", "broken",
        "empty", "stone", "tall", "round", "quiet", "dusty", "green", "crooked",
    ),
    "thing": (
        "gate", "bench", "fountain", "cart", "bridge", "lantern", "fence", "statue",
        "boat", "ladder", "clock", "signpost", "barrel", "shed", "wagon", "window",
    ),
    "place": (
        "market", "harbour", "orchard", "library", "station", "chapel", "garden", "mill",
        "square", "bakery", "school", "meadow", "tower", "workshop", "canal", "theatre",
    ),
    "done": (
        "repaired", "cleaned", "moved", "sold", "repainted", "covered with leaves", "removed",
        "measured", "photographed", "washed", "blocked by snow", "replaced", "guarded",
        "left open", "decorated", "inspected",
    ),
    "time": (
        "in the morning", "before noon", "after the storm", "last winter", "on a rainy day",
        "during the night", "at the end of summer", "before the festival", "in early spring",
        "on the first of May", "after lunch", "late in the evening", "within a week",
        "on market day", "shortly after sunrise", "in the autumn",
    ),
}  # fmt: skip
_N_TEXTS = len(_PATTERNS) * math.prod(map(len, _SLOTS.values()))


class Unrelated:
    """A seeded sequence of texts, of which the first three million are distinct."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 4])
        self._start = int(rng.integers(_N_TEXTS))
        self._step = int(rng.integers(_N_TEXTS // 3, _N_TEXTS))
        while math.gcd(self._step, _N_TEXTS) != 1:
            self._step += 1

    def text(self, ordinal: int) -> str:
        """The text at a place of the sequence."""
        rest, pattern = divmod((self._start + ordinal * self._step) % _N_TEXTS, len(_PATTERNS))
        chosen = {}
        for slot, words in _SLOTS.items():
            rest, word = divmod(rest, len(words))
            chosen[slot] = words[word]
        text = _PATTERNS[pattern].format(**chosen)
        return text[0].upper() + text[1:]
