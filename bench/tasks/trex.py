"""T-REx fact tracing from local files in the release's format (``bench.tasks.records``).

Source: Chang et al., arXiv 2410.17413, sections 3 and 4, and its public data release.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import Enum

from bench.core import progress
from bench.core.errors import UserError
from bench.core.fields import part_of_key
from bench.storage.files import File, expand, fingerprints
from bench.storage.jsonlines import Place
from bench.tasks import inputs
from bench.tasks.base import Query, TaskBuilder, separator_behind
from bench.tasks.facts import AskedFact, FactQueries, FactsConfig
from bench.tasks.passages import Passage
from bench.tasks.records import N_PROMPTS, Sentence, read_sentences

GENERATED = "generated:"  # begins the id of a passage that is no sentence of the files


class MissingSentences(str, Enum):
    """The answer to a sentence id that a fact lists and no sentences file holds."""

    error = "error"
    skip = "skip"


@dataclass
class TRexConfig(FactsConfig):
    """Settings; ``conf/task/trex.yaml`` says what each is for."""

    sentences: str = part_of_key()
    n_passages: int | None = part_of_key(at_least=1)
    keep_gold: bool = part_of_key()
    missing_sentences: MissingSentences = part_of_key()
    statements: int = part_of_key(at_least=0, at_most=N_PROMPTS - 1)


class _Gold:
    """The sentences that state asked facts; it grows with the gold of the asked facts only."""

    def __init__(self, asked: list[AskedFact]) -> None:
        self._asked = {fact.query.query_id for fact in asked}
        self._listed: dict[str, list[str]] = {}
        for fact in asked:
            for sentence_id in fact.sentences:
                self._listed.setdefault(sentence_id, []).append(fact.query.query_id)
        self.places: dict[str, Place] = {}
        self.stated: set[str] = set()

    def facts(self, place: Place, sentence: Sentence) -> list[str]:
        """The asked facts that ``sentence`` is gold for, by the fact's list or by its own.

        Raises:
            UserError: another gold sentence has the same id.
        """
        listed = self._listed.get(sentence.sentence_id, [])
        own = [fact for fact in sentence.fact_triples if fact in self._asked]
        facts = list(dict.fromkeys(own + listed))
        if facts:
            first = self.places.setdefault(sentence.sentence_id, place)
            if first != place:
                raise inputs.repeated(sentence.sentence_id, "sentence_id", first, place)
            self.stated.update(facts)
        return facts

    def missing(self) -> set[str]:
        """Listed sentence ids that ``facts`` has not met."""
        return self._listed.keys() - self.places.keys()


class TRex(TaskBuilder):
    """Facts as queries, sentences as candidates, both streamed from files.

    A sentence is correct for a fact if the fact lists it (``trex_sentences``) or it lists the fact
    (``fact_triples``). Facts without such a sentence are asked too, and counted. With
    ``statements``, passages made of a fact's other prompts and its answer stand behind the
    sentences, with ids that begin with ``generated:``; each is correct for its own fact.

    Facts are read twice; sentences once, or twice if they are sampled. Memory grows with the asked
    facts and their gold sentences, and by 8 bytes a fact; never with the number of sentences.

    Repeated fact ids are an error. Repeated sentence ids are one where both are gold for an asked
    fact; others would take memory for every id of the corpus, and change no result.

    Raises:
        UserError: a setting out of range; faulty or missing files; no fact left to ask; listed
            sentences that no file holds; gold sentences that exceed ``n_passages``.
    """

    Config = TRexConfig

    def __init__(self, config: TRexConfig) -> None:
        super().__init__(config)
        self._facts = FactQueries(config, self.counts)
        self._asked: list[AskedFact] = []
        self._rows: dict[str, list[int]] = {}

    def fingerprint(self) -> dict[str, object]:
        """Settings and the fingerprints of the files; the seed only where something is sampled."""
        files = self._facts.fingerprint() | {"sentences": fingerprints(self._files())}
        settings = {**asdict(self.config), **files}
        if self.config.n_queries is None and self.config.n_passages is None:
            del settings["seed"]
        if self.config.statements == 0:
            del settings["statements"]
        return settings

    def passages(self) -> Iterator[Passage]:
        """The sentences, in the order of the files, less those left out by sampling."""
        self._asked = self._facts.asked()
        gold = _Gold(self._asked)
        bound = self._key_bound(gold)
        read = gold_rows = row = 0
        for key, place, sentence in self._sentences():
            read += 1
            facts = gold.facts(place, sentence)
            if not (key < bound or (facts and self.config.keep_gold)):
                continue
            for fact in facts:
                self._rows.setdefault(fact, []).append(row)
            gold_rows += bool(facts)
            stated = tuple(dict.fromkeys([*sentence.fact_triples, *facts]))
            yield Passage(row, sentence.sentence_id, sentence.text, fact_ids=stated)
            row += 1
        if self.config.n_passages is None:  # where they are sampled, the first pass has checked it
            self._check_missing(gold)
        self.counts |= {
            "passages_read": read,
            "passages_left_out_by_sampling": read - row,
            "gold_passages": gold_rows,
            "gold_passages_left_out_by_sampling": len(gold.places) - gold_rows,
            "gold_passages_always_kept": int(self.config.keep_gold),
            "queries_without_gold_sentence": len(self._asked) - len(gold.stated),
            "queries_with_gold_left_out_by_sampling": len(gold.stated) - len(self._rows),
        }
        if self.config.statements:
            yield from self._statements(row)

    def _statements(self, row: int) -> Iterator[Passage]:
        """Passages made of the prompts that are not asked, each with the answer, from this row."""
        start = row
        for fact in self._asked:
            for number, prompt in list(fact.other_prompts.items())[: self.config.statements]:
                separator = separator_behind(prompt, self.config.separator)
                text = f"{prompt}{separator}{fact.query.target}"
                fact_id = fact.query.query_id
                passage_id = f"{GENERATED}{fact_id}:prompt{number}"
                self._rows.setdefault(fact_id, []).append(row)
                full_stop = "" if text.endswith(".") else "."
                yield Passage(row, passage_id, text + full_stop, fact_ids=(fact_id,))
                row += 1
        self.counts["generated_passages"] = row - start

    def queries(self) -> Iterator[Query]:
        """The sampled facts, in the order of the files."""
        for fact in self._asked:
            rows = self._rows.get(fact.query.query_id, [])
            yield replace(fact.query, gold_rows=tuple(rows))

    def _files(self) -> list[File]:
        return expand(self.config.sentences, "task.sentences")

    def _sentences(self) -> Iterator[tuple[int, Place, Sentence]]:
        for row, (place, sentence) in enumerate(read_sentences(self._files())):
            yield inputs.row_key(self.config.seed, inputs.PASSAGE_ROWS, row), place, sentence

    def _key_bound(self, gold: _Gold) -> int:
        """The row key below which a sentence is sampled, found in a first pass over the sentences.

        Gold sentences that are always kept take their part of ``n_passages``.
        """
        n = self.config.n_passages
        if n is None:
            return inputs.ALL_KEYS
        kept = 0
        others = inputs.SmallestKeys(n)
        for key, place, sentence in progress.track(
            self._sentences(), "sample sentences", unit="sentences"
        ):
            if gold.facts(place, sentence) and self.config.keep_gold:
                kept += 1
            else:
                others.add(key)
        self._check_missing(gold)  # checked before the long second pass
        if kept > n:
            raise UserError(
                f"{n} is less than the {kept} gold sentences of the asked facts",
                where="task.n_passages",
                fix=f"set {kept} or more, or task.n_queries lower, or task.keep_gold=false",
            )
        return others.bound(n - kept)

    def _check_missing(self, gold: _Gold) -> None:
        missing = gold.missing()
        self.counts["gold_sentences_missing"] = len(missing)
        if not missing:
            return
        fact = next(fact for fact in self._asked if missing.intersection(fact.sentences))
        example = next(sentence for sentence in fact.sentences if sentence in missing)
        error = fact.place.error(
            "trex_sentences",
            f"no sentences file holds {example!r} of fact {fact.query.query_id!r}, "
            f"nor {len(missing) - 1} more of the sentences that the asked facts list",
            "check task.sentences (are all shards there?), "
            "or set task.missing_sentences=skip to leave them out",
        )
        if self.config.missing_sentences == MissingSentences.error:
            raise error
        progress.say(str(error))
