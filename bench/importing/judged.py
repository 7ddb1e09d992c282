"""``task=none``: a release file that carries its own judgement is scored without a corpus.

How many correct passages the corpus holds is then unknown, so recall and its like are not scored.
Whether it holds any is told by ``has_trex_sentence``; a judgement by entailment is of another
corpus, for which that field says nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.core.errors import UserError
from bench.importing.arrange import Arranger
from bench.importing.release import read_records
from bench.results.rankings import correct_of
from bench.run.evaluation import Evaluation, by_group, estimates, sampling_of, with_samples
from bench.run.judging import metrics_without_gold
from bench.run.settings import MetricConfig
from bench.storage.jsonlines import Place
from bench.storage.keys import content_key
from bench.tasks.buckets import groups_named_by
from bench.tasks.records import RetrievalRecord
from metrics.attribution import Judged, Metric, score_rankings


@dataclass(frozen=True)
class JudgedFile:
    """A release file, scored by its own judgement.

    Attributes:
        query_sets: the file's names of its queries.
        sha256: hash of the queries; files of the same queries are comparable.
        n_queries: lists in the file.
        longest: length of the longest list.
        without_gold: queries of which the file says that the corpus states them nowhere.
    """

    query_sets: list[str]
    sha256: str
    n_queries: int
    longest: int
    without_gold: int
    evaluation: Evaluation
    counts: Counter[str]
    notes: list[str]


def kept_metrics(config: MetricConfig) -> list[Metric]:
    """The metrics that need not know how many passages are correct.

    Raises:
        UserError: none is left.
    """
    return metrics_without_gold(
        config,
        "with task=none the number of correct passages is not known",
        "add mrr or hit@10, or set task=NAME",
    )


def records(paths: Sequence[Path], top_k: int | None) -> Iterator[tuple[Place, RetrievalRecord]]:
    """The file's lists, strongest first, cut to ``top_k``; equal scores stay in the file's order.

    Raises:
        UserError: a faulty line, or scores that are distances.
    """
    arranger = Arranger(Counter())
    for place, record in read_records(paths):
        yield place, _arranged(record, arranger, top_k)
    arranger.check()


def score_file(
    paths: Sequence[Path],
    config: MetricConfig,
    metrics: Sequence[Metric],
    top_k: int | None,
    seed: int,
) -> JudgedFile:
    """Score every list by ``proponent_correct`` or ``proponent_ais_scores``.

    Memory grows with the queries and their labels; texts are not kept.

    Raises:
        UserError: a faulty line, a list without judgement, a query or a passage listed twice.
    """
    counts: Counter[str] = Counter()
    arranger = Arranger(counts)
    judged: list[Judged] = []
    unknown: list[bool] = []
    labels: list[dict[str, str]] = []
    identity: list[list[str]] = []
    answers: list[str] = []
    seen: dict[str, Place] = {}
    query_sets: dict[str, None] = {}
    for place, read in read_records(paths):
        record = _arranged(read, arranger, top_k)
        _check_unique(place, record, seen)
        correct = correct_of(record)
        if correct is None:
            raise place.error(
                "proponent_correct",
                "missing, and so is proponent_ais_scores: nothing says what is correct",
                "set task=NAME instead of task=none",
            )
        n_gold, known = _gold(record, counts)
        counts["lists_cut_to_top_k"] += len(read.proponents) > len(record.proponents)
        judged.append(Judged(record.example_id, correct, n_gold))
        unknown.append(not known)
        labels.append(groups_named_by(record))
        identity.append([record.example_id, record.inputs_plaintext, record.targets_plaintext])
        answers.append(record.targets_plaintext)
        query_sets[record.query_set] = None
    if not judged:
        raise UserError("is empty", where=str(paths[0]), fix="give a file that ranks something")
    arranger.check()
    counts["file_queries"] = len(judged)
    return JudgedFile(
        query_sets=list(query_sets),
        sha256=content_key(sorted(identity), length=64),
        n_queries=len(judged),
        longest=max(len(one.correct) for one in judged),
        without_gold=sum(one.n_gold == 0 for one in judged),
        evaluation=_evaluation(judged, unknown, labels, answers, config, metrics, seed),
        counts=counts,
        notes=_notes(counts),
    )


def _arranged(record: RetrievalRecord, arranger: Arranger, top_k: int | None) -> RetrievalRecord:
    n = len(record.proponents)
    places = np.arange(n, dtype=np.int64)
    scores = np.asarray(record.proponent_scores, dtype=np.float64)
    chosen = arranger.strongest(places, scores, places)[0][:top_k].tolist()
    changed: dict[str, Any] = {
        one.name: [values[i] for i in chosen]
        for one in fields(record)
        if one.name.startswith("proponent") and (values := getattr(record, one.name)) is not None
    }
    return replace(record, **changed)


def _check_unique(place: Place, record: RetrievalRecord, seen: dict[str, Place]) -> None:
    first = seen.setdefault(record.example_id, place)
    if first is not place:
        raise place.error(
            "example_id", f"{record.example_id!r} is ranked at {first} already", "keep one list"
        )
    listed: set[str] = set()
    for i, name in enumerate(record.proponent_ids):
        if name in listed:
            raise place.error(
                f"proponent_ids[{i}]", f"passage {name!r} is listed twice", "list it once a query"
            )
        listed.add(name)


def _gold(record: RetrievalRecord, counts: Counter[str]) -> tuple[int, bool]:
    """A stand-in for the number of correct passages (only 0 or not counts), and if it is known."""
    if record.proponent_correct is None or record.has_trex_sentence is not False:
        return 1, False
    if any(record.proponent_correct):
        # The list itself shows that there is one.
        counts["queries_correct_without_trex_sentence"] += 1
        return 1, False
    return 0, True


def _evaluation(
    judged: Sequence[Judged],
    unknown: Sequence[bool],
    labels: Sequence[dict[str, str]],
    answers: Sequence[str],
    config: MetricConfig,
    metrics: Sequence[Metric],
    seed: int,
) -> Evaluation:
    relations = [own.get("relation", "") for own in labels]
    sampling = sampling_of(config, relations, answers, seed)
    frame = score_rankings(judged, metrics, config.no_gold)
    frame["n_gold"] = np.where(unknown, math.nan, frame["n_gold"].astype(float))
    names = [metric.name for metric in metrics]
    groups = pd.DataFrame(list(labels), index=frame.index)
    return Evaluation(
        per_query=with_samples(frame.join(groups), sampling),
        metrics=estimates(frame[names], sampling),
        slices=by_group(groups, frame[names], sampling),
        n_scored=int(frame[names[0]].notna().sum()),
    )


def _notes(counts: Counter[str]) -> list[str]:
    sayings = {
        "lists_out_of_score_order": "lists that were not in the order of their scores",
        "queries_correct_without_trex_sentence": "queries with a correct proponent though "
        "has_trex_sentence is false, scored",
    }
    return [f"{text}: {counts[name]:,}" for name, text in sayings.items() if counts[name]]
