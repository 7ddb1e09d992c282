"""The rankings of a cell as ``verify`` needs them: what was judged, without the texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.results.rankings import correct_of
from bench.results.spans import SpanCheck
from bench.tasks.records import RetrievalRecord
from metrics.length import length_ratio


@dataclass(frozen=True)
class Listed:
    """The ranking of one query.

    Attributes:
        query: the id of the query.
        relation, target: what clusters are made by; an empty relation where the query has none.
        correct: whether each proponent is correct, bool ``[n proponents]``; None if nobody judged.
        n_correct: proponents that the task's annotation calls correct.
        is_judged: whether a judge scored the proponents.
        length_ratio: see ``metrics.length``; NaN where the corpus's mean length is unknown.
        change: mean of the changes that the step on each of the first proponents made; NaN where
            none was measured, or one of them is not known.
        faults: what is wrong with the list itself.
    """

    query: str
    relation: str
    target: str
    correct: np.ndarray | None
    n_correct: int
    is_judged: bool
    length_ratio: float
    change: float
    faults: tuple[str, ...] = ()


Ranked = tuple[RetrievalRecord, Sequence[int]]  # with the length of each proponent in characters


def read_lists(
    rankings: Iterable[Ranked],
    top_k: int,
    threshold: float,
    top: int,
    mean_length: float,
    spans: SpanCheck,
) -> Iterator[Listed]:
    """What is checked of each ranking, one at a time.

    Args:
        top_k: how long a list may be.
        threshold: a passage is correct above this score of a judge.
        top: proponents of a query that were stepped on.
        mean_length: characters of the corpus's passages; NaN where that is unknown.
        spans: what must hold of the shares of tokens.

    Raises:
        UserError: whatever the rankings are read from is damaged.
    """
    for record, lengths in rankings:
        yield Listed(
            query=record.example_id,
            relation=record.relation or "",
            target=record.targets_plaintext,
            correct=correct_of(record, threshold),
            n_correct=sum(record.proponent_correct or ()),
            is_judged=record.proponent_ais_scores is not None,
            length_ratio=length_ratio(lengths, mean_length),
            change=_mean_change(record, top),
            faults=(*_faults(record, top_k), *spans.faults(record)),
        )


def _mean_change(record: RetrievalRecord, top: int) -> float:
    changes = (record.proponent_tail_patch or [])[:top]
    known = [change for change in changes if change is not None]
    return sum(known) / len(known) if known and len(known) == len(changes) else math.nan


def _faults(record: RetrievalRecord, top_k: int) -> Iterator[str]:
    scores = np.asarray(record.proponent_scores, dtype=np.float64)
    rises = scores[1:] > scores[:-1]
    if len(record.proponents) > top_k:
        yield f"lists {len(record.proponents)} proponents, top_k is {top_k}"
    if rises.any():
        yield f"proponent {int(np.argmax(rises)) + 2} scores higher than the one before it"
    if len(set(record.proponent_ids)) != len(record.proponent_ids):
        yield "lists a proponent twice"
