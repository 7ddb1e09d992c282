"""The entities and facts of an invented world, as numpy arrays of a few bytes a fact."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bench.core.errors import UserError
from bench.tasks.factworld.names import Near, capacity
from bench.tasks.factworld.relations import PROFILES, RELATION_INDEX, RELATIONS, Relation

LOCATION = RELATION_INDEX["location"]
OBJECT_KINDS = tuple(dict.fromkeys(relation.object for relation in RELATIONS))
_SUBJECT_KINDS = tuple(dict.fromkeys(relation.subject for relation in RELATIONS))
_FACTS_PER_OBJECT = 20  # pools shrink with small worlds, so that objects still recur
MIN_FACTS = 2 * _FACTS_PER_OBJECT  # two objects per kind, so that one can be taken for the other


class Entity(NamedTuple):
    """An entity; its names follow from ``kind``, ``number`` and ``near`` (``names.Namer``)."""

    id: str
    kind: str
    number: int
    near: int
    has_second_name: bool


class WorldFact(NamedTuple):
    """One fact, made on demand from the world's arrays."""

    number: int
    subject: Entity
    relation: Relation
    object: Entity
    frequency: int

    @property
    def triple(self) -> tuple[str, str, str]:
        """Ids of subject, relation and object."""
        return self.subject.id, self.relation.name, self.object.id


def zipf(n: int, exponent: float) -> np.ndarray:
    """The probabilities of ranks 1 to n by Zipf's law, float64 ``[n]``."""
    weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def mean_frequency(max_frequency: int, exponent: float) -> float:
    """The expected number of sentences that state a fact."""
    return float(zipf(max_frequency, exponent) @ np.arange(1, max_frequency + 1))


class World:
    """A world of ``n_facts`` facts: first the location of each city, then subject by subject.

    Args:
        n_facts: at least ``MIN_FACTS``.
        n_objects: objects per kind at most; a twentieth of the facts in small worlds.
        max_frequency: the most sentences that state a fact; frequencies and the popularity of
            objects follow Zipf's law.
        zipf_exponent: the exponent of both laws.
        alias_rate: share of the entities that have a second name.
        near_name_rate: share of the subjects whose name nearly equals another subject's.
        all_objects_have_second_name: whether ``alias_rate`` is for subjects alone.

    Attributes:
        frequency: number of sentences that state each fact, int16 ``[n_facts]``.
        variant: seeded numbers that spread the wordings of a fact, uint32 ``[n_facts]``.

    Raises:
        UserError: more subjects than there are names.
    """

    def __init__(
        self,
        n_facts: int,
        n_objects: int,
        *,
        max_frequency: int,
        zipf_exponent: float,
        alias_rate: float,
        near_name_rate: float,
        all_objects_have_second_name: bool,
        seed: int,
    ) -> None:
        rng = np.random.default_rng([seed, 2])
        self.n_facts = n_facts
        self.n_objects = min(n_objects, n_facts // _FACTS_PER_OBJECT)
        rate = 1.0 if all_objects_have_second_name else alias_rate
        self._object_has_second = rng.random((len(OBJECT_KINDS), self.n_objects)) < rate
        self._draw_subjects(rng, alias_rate, near_name_rate)
        self._draw_objects(rng, zipf_exponent)
        # Quantiles and no draws: the number of sentences does not depend on the seed.
        quantiles = (np.arange(n_facts) + 0.5) / n_facts
        cumulative = np.cumsum(zipf(max_frequency, zipf_exponent))[:-1]
        frequency = (np.searchsorted(cumulative, quantiles) + 1).astype(np.int16)
        self.frequency = rng.permutation(frequency)
        self.variant = rng.integers(1 << 32, size=n_facts, dtype=np.uint32)

    def _draw_subjects(
        self, rng: np.random.Generator, alias_rate: float, near_name_rate: float
    ) -> None:
        """Draw the subjects and their relations; a near-duplicate follows its original."""
        n = self.n_facts  # drawn for more subjects than needed, as each has at least two facts
        profile = rng.integers(len(PROFILES), size=n + n % 2).astype(np.int8)
        has_double = rng.random(len(profile) // 2) < near_name_rate
        # The double has the original's relations, so that the two are told apart by name only.
        profile[1::2] = np.where(has_double, profile[::2], profile[1::2])
        self._near = np.zeros(len(profile), dtype=np.int8)
        how = rng.integers(Near.LETTER, Near.SYLLABLE + 1, size=len(has_double))
        self._near[1::2] = how * has_double
        self._subject_has_second = rng.random(len(profile)) < alias_rate

        relations = [[RELATION_INDEX[name] for name in names] for names in PROFILES]
        n_facts_of = np.array([len(names) for names in PROFILES])[profile]
        first = self.n_objects + np.concatenate([[0], np.cumsum(n_facts_of)[:-1]])
        kept = first < n
        self._near, profile = self._near[kept], profile[kept]
        self._subject_has_second = self._subject_has_second[kept]
        last = len(profile)  # the last subject may lack some of its facts

        width = max(map(len, relations))
        table = np.array([row + [-1] * (width - len(row)) for row in relations], dtype=np.int8)
        subject = np.repeat(np.arange(last, dtype=np.int32), n_facts_of[:last])
        position = np.arange(self.n_objects, self.n_objects + len(subject)) - first[subject]
        relation = table[profile[subject], position]
        cities = np.arange(self.n_objects, dtype=np.int32)
        self._subject = np.concatenate([cities, subject])[:n]
        self._relation = np.concatenate([np.full(len(cities), LOCATION, np.int8), relation])[:n]
        # The facts of a double lie this far behind the original's.
        behind = np.where(self._near[subject] != Near.NONE, n_facts_of[subject], 0)
        self._behind = np.concatenate([np.zeros(len(cities), np.int64), behind])[:n]
        self._number_subjects(table[profile, 0])

    def _number_subjects(self, first_relation: np.ndarray) -> None:
        """Number the subjects within their kind; a double has its original's number."""
        kinds = np.array([_SUBJECT_KINDS.index(r.subject) for r in RELATIONS], dtype=np.int8)
        self._kind = kinds[first_relation]
        self._number = np.zeros(len(self._kind), dtype=np.int32)
        for index, kind in enumerate(_SUBJECT_KINDS):
            of_kind = self._kind == index
            numbers = np.cumsum(of_kind & (self._near == Near.NONE)) - 1
            self._number[of_kind] = numbers[of_kind]
            if of_kind.any() and of_kind.sum() > capacity(kind):
                raise UserError(
                    f"{of_kind.sum():,} subjects of the kind {kind} are more than there are names "
                    f"({capacity(kind):,})",
                    where="task.n_facts",
                    fix="ask for fewer facts or passages",
                )

    def _draw_objects(self, rng: np.random.Generator, zipf_exponent: float) -> None:
        popularity = zipf(self.n_objects, zipf_exponent)
        drawn = rng.choice(self.n_objects, size=self.n_facts, p=popularity).astype(np.int16)
        doubles = np.flatnonzero(self._behind)
        same = drawn[doubles] == drawn[doubles - self._behind[doubles]]
        drawn[doubles[same]] = (drawn[doubles[same]] + 1) % self.n_objects
        composed = np.array([bool(relation.composed) for relation in RELATIONS])
        facts = np.flatnonzero(composed[self._relation])
        drawn[facts] = drawn[drawn[facts - 1]]  # location facts are numbered as their cities
        self._object = drawn
        del self._behind

    def fact(self, index: int) -> WorldFact:
        """The fact of a number."""
        relation = RELATIONS[self._relation[index]]
        subject = int(self._subject[index])
        return WorldFact(
            number=index,
            subject=self.city(subject) if relation.subject == "city" else self.subject(subject),
            relation=relation,
            object=self.object(relation.object, int(self._object[index])),
            frequency=int(self.frequency[index]),
        )

    def other_object(self, fact: WorldFact, draw: int) -> Entity:
        """An object of the same kind that is not the fact's, chosen by ``draw``."""
        shift = 1 + draw % (self.n_objects - 1)
        return self.object(fact.object.kind, (fact.object.number + shift) % self.n_objects)

    def subject(self, index: int) -> Entity:
        """The subject of a number, of any kind but city."""
        kind = _SUBJECT_KINDS[self._kind[index]]
        return Entity(
            f"{kind}:{index:06d}",
            kind,
            int(self._number[index]),
            int(self._near[index]),
            bool(self._subject_has_second[index]),
        )

    def object(self, kind: str, number: int) -> Entity:
        """The object of a number in the pool of its kind; a city may be a subject too."""
        has_second = bool(self._object_has_second[OBJECT_KINDS.index(kind), number])
        return Entity(f"{kind}:{number:06d}", kind, number, Near.NONE, has_second)

    def city(self, number: int) -> Entity:
        """The city of a number."""
        return self.object("city", number)

    def near(self, fact: WorldFact) -> list[str]:
        """Ids of the subjects whose name nearly equals that of the fact's subject."""
        if fact.relation.subject == "city":
            return []
        index = int(self._subject[fact.number])
        if self._near[index]:
            return [self.subject(index - 1).id]
        if index + 1 < len(self._near) and self._near[index + 1]:
            return [self.subject(index + 1).id]
        return []

    def hops(self, fact: WorldFact) -> list[WorldFact]:
        """The two facts from which a composed fact follows; none for others."""
        if not fact.relation.composed:
            return []
        first = self.fact(fact.number - 1)
        return [first, self.fact(first.object.number)]

    def entities_with_second_name(self) -> tuple[np.ndarray, np.ndarray]:
        """Subjects ``[n]``, and objects as (place in ``OBJECT_KINDS``, number) ``[m, 2]``."""
        return np.flatnonzero(self._subject_has_second), np.argwhere(self._object_has_second)
