"""The phrasings and names in which a fact is stated, and those in which it is asked."""

from __future__ import annotations

from itertools import permutations
from typing import ClassVar

import numpy as np

from bench.tasks.factworld.relations import N_OBJECT_LAST, N_PHRASINGS
from bench.tasks.factworld.world import World, WorldFact

N_PROMPTS = 3
_HELD_OUT = tuple(permutations(range(N_OBJECT_LAST), N_PROMPTS))


class Wording:
    """The rule of ``factworld``: three phrasings of each fact are held out, to be its prompts.

    Args:
        alias_statement_rate: share of the statements that use a second name, where subject or
            object has one. A fact's first statement never does.

    Attributes:
        second_name_phrasings: the phrasings that call the object by its second name; None if any
            may.
    """

    second_name_phrasings: ClassVar[frozenset[int] | None] = None

    def __init__(self, world: World, alias_statement_rate: float) -> None:
        self.world = world
        self._alias_statement_rate = alias_statement_rate

    def asked(self) -> np.ndarray:
        """Facts that may be asked, ascending."""
        return np.arange(self.world.n_facts)

    def prompts(self, fact: int) -> tuple[int, ...]:
        """The three phrasings in which a fact is asked."""
        return _HELD_OUT[int(self.world.variant[fact]) % len(_HELD_OUT)]

    def stated(self, fact: int) -> tuple[int, ...]:
        """The phrasings of a fact's own sentences, ascending."""
        held_out = self.prompts(fact)
        return tuple(i for i in range(N_PHRASINGS) if i not in held_out)

    def second_names(
        self, fact: WorldFact, phrasing: int, ordinal: int, draw: int
    ) -> tuple[bool, bool]:
        """Whether statement ``ordinal`` calls subject and object by their second names.

        Args:
            draw: a uniform 16-bit number.
        """
        drawn = ordinal > 0 and draw < self._alias_statement_rate * 65536
        subject = drawn and fact.subject.has_second_name
        if self.second_name_phrasings is not None:
            return subject, phrasing in self.second_name_phrasings
        obj = drawn and fact.object.has_second_name
        if subject and obj:  # a second name for either or for both
            choice = 1 + draw % 3
            return bool(choice & 1), bool(choice & 2)
        return subject, obj


class ReplacedWording(Wording):
    """The rule of ``replaced``: the first three phrasings have the usual name, others the second.

    Asked facts are stated in the others only, and asked in the first three; bridging facts are
    stated in all, which shows what an object of one phrasing is called in the other.

    Args:
        bridge_rate: share of the facts that bridge.
    """

    second_name_phrasings = frozenset(range(N_PROMPTS, N_PHRASINGS))

    def __init__(self, world: World, alias_statement_rate: float, bridge_rate: float, seed: int):
        super().__init__(world, alias_statement_rate)
        self._bridges = np.random.default_rng([seed, 3]).random(world.n_facts) < bridge_rate

    def asked(self) -> np.ndarray:
        """Facts that do not bridge, ascending."""
        return np.flatnonzero(~self._bridges)

    def prompts(self, fact: int) -> tuple[int, ...]:
        """The phrasings with usual names, in seeded order."""
        start = int(self.world.variant[fact]) % N_PROMPTS
        return tuple((start + i) % N_PROMPTS for i in range(N_PROMPTS))

    def stated(self, fact: int) -> tuple[int, ...]:
        """All phrasings for a bridging fact, those with second names for an asked one."""
        return tuple(range(0 if self._bridges[fact] else N_PROMPTS, N_PHRASINGS))
