"""The release's records (facts, sentences, retrievals) as typed dataclasses.

Source: the public data release of Chang et al. (2410.17413). Field names and the order of fields
are the release's, so that files made here open in the authors' viewer and theirs open here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.storage import jsonlines
from bench.storage.files import File
from bench.storage.jsonlines import Json, Place
from bench.tasks.spans import Spans, spans_field

N_PROMPTS = 3


@dataclass(frozen=True)
class Fact:
    """One (entity0, relation, entity1) fact with its prompts; the target is ``entity1``."""

    fact_id: str
    entity0: str
    relation: str
    entity1: str
    prompts: tuple[str, ...]
    trex_sentences: tuple[str, ...]
    entity0_alias: tuple[str, ...] = ()
    entity1_alias: tuple[str, ...] = ()
    kilt_id: str | None = None
    entity0_uri: str | None = None
    predicate_uri: str | None = None
    entity1_uri: str | None = None
    c4_frequency: int | None = None
    is_repetition: bool = False


@dataclass(frozen=True)
class Sentence:
    """One candidate passage and the ids of the facts that it is annotated with."""

    sentence_id: str
    text: str
    fact_triples: tuple[str, ...] = ()
    abstract_uri: str | None = None
    sent_idx_in_abst: int | None = None


@dataclass(frozen=True)
class RetrievalRecord:
    """One query with its ranked proponents: a line of ``retrievals.jsonl``.

    Lists run from the strongest proponent down, and ``opponents`` from the strongest opponent up.
    ``proponent_correct`` is None where the corpus has no annotation. Fields that are not the
    release's: ``proponent_support``, what each proponent says about the fact
    (``bench.tasks.support``); ``proponent_tail_patch``, Δp of the step on each, null where none was
    made; and ``proponent_spans`` and ``opponent_spans``, what each token adds to a passage's score
    (``bench.tasks.spans``), null for the passages whose scores were not taken apart.
    """

    example_id: str
    query_set: str
    inputs_plaintext: str
    targets_plaintext: str
    proponents: list[str]
    proponent_ids: list[str]
    proponent_scores: list[float]
    fact_id: str | None = None
    relation: str | None = None
    c4_frequency: int | None = None
    c4_frequency_bucket: int | None = None
    has_trex_sentence: bool | None = None
    proponent_correct: list[bool] | None = None
    proponent_ais_scores: list[float] | None = None
    proponent_support: list[str] | None = None
    proponent_tail_patch: list[float | None] | None = None
    proponent_spans: list[Spans | None] | None = None
    opponents: list[str] | None = None
    opponent_ids: list[str] | None = None
    opponent_scores: list[float] | None = None
    opponent_spans: list[Spans | None] | None = None

    def to_json(self) -> Json:
        """The record as the release writes it: absent fields are left out, not null.

        The lists are the record's own, and no copies.
        """
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None}


# ------------------------------------------------------------------ field checks


def text_field(record: Json, place: Place, field: str) -> str:
    """A string that holds more than white space.

    Raises:
        UserError: missing, null, blank or another type, with file, line and field.
    """
    value = record.get(field)
    if isinstance(value, str) and value.strip():
        return value
    shown = "missing" if field not in record else repr(value)[:60]
    raise place.error(field, f"expected a non-empty string, found {shown}")


def passage_text(record: Json, place: Place) -> str:
    """The field ``text`` of a passage, which may be empty, as corpora have such passages.

    Raises:
        UserError: missing or no string, with file, line and field.
    """
    value = record.get("text")
    if isinstance(value, str):
        return value
    raise place.error("text", f"expected a string, found {value!r:.60}")


def optional_field(record: Json, place: Place, field: str, kinds: tuple[type, ...]) -> Any:
    """A value of one of ``kinds``, or None if it is missing or null; True is no integer.

    Raises:
        UserError: another type, with file, line and field.
    """
    value = record.get(field)
    wrong_bool = isinstance(value, bool) and bool not in kinds
    if value is None or (isinstance(value, kinds) and not wrong_bool):
        return value
    names = " or ".join(kind.__name__ for kind in kinds)
    raise place.error(field, f"expected {names} or null, found {repr(value)[:60]}")


def count_field(record: Json, place: Place, field: str) -> int | None:
    """An integer that is not negative, or None if it is missing or null.

    Raises:
        UserError: anything else, with file, line and field.
    """
    value = optional_field(record, place, field, (int,))
    if value is not None and value < 0:
        raise place.error(field, f"expected a count or null, found {value}")
    return value


def strings_field(record: Json, place: Place, field: str) -> tuple[str, ...]:
    """A list of strings, empty if it is missing or null.

    Raises:
        UserError: anything else, with file, line and field.
    """
    value = record.get(field)
    if value is None:
        return ()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise place.error(field, f"expected a list of strings, found {repr(value)[:60]}")


def ids_field(record: Json, place: Place, field: str, key: str) -> tuple[str, ...]:
    """Ids given as strings, as integers, or as objects that hold one under ``key``.

    The release's exact types are unverified, so each form is accepted and anything else rejected;
    missing or null is an empty list.

    Raises:
        UserError: anything else, with file, line and field.
    """
    value = record.get(field)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise place.error(field, f"expected a list of ids, found {repr(value)[:60]}")
    if set(map(type, value)) <= {str} and all(value):
        return tuple(value)
    return tuple(_id(item, place, field, key) for item in value)


def _id(item: Any, place: Place, field: str, key: str) -> str:
    if isinstance(item, dict):
        item = item.get(key, item.get("id"))
    if isinstance(item, str) and item:
        return item
    if isinstance(item, int) and not isinstance(item, bool):
        return str(item)
    raise place.error(
        field, f"expected ids (string, integer or object with {key!r}), found {item!r:.60}"
    )


def id_field(record: Json, place: Place, field: str) -> str:
    """One id, in any of the forms of ``ids_field``; it must be there.

    Raises:
        UserError: missing or of another form, with file, line and field.
    """
    return _id(record.get(field), place, field, field)


def parse_fact(record: Json, place: Place) -> Fact:
    """Validate one line of a facts file."""
    return Fact(
        fact_id=id_field(record, place, "fact_id"),
        entity0=text_field(record, place, "entity0"),
        relation=text_field(record, place, "relation"),
        entity1=text_field(record, place, "entity1"),
        prompts=tuple(text_field(record, place, f"prompt{i}") for i in range(N_PROMPTS)),
        trex_sentences=ids_field(record, place, "trex_sentences", "sentence_id"),
        entity0_alias=strings_field(record, place, "entity0_alias"),
        entity1_alias=strings_field(record, place, "entity1_alias"),
        kilt_id=optional_field(record, place, "kilt_id", (str,)),
        entity0_uri=optional_field(record, place, "entity0_uri", (str,)),
        predicate_uri=optional_field(record, place, "predicate_uri", (str,)),
        entity1_uri=optional_field(record, place, "entity1_uri", (str,)),
        c4_frequency=count_field(record, place, "c4_frequency"),
        is_repetition=bool(optional_field(record, place, "is_repetition", (bool,))),
    )


def parse_sentence(record: Json, place: Place) -> Sentence:
    """Validate one line of a sentences file."""
    return Sentence(
        sentence_id=id_field(record, place, "sentence_id"),
        text=passage_text(record, place),
        fact_triples=ids_field(record, place, "fact_triples", "fact_id"),
        abstract_uri=optional_field(record, place, "abstract_uri", (str,)),
        sent_idx_in_abst=optional_field(record, place, "sent_idx_in_abst", (int,)),
    )


def parse_retrieval(
    record: Json, place: Place, length_of: Callable[[str], int] = len
) -> RetrievalRecord:
    """Validate one line of a retrievals file; unknown fields of other versions are ignored.

    Args:
        length_of: characters of a listed passage; of one that its hash stands for, the passage's.

    Raises:
        UserError: a missing field, a wrong type, a score that is not finite, or lists of unequal
            lengths, with file, line and field.
    """
    if record.get("proponents") is None:
        raise place.error("proponents", "missing")
    proponents, proponent_ids, proponent_scores = _ranking(record, place, "proponent")
    opponents = _ranking(record, place, "opponent")
    has_opponents = record.get("opponents") is not None
    n = len(proponents)
    return RetrievalRecord(
        example_id=id_field(record, place, "example_id"),
        query_set=text_field(record, place, "query_set"),
        inputs_plaintext=text_field(record, place, "inputs_plaintext"),
        targets_plaintext=text_field(record, place, "targets_plaintext"),
        proponents=proponents,
        proponent_ids=proponent_ids,
        proponent_scores=proponent_scores,
        fact_id=None if record.get("fact_id") is None else id_field(record, place, "fact_id"),
        relation=optional_field(record, place, "relation", (str,)),
        c4_frequency=count_field(record, place, "c4_frequency"),
        c4_frequency_bucket=optional_field(record, place, "c4_frequency_bucket", (int,)),
        has_trex_sentence=optional_field(record, place, "has_trex_sentence", (bool,)),
        proponent_correct=_list(record, place, "proponent_correct", bool, n),
        proponent_ais_scores=_list(record, place, "proponent_ais_scores", float, n),
        proponent_support=_list(record, place, "proponent_support", str, n),
        proponent_tail_patch=_changes(record, place, n),
        proponent_spans=spans_field(record, place, "proponent_spans", proponents, length_of),
        opponents=opponents[0] if has_opponents else None,
        opponent_ids=opponents[1] if has_opponents else None,
        opponent_scores=opponents[2] if has_opponents else None,
        opponent_spans=spans_field(record, place, "opponent_spans", opponents[0], length_of),
    )


def _ranking(record: Json, place: Place, side: str) -> tuple[list[str], list[str], list[float]]:
    """Texts, ids and scores of ``proponent`` or ``opponent``: equally long, empty if absent."""
    texts = _list(record, place, f"{side}s", str) or []
    ids = list(ids_field(record, place, f"{side}_ids", "sentence_id"))
    _same_length(ids, place, f"{side}_ids", len(texts))
    scores = _list(record, place, f"{side}_scores", float) or []
    _same_length(scores, place, f"{side}_scores", len(texts))
    return texts, ids, scores


def _list(record: Json, place: Place, field: str, kind: type, length: int | None = None) -> Any:
    value = record.get(field)
    if value is None:
        return None
    if not (isinstance(value, list) and _are(value, kind)):
        name = "finite numbers" if kind is float else kind.__name__
        raise place.error(field, f"expected a list of {name}, found {repr(value)[:60]}")
    if length is not None:
        _same_length(value, place, field, length)
    return value


def _changes(record: Json, place: Place, length: int) -> list[float | None] | None:
    """Tail-patch changes of the proponents, with None for those that were not measured."""
    field = "proponent_tail_patch"
    given = record.get(field)
    if not isinstance(given, list):
        _list(record, place, field, float)  # accepts null and a missing field, and refuses all else
        return None
    _list({field: [value for value in given if value is not None]}, place, field, float)
    _same_length(given, place, field, length)
    return given


def _are(items: list[Any], kind: type) -> bool:
    """Whether all are of a kind; quick where they are as a run writes them, by the million."""
    if set(map(type, items)) <= {kind}:
        return kind is not float or all(map(math.isfinite, items))
    return all(_is(item, kind) for item in items)


def _is(item: Any, kind: type) -> bool:
    if kind is float:  # NaN, infinities and integers beyond a float fail the comparison
        number = isinstance(item, int | float) and not isinstance(item, bool)
        return number and -sys.float_info.max <= item <= sys.float_info.max
    return isinstance(item, kind)


def _same_length(value: list[Any], place: Place, field: str, length: int) -> None:
    if len(value) != length:
        texts = f"{field.split('_')[0]}s"
        raise place.error(field, f"has {len(value)} items where {texts} has {length}")


def read_facts(paths: Iterable[File]) -> Iterator[tuple[Place, Fact]]:
    """Stream facts from one or several files."""
    for path in paths:
        for place, record in jsonlines.read_texts(path):
            yield place, parse_fact(record, place)


def read_sentences(paths: Iterable[File]) -> Iterator[tuple[Place, Sentence]]:
    """Stream sentences from one or several files."""
    for path in paths:
        for place, record in jsonlines.read_texts(path):
            yield place, parse_sentence(record, place)


def read_retrievals(path: Path) -> Iterator[RetrievalRecord]:
    """Stream the rankings of one file."""
    for place, record in jsonlines.read(path):
        yield parse_retrieval(record, place)
