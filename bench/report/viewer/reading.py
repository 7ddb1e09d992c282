"""One line of a ranking file as the viewer keeps it: the file's own content, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.report.viewer.values import numbers_json, rounded
from bench.results.rankings import correct_of
from bench.storage import jsonlines
from bench.storage.jsonlines import Json
from bench.tasks.records import RetrievalRecord, parse_retrieval
from bench.tasks.spans import Spans
from metrics import measures
from metrics.measures import TAIL_PATCH

_PER_PROPONENT = "proponent_"
_SHOWN = {f"{_PER_PROPONENT}support"}  # a field that becomes a column as it is
_KNOWN = frozenset(field.name for field in fields(RetrievalRecord)) - _SHOWN
_ZERO_ONE = bytes.maketrans(b"\0\1", b"01")  # of a bool in memory
_VALUES = {str, bool, int, float, type(None)}
_LONGEST = 500  # characters that are kept of a field that the format does not know
_MOST_FIELDS = 20


@dataclass(frozen=True)
class Ranked:
    """The ranking of one query.

    Attributes:
        correct: a digit for each proponent, ``"0"`` or ``"1"``; empty for a ranking without
            judgement.
        first: rank of the first correct proponent, 0 if none is correct, None without judgement.
        columns: further values for each proponent, such as entailment scores, as JSON, by name.
        more: further fields of the query, by name.
        shares: what each token adds to the score of a proponent, as ``flat_spans``; None for a
            proponent whose score was not taken apart. Shorter than the list where no more were.
        opponent_shares: those of the opponents, likewise.
    """

    record: RetrievalRecord
    correct: str
    first: int | None
    columns: dict[str, str]
    more: dict[str, str]
    shares: list[list[float] | None]
    opponent_shares: list[list[float] | None]


def read_ranked(path: Path, threshold: float) -> Iterator[Ranked]:
    """The rankings of one file, read one at a time.

    Args:
        threshold: score of the judge above which a passage is correct.

    Raises:
        UserError: a line is damaged, or a query occurs twice; with file and line.
    """
    seen: set[str] = set()
    for place, raw in jsonlines.read(path):
        record = parse_retrieval(raw, place)
        if record.example_id in seen:
            raise place.error("example_id", f"{record.example_id!r:.60} occurs twice in this file")
        seen.add(record.example_id)
        yield _ranked(record, raw, threshold)


def _ranked(record: RetrievalRecord, raw: Json, threshold: float) -> Ranked:
    correct, first = "", None
    judged = correct_of(record, threshold)
    if judged is not None:
        correct = judged.tobytes().translate(_ZERO_ONE).decode()
        first = correct.find("1") + 1
    length = len(record.proponents)
    columns = {
        name.removeprefix(_PER_PROPONENT): numbers_json(values)
        for name, values in raw.items()
        if _is_column(name, values, length)
    }
    if (changes := record.proponent_tail_patch) is not None:
        measure = measures.of(TAIL_PATCH)  # in the unit of the query's mean
        columns[measure.head] = numbers_json(
            [None if change is None else measure.shown(change) for change in changes]
        )
    if record.proponent_ais_scores is not None:
        columns["ais_scores"] = numbers_json(record.proponent_ais_scores)
    return Ranked(
        record=record,
        correct=correct,
        first=first,
        columns=columns,
        more=_more(record, raw),
        shares=_shares(record.proponent_spans, record.proponents),
        opponent_shares=_shares(record.opponent_spans, record.opponents),
    )


def _shares(listed: list[Spans | None] | None, texts: list[str] | None) -> list[list[float] | None]:
    """The shares of a list's passages up to the last that has any."""
    pairs = zip(listed or [], texts or [], strict=False)
    flat = [None if spans is None else flat_spans(spans, text) for spans, text in pairs]
    while flat and flat[-1] is None:
        flat.pop()
    return flat


def flat_spans(spans: Spans, text: str) -> list[float]:
    """Spans as ``[start, end, share, start, …]``, in the units that a browser counts a text in.

    These are UTF-16's, of which a character beyond the first 65,536 takes two. Spans that overlap,
    such as those of tokens that are bytes of one character, become one.
    """
    merged: list[list[float]] = []
    for start, end, share in spans:
        if merged and start < merged[-1][1]:
            merged[-1][1] = max(end, merged[-1][1])
            merged[-1][2] += share
        else:
            merged.append([start, end, share])
    units = [0, *itertools.accumulate(1 + (ord(character) > 0xFFFF) for character in text)]
    return [
        value
        for start, end, share in merged
        for value in (units[int(start)], units[int(end)], rounded(float(f"{share:.3g}")))
    ]


def _is_column(name: str, values: Any, length: int) -> bool:
    return (
        name.startswith(_PER_PROPONENT)
        and name not in _KNOWN
        and isinstance(values, list)
        and len(values) == length
        and set(map(type, values)) <= _VALUES
    )


def _more(record: RetrievalRecord, raw: Json) -> dict[str, str]:
    named = {
        "fact": record.fact_id if record.fact_id != record.example_id else None,
        "occurrences": record.c4_frequency,
    }
    unknown = {
        name: value
        for name, value in raw.items()
        if name not in _KNOWN and not name.startswith(_PER_PROPONENT)
    }
    printed = {name: _printed(value) for name, value in {**named, **unknown}.items()}
    return dict([pair for pair in printed.items() if pair[1]][:_MOST_FIELDS])


def _printed(value: Any) -> str:
    if isinstance(value, list):
        value = " · ".join(str(item) for item in value if isinstance(item, str | int | float))
    if value is None or isinstance(value, dict):
        return ""
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
