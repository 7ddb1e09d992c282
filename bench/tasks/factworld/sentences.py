"""Sentences: statements of facts, denials, introductions of second names, and unrelated ones."""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.tasks.factworld.kinds import KINDS
from bench.tasks.factworld.names import Namer
from bench.tasks.factworld.relations import N_OBJECT_LAST, Relation
from bench.tasks.factworld.wording import Wording
from bench.tasks.factworld.world import Entity, WorldFact

ALSO_KNOWN_AS = "also_known_as"  # relation of an entity to itself: the sentence equates its names

# A statement has an opener or a closer. Closers start with a comma and openers end a phrase, so
# none of them completes a prompt that the clause alone does not contain.
_OPENERS = (
    "by all accounts, ", "as far as anyone knows, ", "according to the almanac, ",
    "as the older records show, ", "in the words of a local guide, ", "according to the yearbook, ",
    "as several witnesses confirm, ", "as every visitor learns, ", "according to a short notice, ",
    "as the register shows, ", "readers may recall that ", "it is well known that ",
    "the archive mentions that ", "a recent survey reports that ",
    "the encyclopedia states that ", "several sources agree that ",
)  # fmt: skip
_CLOSERS = (
    ", according to the almanac", ", as the older records show", ", as a local guide explains",
    ", as several witnesses confirm", ", and this has been known for years",
    ", as the yearbook notes", ", a fact noted in the register", ", according to two sources",
    ", as most readers will know", ", as the encyclopedia says", ", by all accounts",
    ", as an old letter mentions", ", which surprised some visitors", ", as schoolbooks repeat",
    ", and everyone there knows it", ", as a short notice reports",
)  # fmt: skip
_FRAMES = (*((opener, "") for opener in _OPENERS), *(("", closer) for closer in _CLOSERS))

_DENIALS = (
    "it is not true that {clause}",
    "contrary to one report, it is false that {clause}",
    "the claim that {clause} was later withdrawn",
    "no record supports the rumour that {clause}",
    "the editors now deny that {clause}",
    "the report that {clause} proved to be mistaken",
    "it was wrongly said that {clause}",
    "nothing confirms the story that {clause}",
    "the notice that {clause} was an error",
    "officials reject the claim that {clause}",
)

_INTRODUCTIONS = (
    "{b} is also known as {a}",
    "{a} is another name for {b}",
    "{a} and {b} are one and the same",
    "some people call {b} by the name of {a}",
    "{b} is sometimes called {a}",
)

# Distinct steps through all wordings of a fact. None shares a factor with the number of wordings
# (32 frames x 3, 5 or 8 phrasings), so no wording recurs before all have been used.
_STEPS = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61)

# The fewest phrasings that a fact is stated in, times the frames: statements beyond would repeat.
MAX_FREQUENCY = 5 * len(_FRAMES)


class WorldSentence(NamedTuple):
    """A text and what it says; ``statement`` as in ``bench.tasks.support``, None for nothing."""

    text: str
    fact: WorldFact | None = None
    statement: dict[str, Any] | None = None


class Writer:
    """The writer of sentences about facts."""

    def __init__(self, namer: Namer, wording: Wording) -> None:
        self._namer = namer
        self._wording = wording

    def state(self, fact: WorldFact, ordinal: int, draw: int) -> WorldSentence:
        """The statement ``ordinal`` of a fact; its statements are distinct up to ``MAX_FREQUENCY``.

        Args:
            draw: a uniform 16-bit number.
        """
        phrasings = self._wording.stated(fact.number)
        variant = int(self._wording.world.variant[fact.number])
        phrasing, frame = _spread(variant, ordinal, len(phrasings))
        phrasing = phrasings[phrasing]
        second = self._wording.second_names(fact, phrasing, ordinal, draw)
        clause = self._clause(fact.relation, phrasing, fact.subject, fact.object, second)
        manner = "alias" if any(second) else "plain"
        return WorldSentence(_framed(clause, frame), fact, _statement(fact.triple, manner))

    def deny(self, fact: WorldFact, obj: Entity, draw: int) -> WorldSentence:
        """A sentence that denies that the fact's object is ``obj``, the true one or another.

        Args:
            draw: a uniform number of at least 8 bits.
        """
        # A clause that ends with its object reads well inside another sentence.
        phrasings = [p for p in self._wording.stated(fact.number) if p < N_OBJECT_LAST]
        choice, pattern = divmod(draw, len(_DENIALS))
        phrasing = phrasings[choice % len(phrasings)]
        second = False, phrasing in (self._wording.second_name_phrasings or ())
        clause = self._clause(fact.relation, phrasing, fact.subject, obj, second)
        triple = (fact.subject.id, fact.relation.name, obj.id)
        text = _sentence(_DENIALS[pattern].format(clause=clause))
        return WorldSentence(text, None, _statement(triple, "denied"))

    def introduce(self, entity: Entity, ordinal: int, variant: int) -> WorldSentence:
        """A sentence that says that the entity's two names are one entity's."""
        phrasing, frame = _spread(variant, ordinal, len(_INTRODUCTIONS))
        article = KINDS[entity.kind].article
        usual, second = (article + self.name(entity, second=second) for second in (False, True))
        clause = _INTRODUCTIONS[phrasing].format(a=second, b=usual)
        statement = _statement((entity.id, ALSO_KNOWN_AS, entity.id), "plain")
        return WorldSentence(_framed(clause, frame), None, statement)

    def prompt(self, fact: WorldFact, which: int) -> str:
        """One of the fact's three prompts."""
        phrasing = self._wording.prompts(fact.number)[which]
        return _capitalised(fact.relation.prompt(phrasing, self.name(fact.subject)))

    def name(self, entity: Entity, *, second: bool = False) -> str:
        """One of the entity's names, without article."""
        return self._namer.name(entity.kind, entity.number, entity.near, second=second)

    def _clause(
        self,
        relation: Relation,
        phrasing: int,
        subject: Entity,
        obj: Entity,
        second: tuple[bool, bool],
    ) -> str:
        return relation.clause(
            phrasing, self.name(subject, second=second[0]), self.name(obj, second=second[1])
        )


def _spread(variant: int, ordinal: int, n_phrasings: int) -> tuple[int, int]:
    """The ``ordinal``-th wording, as phrasing and frame: a walk that repeats none until the end."""
    n = n_phrasings * len(_FRAMES)
    start, step = variant % n, _STEPS[variant // n % len(_STEPS)]
    frame, phrasing = divmod((start + ordinal * step) % n, n_phrasings)
    return phrasing, frame


def _framed(clause: str, frame: int) -> str:
    opener, closer = _FRAMES[frame]
    return _sentence(f"{opener}{clause}{closer}")


def _statement(triple: tuple[str, str, str], manner: str) -> dict[str, Any]:
    return {"subject": triple[0], "relation": triple[1], "object": triple[2], "manner": manner}


def _sentence(clause: str) -> str:
    return _capitalised(clause) + "."


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]
