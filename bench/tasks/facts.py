"""Facts of the release as queries: which are asked, in which words, and what is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from bench.core import progress
from bench.core.errors import UserError
from bench.core.fields import part_of_key
from bench.storage.files import expand, fingerprints
from bench.storage.jsonlines import Place
from bench.tasks import inputs
from bench.tasks.base import Answers, Query
from bench.tasks.buckets import POWERS_OF_TEN, frequency_bucket
from bench.tasks.query_list import QueryList
from bench.tasks.records import N_PROMPTS, Fact, read_facts


class Stratify(str, Enum):
    """The property that sampled queries are balanced over."""

    relation = "relation"
    frequency = "frequency"
    none = "none"


class Repetitions(str, Enum):
    """Whether facts whose target already occurs in the prompt's subject are asked."""

    keep = "keep"
    exclude = "exclude"


@dataclass
class FactsConfig:
    """The settings of every task that asks facts; ``conf/task/trex.yaml`` says what each is for."""

    facts: str
    queries_from: str | None
    n_queries: int | None = part_of_key(at_least=1)
    stratify: Stratify = part_of_key()
    prompt: int = part_of_key(at_least=0, at_most=N_PROMPTS - 1)
    repetitions: Repetitions = part_of_key()
    separator: str = part_of_key()
    chat: bool = part_of_key()
    answers: Answers = part_of_key()
    seed: int = part_of_key()


@dataclass(frozen=True)
class AskedFact:
    """A sampled fact.

    Attributes:
        query: its query, without gold.
        place: its place in the file.
        sentences: the ids of the sentences that it lists.
        other_prompts: its prompts that are not asked, by their number.
    """

    query: Query
    place: Place
    sentences: tuple[str, ...]
    other_prompts: dict[int, str]


def with_frequency(query: Query, frequency: int | None) -> Query:
    """The query with its frequency, and with its bucket as a slice."""
    slices = {**query.slices, "frequency": frequency_bucket(frequency, POWERS_OF_TEN)}
    return replace(query, frequency=frequency, slices=slices)


class FactQueries:
    """The choice of facts, and the queries made of them.

    Facts are read two or three times and never held.
    Memory grows with the asked facts, and by 8 bytes a fact.

    Args:
        counts: receives how many facts were read and left out, by reason.
    """

    def __init__(self, config: FactsConfig, counts: dict[str, int]) -> None:
        self._config = config
        self._counts = counts

    def fingerprint(self) -> dict[str, object]:
        """The fingerprints of the files that the facts are read from."""
        files = {"facts": self._config.facts, "queries_from": self._config.queries_from}
        return {
            kind: pattern and fingerprints(expand(pattern, f"task.{kind}"))
            for kind, pattern in files.items()
        }

    def allowed(self) -> Iterator[Fact]:
        """The facts that may be asked, of which ``asked`` samples, in the order of the files."""
        return (fact for _, _, fact in self._facts() if self._allowed(fact))

    def asked(self, frequencies: Mapping[str, int] | None = None) -> list[AskedFact]:
        """The sampled facts, in the order of the files.

        Args:
            frequencies: the frequency of every allowed fact by its id, to balance over instead of
                ``c4_frequency``.

        Raises:
            UserError: a faulty or missing file, a repeated fact id, or no fact left to ask.
        """
        prompts = self._listed_prompts()
        chosen = self._choose(prompts, frequencies or {})
        asked = [
            self._asked(fact, place, prompts)
            for key, place, fact in self._facts()
            if self._may_be_asked(fact, prompts) and (chosen is None or key in chosen)
        ]
        counts = self._counts
        left_out = counts["facts_left_out_as_repetition"]
        left_out += counts.get("facts_not_in_queries_from", 0)
        counts["facts_left_out_by_sampling"] = counts["facts_read"] - left_out - len(asked)
        if not asked:  # said now, before hours of reading passages
            raise UserError(
                "no fact is left to ask", where=self._config.facts, fix="check task.repetitions"
            )
        return asked

    def _facts(self) -> Iterator[tuple[int, Place, Fact]]:
        files = expand(self._config.facts, "task.facts")
        for row, (place, fact) in enumerate(read_facts(files)):
            yield inputs.row_key(self._config.seed, inputs.FACT_ROWS, row), place, fact

    def _listed_prompts(self) -> dict[str, int] | None:
        """The prompt that is asked of each fact in ``queries_from``; None without such a list."""
        if self._config.queries_from is None:
            return None
        queries = QueryList(expand(self._config.queries_from, "task.queries_from"))
        for _, _, fact in progress.track(self._facts(), "match facts", unit="facts"):
            queries.add(fact)
        return queries.prompts(self._counts)

    def _choose(
        self, prompts: Mapping[str, int] | None, frequencies: Mapping[str, int]
    ) -> frozenset[int] | None:
        """Row keys of the sampled facts, None for all; counts facts and rejects repeated ids."""
        n = self._config.n_queries
        ids = inputs.UniqueIds("fact_id")
        strata: dict[str, inputs.SmallestKeys] = {}
        read = repetitions = listed = 0
        for key, _, fact in progress.track(self._facts(), "read facts", unit="facts"):
            ids.add(fact.fact_id)
            read += 1
            if prompts is not None and fact.fact_id not in prompts:
                continue
            listed += 1
            if not self._allowed(fact):
                repetitions += 1
            elif n is not None:
                frequency = frequencies.get(fact.fact_id, fact.c4_frequency)
                strata.setdefault(self._stratum(fact, frequency), inputs.SmallestKeys(n)).add(key)
        ids.check((place, fact.fact_id) for _, place, fact in self._facts())
        self._counts |= {"facts_read": read, "facts_left_out_as_repetition": repetitions}
        if prompts is not None:
            self._counts["facts_not_in_queries_from"] = read - listed
        return None if n is None else inputs.balanced(strata, n)

    def _may_be_asked(self, fact: Fact, prompts: Mapping[str, int] | None) -> bool:
        return self._allowed(fact) and (prompts is None or fact.fact_id in prompts)

    def _allowed(self, fact: Fact) -> bool:
        return self._config.repetitions == Repetitions.keep or not fact.is_repetition

    def _stratum(self, fact: Fact, frequency: int | None) -> str:
        if self._config.stratify == Stratify.relation:
            return fact.relation
        if self._config.stratify == Stratify.frequency:
            return frequency_bucket(frequency, POWERS_OF_TEN)
        return ""

    def _asked(self, fact: Fact, place: Place, prompts: Mapping[str, int] | None) -> AskedFact:
        number = self._config.prompt if prompts is None else prompts[fact.fact_id]
        others = {other: text for other, text in enumerate(fact.prompts) if other != number}
        return AskedFact(self._query(fact, number), place, fact.trex_sentences, others)

    def _query(self, fact: Fact, number: int) -> Query:
        query = Query(
            query_id=fact.fact_id,
            prompt=fact.prompts[number],
            target=fact.entity1,
            relation=fact.relation,
            is_repetition=fact.is_repetition,
            slices={"relation": fact.relation},
            subject_names=(fact.entity0, *fact.entity0_alias),
            answer_names=fact.entity1_alias,
        )
        return with_frequency(query, fact.c4_frequency)
