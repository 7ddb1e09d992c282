"""A task of one's own: queries and passages from JSON-lines files, with or without gold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from bench.core.errors import UserError
from bench.core.fields import part_of_key
from bench.storage import jsonlines
from bench.storage.files import File, expand, fingerprints
from bench.storage.jsonlines import Json, Place
from bench.tasks import inputs
from bench.tasks.base import Answers, Query, TaskBuilder
from bench.tasks.passages import Passage
from bench.tasks.records import (
    count_field,
    id_field,
    ids_field,
    optional_field,
    passage_text,
    strings_field,
    text_field,
)


@dataclass
class JsonLinesConfig:
    """Settings; ``conf/task/jsonl.yaml`` says what each is for."""

    queries: str
    passages: str
    separator: str
    chat: bool
    answers: Answers
    n_queries: int | None = part_of_key(at_least=1)
    seed: int = part_of_key()


@dataclass(frozen=True)
class _Asked:
    """A query without its gold rows, its place in the file, and the ids of its gold passages."""

    query: Query
    place: Place
    gold: tuple[str, ...]


class JsonLines(TaskBuilder):
    """Queries ``{query_id, prompt, target}`` and passages ``{passage_id, text}``, one a line.

    The release's sentences are read as passages, too.

    A query may also hold ``gold`` (ids of the passages that state it), ``relation``, ``frequency``
    (how often the corpus states it), ``is_repetition``, ``slices`` (label by group, for
    breakdowns), and names as the release's facts have them: ``entity0`` (the subject) and
    ``entity0_alias``, which only a lexical judge reads, and ``entity1_alias`` (other names of the
    target), which ``task.answers`` may accept as answers, too. If no query
    holds ``gold``, the task is not annotated, and only metrics that need no annotation apply; if
    some do, the others have no correct passage, and are counted.

    Memory grows with the sampled queries and by 8 bytes a passage.

    Raises:
        UserError: a setting out of range; faulty or missing files; repeated ids; a gold id that no
            passage has.
    """

    Config = JsonLinesConfig

    def __init__(self, config: JsonLinesConfig) -> None:
        super().__init__(config)
        self._asked: list[_Asked] = []
        self._rows: dict[str, int] = {}

    def fingerprint(self) -> dict[str, object]:
        """Settings and the fingerprints of the files; the seed only where something is sampled."""
        files = {kind: fingerprints(self._files(kind)) for kind in ("queries", "passages")}
        settings = {**asdict(self.config), **files}
        if self.config.n_queries is None:
            del settings["seed"]
        return settings

    def passages(self) -> Iterator[Passage]:
        """All passages, in the order of the files."""
        self._asked = self._ask()
        stated: dict[str, list[str]] = {}
        for asked in self._asked:
            for passage_id in asked.gold:
                stated.setdefault(passage_id, []).append(asked.query.query_id)
        ids = inputs.UniqueIds("passage_id")
        is_empty = True
        for row, (place, record) in enumerate(self._read("passages")):
            is_empty = False
            passage_id = _passage_id(record, place)
            ids.add(passage_id)
            facts = stated.get(passage_id, [])
            if facts:
                self._rows[passage_id] = row
            yield Passage(row, passage_id, passage_text(record, place), fact_ids=tuple(facts))
        ids.check((p, _passage_id(record, p)) for p, record in self._read("passages"))
        if not is_empty:  # an empty corpus is refused as such by whoever takes the passages
            self._check_gold()

    def queries(self) -> Iterator[Query]:
        """The sampled queries, in the order of the files."""
        for asked in self._asked:
            rows = {self._rows[passage_id] for passage_id in asked.gold}
            yield replace(asked.query, gold_rows=tuple(sorted(rows)))

    def _files(self, kind: str) -> list[File]:
        return expand(getattr(self.config, kind), f"task.{kind}")

    def _read(self, kind: str) -> Iterator[tuple[Place, Json]]:
        for path in self._files(kind):
            yield from jsonlines.read_texts(path)

    def _ask(self) -> list[_Asked]:
        """Sample the queries, and set ``annotated``: whether any query has gold."""
        n = self.config.n_queries
        ids = inputs.UniqueIds("query_id")
        keys = inputs.SmallestKeys(n or 0)
        has_gold, read = False, 0
        for row, (place, record) in enumerate(self._read("queries")):
            read += 1
            ids.add(id_field(record, place, "query_id"))
            has_gold |= record.get("gold") is not None
            if n is not None:
                keys.add(self._key(row))
        ids.check((p, id_field(record, p, "query_id")) for p, record in self._read("queries"))
        chosen = None if n is None else frozenset(keys.values().tolist())
        asked = [
            _asked(record, place)
            for row, (place, record) in enumerate(self._read("queries"))
            if chosen is None or self._key(row) in chosen
        ]
        if not asked:  # said now, before the passages are read
            raise UserError("holds no query", where=self.config.queries, fix="set task.queries")
        # Set here, as it depends on the files.
        self.annotated = has_gold
        without = sum(not query.gold for query in asked)
        self.counts |= {
            "queries_read": read,
            "queries_left_out_by_sampling": read - len(asked),
            "queries_without_gold": without,
        }
        return asked

    def _key(self, row: int) -> int:
        return inputs.row_key(self.config.seed, inputs.FACT_ROWS, row)

    def _check_gold(self) -> None:
        for asked in self._asked:
            for passage_id in asked.gold:
                if passage_id not in self._rows:
                    raise asked.place.error(
                        "gold",
                        f"no passage has the id {passage_id!r}",
                        "check task.passages (are all files there?), or correct the id",
                    )


def _passage_id(record: Json, place: Place) -> str:
    """A passage's id, also under the name that it has in the release's sentences."""
    is_sentence = "sentence_id" in record and "passage_id" not in record
    return id_field(record, place, "sentence_id" if is_sentence else "passage_id")


def _asked(record: Json, place: Place) -> _Asked:
    query = Query(
        query_id=id_field(record, place, "query_id"),
        prompt=text_field(record, place, "prompt"),
        target=text_field(record, place, "target"),
        relation=optional_field(record, place, "relation", (str,)) or "",
        frequency=count_field(record, place, "frequency"),
        is_repetition=bool(optional_field(record, place, "is_repetition", (bool,))),
        slices=_slices(record, place),
        subject_names=_subject_names(record, place),
        answer_names=strings_field(record, place, "entity1_alias"),
    )
    return _Asked(query, place, ids_field(record, place, "gold", "passage_id"))


def _subject_names(record: Json, place: Place) -> tuple[str, ...]:
    subject = optional_field(record, place, "entity0", (str,))
    return ((subject,) if subject else ()) + strings_field(record, place, "entity0_alias")


def _slices(record: Json, place: Place) -> dict[str, str]:
    slices = optional_field(record, place, "slices", (dict,)) or {}
    if not all(isinstance(label, str) for label in slices.values()):
        raise place.error("slices", f"expected a text label for each group, found {slices!r:.60}")
    relation = record.get("relation")
    return {**({"relation": relation} if relation else {}), **slices}
