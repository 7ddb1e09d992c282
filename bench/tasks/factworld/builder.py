"""The tasks ``factworld`` and ``replaced``: an invented world, its corpus and its queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import ClassVar

import numpy as np

from bench.core.errors import UserError
from bench.tasks.base import Query, TaskBuilder
from bench.tasks.buckets import frequency_bucket
from bench.tasks.factworld.config import FactWorldConfig, ReplacedWorldConfig
from bench.tasks.factworld.corpus import Corpus
from bench.tasks.factworld.names import Namer
from bench.tasks.factworld.sentences import ALSO_KNOWN_AS, MAX_FREQUENCY, Writer
from bench.tasks.factworld.wording import ReplacedWording, Wording
from bench.tasks.factworld.world import MIN_FACTS, World, WorldFact, mean_frequency
from bench.tasks.passages import Passage

# Share of the passages kept for introductions and unrelated sentences if n_facts is null.
_OTHER_SHARE = 0.17


# First frequencies of the buckets that queries are grouped by, and where the last one ends.
_BUCKETS = (1, 2, 4, 8, 16, 33, MAX_FREQUENCY + 1)


class FactWorld(TaskBuilder):
    """Invented entities and facts, with every sentence annotated by what it says.

    Facts are stated 1 to ``max_frequency`` times, in phrasings other than those they are asked in.
    Sentences also state facts under second names, deny them, state the two facts from which a
    third one follows, speak of entities with nearly the same name, or state nothing.

    Everything follows from the seed. Memory grows by 16 bytes a passage and about 20 a fact.

    Raises:
        UserError: a setting out of range, or too few passages for the facts.
    """

    Config: ClassVar[type] = FactWorldConfig
    version: ClassVar[int] = 1
    _all_objects_have_second_name: ClassVar[bool] = False

    def __init__(self, config: FactWorldConfig) -> None:
        super().__init__(config)
        self._world = World(
            self._n_facts(),
            config.n_objects,
            max_frequency=config.max_frequency,
            zipf_exponent=config.zipf_exponent,
            alias_rate=config.alias_rate,
            near_name_rate=config.near_name_rate,
            all_objects_have_second_name=self._all_objects_have_second_name,
            seed=config.seed,
        )
        self._wording = self._make_wording(self._world)
        self._writer = Writer(Namer(config.seed), self._wording)
        self._corpus = Corpus(
            self._world,
            self._writer,
            n_passages=config.n_passages,
            n_denied=round(config.denied_rate * config.n_passages),
            n_introductions=config.alias_introductions,
            seed=config.seed,
        )
        self._asked = self._sample()

    def fingerprint(self) -> dict[str, object]:
        """The settings, from which everything follows."""
        return asdict(self.config)

    def passages(self) -> Iterator[Passage]:
        """The sentences, in seeded order."""
        counts = dict.fromkeys(("plain", "alias", "denied", "introduction", "unrelated"), 0)
        for row in range(self.config.n_passages):
            sentence = self._corpus.sentence(row)
            counts[_counted_as(sentence.statement)] += 1
            facts = () if sentence.fact is None else (self._fact_id(sentence.fact),)
            yield Passage(row, f"s{row:07d}", sentence.text, facts, sentence.statement)
        self.counts |= {
            "facts": self._world.n_facts,
            "facts_left_out_by_sampling": len(self._wording.asked()) - len(self._asked),
            **{f"passages_{kind}": count for kind, count in counts.items()},
        }

    def queries(self) -> Iterator[Query]:
        """The asked facts, in the order of their numbers."""
        rows = self._corpus.rows_by_fact()
        for index in self._asked.tolist():
            fact = self._world.fact(index)
            subject, relation, obj = fact.triple
            yield Query(
                query_id=self._fact_id(fact),
                prompt=self._writer.prompt(fact, self.config.prompt),
                target=self._writer.name(fact.object),
                relation=relation,
                gold_rows=rows.of(index),
                frequency=fact.frequency,
                slices={
                    "relation": relation,
                    "frequency": frequency_bucket(fact.frequency, _BUCKETS),
                },
                statement={
                    "subject": subject,
                    "relation": relation,
                    "object": obj,
                    "hops": self._hops(fact),
                    "near": self._world.near(fact),
                },
            )

    def _make_wording(self, world: World) -> Wording:
        return Wording(world, self.config.alias_statement_rate)

    def _hops(self, fact: WorldFact) -> list[list[str]]:
        return [list(hop.triple) for hop in self._world.hops(fact)]

    def _fact_id(self, fact: WorldFact) -> str:
        return f"fw:{fact.relation.name}:{fact.number:06d}"

    def _n_facts(self) -> int:
        config = self.config
        if config.n_facts is not None:
            return int(config.n_facts)
        stated = (1 - config.denied_rate - _OTHER_SHARE) * config.n_passages
        n_facts = int(stated / mean_frequency(config.max_frequency, config.zipf_exponent))
        if n_facts < MIN_FACTS:
            raise UserError(
                f"{config.n_passages:,} passages hold {n_facts} facts; a world has at least "
                f"{MIN_FACTS}",
                where="task.n_passages",
                fix="raise it, or lower task.max_frequency",
            )
        return n_facts

    def _sample(self) -> np.ndarray:
        """The facts to ask, ascending: all, or as many of each frequency bucket if possible."""
        asked, n = self._wording.asked(), self.config.n_queries
        if n is None:
            return asked
        if n > len(asked):
            raise UserError(
                f"expected at most {len(asked):,}, the facts that can be asked; found {n:,}",
                where="task.n_queries",
                fix="set it to null for all of them",
            )
        asked = np.random.default_rng([self.config.seed, 6]).permutation(asked)
        buckets = np.array(
            [frequency_bucket(int(f), _BUCKETS) for f in self._world.frequency[asked]]
        )
        place = np.zeros(len(asked), dtype=np.int64)  # of each fact among those of its bucket
        for bucket in np.unique(buckets):
            place[buckets == bucket] = np.arange((buckets == bucket).sum())
        return np.sort(asked[np.argsort(place, kind="stable")[:n]])


class ReplacedWorld(FactWorld):
    """A world in which no sentence that states an asked fact contains the words of its answer.

    After DATE-LM (arXiv 2507.09424), where the true entity is consistently replaced by another in
    the training data. Here each object has two names, and the phrasing decides which is used: some
    phrasings always have the usual name, the others always the second one. An asked fact is stated
    in phrasings of the second kind only, and asked in one of the first kind, where the answer is
    the usual name. So the target's words occur in sentences about other subjects, never in gold.

    The corpus still supports the answer, in two ways. Bridging facts, which are not asked, are
    stated in phrasings of both kinds and show which names belong together. And the two names are
    equated outright; these sentences are among the query's ``hops`` and count as one hop of two.
    Gold passages have the manner ``alias``. Matching the subject's words still helps.

    Whether a model takes these steps is for its size to show. One of 0.5M parameters learns what
    gold says (88% of the facts stated 8 times or more, asked as gold puts them) and not what it is
    called elsewhere: it recalls 8% of the targets, however often stated, against 33% in
    ``FactWorld``. What it says there is the prior of the relation.
    """

    Config = ReplacedWorldConfig
    _all_objects_have_second_name = True

    def _make_wording(self, world: World) -> Wording:
        config: ReplacedWorldConfig = self.config
        return ReplacedWording(
            world, config.alias_statement_rate, config.bridge_rate, seed=config.seed
        )

    def _hops(self, fact: WorldFact) -> list[list[str]]:
        return [*super()._hops(fact), [fact.object.id, ALSO_KNOWN_AS, fact.object.id]]

    def _fact_id(self, fact: WorldFact) -> str:
        return f"rw:{fact.relation.name}:{fact.number:06d}"


def _counted_as(statement: dict[str, str] | None) -> str:
    if statement is None:
        return "unrelated"
    return "introduction" if statement["relation"] == ALSO_KNOWN_AS else statement["manner"]
