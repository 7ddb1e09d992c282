"""Fact tracing in C4: facts of the release, passages cut from local shards in the public layout.

Source: Chang et al., arXiv 2410.17413, sections 3 and 5; C4 is of Raffel et al., arXiv 1910.10683.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from bench.core import progress
from bench.core.errors import UserError
from bench.core.fields import part_of_key
from bench.storage import jsonlines
from bench.storage.files import File, expand, fingerprints
from bench.tasks import inputs
from bench.tasks.base import Query, TaskBuilder
from bench.tasks.chunks import Chunker
from bench.tasks.facts import AskedFact, FactQueries, FactsConfig, Stratify, with_frequency
from bench.tasks.frequency import MentionCounter
from bench.tasks.passages import Passage
from bench.tasks.records import passage_text

_PACKING = (".gz", ".jsonl", ".json")  # endings that say how a shard is packed, not which one it is


class Frequency(str, Enum):
    """The source of a fact's frequency: counted in the passages, or given by the facts."""

    counted = "counted"
    given = "given"


@dataclass
class C4Config(FactsConfig):
    """Settings; ``conf/task/c4.yaml`` says what each is for."""

    passages: str = part_of_key()
    n_passages: int | None = part_of_key(at_least=1)
    passage_tokens: int | None = part_of_key(at_least=1)
    tokenizer: str | None = part_of_key()
    frequency: Frequency = part_of_key()


class C4(TaskBuilder):
    """Facts as queries, passages cut from documents ``{text, url, timestamp or date}``, streamed.

    Nobody has annotated which passages state a fact: rankings are judged (``metric=lexical``,
    ``metric=nli``). A fact's frequency is the number of passages, before any are left out by
    sampling, that name both of its entities.

    A passage's id is its shard's name, line and number in the document, as
    ``c4-train.00000-of-01024:17:0``: it needs no memory of other ids, finds the document again, and
    is the same in a run on one shard and on all 1,024. It changes if shards are cut anew, which the
    public ones are not.

    The shards are read once, or twice if passages are sampled or facts are balanced over a counted
    frequency. Memory grows with the asked facts (of the latter: all facts) and their names; never
    with the documents.

    Raises:
        UserError: a setting out of range; faulty or missing files; two shards of one name; no fact
            left to ask.
    """

    version = 2
    Config = C4Config

    def __init__(self, config: C4Config) -> None:
        super().__init__(config)
        self.annotated = False
        self._facts = FactQueries(config, self.counts)
        tokenizer = None if config.tokenizer is None else Path(config.tokenizer)
        self._chunker = Chunker(config.passage_tokens, tokenizer)
        self._counter: MentionCounter | None = None
        self._asked: list[AskedFact] = []

    def fingerprint(self) -> dict[str, object]:
        """Settings and the fingerprints of the files; the seed only where something is sampled."""
        settings = {**asdict(self.config), **self._facts.fingerprint()}
        settings["passages"] = fingerprints(self._files())
        if self.config.tokenizer is not None:
            path = Path(self.config.tokenizer).expanduser() / "tokenizer.json"
            settings["tokenizer"] = fingerprints([path])
        if self.config.n_queries is None and self.config.n_passages is None:
            del settings["seed"]
        return settings

    def passages(self) -> Iterator[Passage]:
        """The passages, in the order of the shards, less those left out by sampling."""
        bound, counted = self._choose()
        uncounted = None if counted else self._counter
        row = read = 0
        for key, passage_id, text in self._passages():
            read += 1
            if uncounted is not None:
                uncounted.add_passage(text)
            if key < bound:
                yield Passage(row, passage_id, text)
                row += 1
        self.counts |= {"passages_read": read, "passages_left_out_by_sampling": read - row}

    def queries(self) -> Iterator[Query]:
        """The sampled facts, in the order of the files."""
        if self._counter is None:
            yield from (asked.query for asked in self._asked)
            return
        frequencies = self._counter.frequencies()
        unnamed = 0
        for asked in self._asked:
            frequency = frequencies[asked.query.query_id]
            unnamed += frequency == 0
            yield with_frequency(asked.query, frequency)
        self.counts["queries_that_no_passage_names"] = unnamed

    def _choose(self) -> tuple[int, bool]:
        """Choose the facts to ask.

        Returns:
            the row key below which a passage is kept, and whether mentions are counted already.
        """
        config = self.config
        counts = config.frequency == Frequency.counted
        if counts and config.stratify == Stratify.frequency and config.n_queries is not None:
            self._counter = MentionCounter()
            for fact in self._facts.allowed():
                self._counter.add_fact(
                    fact.fact_id,
                    (fact.entity0, *fact.entity0_alias),
                    (fact.entity1, *fact.entity1_alias),
                )
            bound = self._first_pass()
            self._asked = self._facts.asked(self._counter.frequencies())
            return bound, True
        self._asked = self._facts.asked()
        if counts:
            self._counter = MentionCounter()
            for query in (asked.query for asked in self._asked):
                self._counter.add_fact(
                    query.query_id, query.subject_names, (query.target, *query.answer_names)
                )
        if config.n_passages is None:
            return inputs.ALL_KEYS, False
        return self._first_pass(), True

    def _first_pass(self) -> int:
        """Count every passage; returns the row key below which a passage is kept."""
        n = self.config.n_passages
        keys = inputs.SmallestKeys(n or 0)
        for key, _, text in progress.track(self._passages(), "count passages", unit="passages"):
            if n is not None:
                keys.add(key)
            if self._counter is not None:
                self._counter.add_passage(text)
        return inputs.ALL_KEYS if n is None else keys.bound(n)

    def _files(self) -> list[File]:
        return expand(self.config.passages, "task.passages")

    def _passages(self) -> Iterator[tuple[int, str, str]]:
        """Row key, id and text of every passage; counts the documents."""
        row = documents = empty = 0
        for shard, path in _named(self._files()):
            for place, record in jsonlines.read_texts(path):
                text = passage_text(record, place)
                documents += 1
                number = -1
                for number, passage in enumerate(self._chunker.passages(text)):
                    key = inputs.row_key(self.config.seed, inputs.PASSAGE_ROWS, row)
                    yield key, f"{shard}:{place.line}:{number}", passage
                    row += 1
                empty += number < 0
        self.counts |= {"documents_read": documents, "documents_without_text": empty}


def _named(paths: list[File]) -> list[tuple[str, File]]:
    """Each shard with its name, less the endings that tell how it is packed.

    Raises:
        UserError: two shards have the same name.
    """
    named: dict[str, File] = {}
    for path in paths:
        name = path.name
        for ending in _PACKING:
            name = name.removesuffix(ending)
        first = named.setdefault(name, path)
        if first != path:
            raise UserError(
                f"shard {name!r} is also {first}: passages of both would have the same ids",
                where=str(path),
                fix="leave one out of task.passages, or rename it",
            )
    return list(named.items())
