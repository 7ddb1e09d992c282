"""The numbers of rankings: attribution, influence, and both by group of queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from bench.core.errors import UserError
from bench.results.per_query import CLUSTER, SUPPORT, cluster_columns, subset_columns
from bench.run.judging import Judgement, judge_rankings, judged_metrics, score_judged
from bench.tasks.base import Query, Task
from bench.tasks.support import Support
from methods.base import Context, Ranking
from metrics import measures
from metrics.attribution import Judged, Metric, parse_metric, score_rankings
from metrics.length import DEPTH, length_ratio
from metrics.retraining import Measured, RetrainingTruth
from metrics.settings import Cluster, MetricConfig, RetrainingConfig
from metrics.stats.bootstrap import Estimate
from metrics.stats.sampling import Sampling, cluster_labels
from metrics.tail_patch import TailPatch

_NAMED = 10  # passages that a result names; all are counted
_SUPPORT_DEPTH = 10  # the paper looks at the kinds of the top 10 proponents


@dataclass(frozen=True)
class Evaluation:
    """What one method's rankings are worth on one task and model.

    Attributes:
        per_query: one row a query: ``query_id``, ``n_gold``, a column a metric (NaN = not
            scored), a column a slice, and ``top10_support=KIND`` with the share of each kind.
        metrics: means over queries.
        slices: the same by group; ``top10_support`` holds the share of each kind of proponent.
        n_scored: queries that the attribution metrics are a mean of.
        changes: Δp of the step on each of a query's first proponents, by id of those measured.
        judgement: what a judge said, where ``metric.judge`` asks for one instead of the annotation.
    """

    per_query: pd.DataFrame
    metrics: dict[str, Estimate]
    slices: dict[str, dict[str, dict[str, Estimate]]]
    n_scored: int
    judgement: Judgement | None = None
    changes: dict[str, list[float]] = field(default_factory=dict)


def measure(
    config: MetricConfig, context: Context, rankings: Sequence[Ranking], seed: int, top_k: int
) -> Evaluation:
    """Score the rankings, patch the model with them, and put error bars on both.

    Queries whose list is empty are counted: by attribution they are a failure, and there is no
    proponent to step on, so that their tail-patch is not measured.
    """
    task = context.task
    _count(context, "queries_with_an_empty_list", sum(not len(one.rows) for one in rankings))
    judgement = None
    changes: dict[str, list[float]] = {}
    subsets: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}
    if config.judge is not None:
        with context.phases.measure("judge"):
            judgement = judge_rankings(
                config, task, rankings, context.cache_dir, context.device, context.engine,
                context.mirror,
            )  # fmt: skip
    with context.phases.measure("attribution"):
        if judgement is not None:
            metrics = judged_metrics(config)
            frame = score_judged(config, task, rankings, judgement)
        else:
            metrics = [parse_metric(name) for name in config.attribution] if task.annotated else []
            frame = _score_annotated(config, task, rankings, metrics)
        frame[measures.LENGTH_RATIO] = _length_ratios(task, rankings)
        support = _support_shares(task, rankings)
    if config.tail_patch.enabled:
        patch = TailPatch(
            config.tail_patch, context.model, task, context.cache_dir, context.engine,
            context.model_recipe, context.mirror,
        )  # fmt: skip
        with context.phases.measure("tail_patch"):
            chosen = spread(task.queries, config.tail_patch.n_queries)
            rows = {ranking.query_id: ranking.rows.tolist() for ranking in rankings}
            steps = patch.measure(chosen, rows)
            changes = steps.changes()
            context.facts["tail_patch_step"] = patch.settings
            without = sum(not after for after in steps.after.values())
            _count(context, "tail_patch_queries_without_proponents", without)
            _count(context, "tail_patch_passages_not_finite", len(steps.not_finite))
            if steps.not_finite:
                context.facts["tail_patch_not_finite"] = steps.not_finite[:_NAMED]
            frame = frame.merge(steps.table(), on="query_id", how="left")
            if config.tail_patch.opponents:
                rows = {ranking.query_id: ranking.opponent_rows.tolist() for ranking in rankings}
                opposed = patch.measure(chosen, rows).of_opponents()
                frame = frame.merge(opposed, on="query_id", how="left")
    if config.retraining is not None:
        with context.phases.measure("retraining"):
            truth = _retrained(config.retraining, context, rankings, seed, top_k)
        frame = frame.merge(truth.per_query, on="query_id", how="left")
        subsets = truth.subsets
    names = [metric.name for metric in metrics]
    columns = measures.in_order(map(str, frame))
    averaged = [name for name in columns if measures.of(name).is_averaged]
    measured = [*names, *(name for name in averaged if name not in names)]
    relations = [query.relation for query in task.queries]
    answers = [query.target for query in task.queries]
    sampling = replace(sampling_of(config, relations, answers, seed), subsets=subsets)
    labels = pd.DataFrame(_labels(task.queries), index=frame.index)
    slices = by_group(labels, frame[measured], sampling)
    if support is not None:
        shares = estimates(support, sampling)
        slices[SUPPORT] = {kind: {"share": share} for kind, share in shares.items()}
        labels = labels.join(support.add_prefix(f"{SUPPORT}="))
    return Evaluation(
        per_query=with_samples(frame.join(labels), sampling),
        metrics=estimates(frame[measured], sampling),
        slices=slices,
        n_scored=int(frame[names[0]].notna().sum()) if names else 0,
        judgement=judgement,
        changes=changes,
    )


def _count(context: Context, name: str, n: int) -> None:
    """Note a count in the result; what never happened is not mentioned."""
    if n:
        context.counts[name] += n


def _retrained(
    config: RetrainingConfig,
    context: Context,
    rankings: Sequence[Ranking],
    seed: int,
    top_k: int,
) -> Measured:
    """What retrained models say of the rankings; the context is told how much was removed."""
    task, model = context.task, context.model
    sizes = {"removal": config.removal_queries, "qld": config.qld_queries}
    groups = {name: [q.query_id for q in spread(task.queries, n)] for name, n in sizes.items()}
    n_tokens = [model.query_tokens(query).n_loss for query in task.queries]
    truth = RetrainingTruth(
        config, task.queries, n_tokens, len(task.passages), top_k, seed, context.retrain
    )
    lists = {ranking.query_id: (ranking.rows, ranking.scores) for ranking in rankings}
    measured = truth.measure(lists, groups)
    context.facts.update(measured.facts)
    return measured


def _score_annotated(
    config: MetricConfig, task: Task, rankings: Sequence[Ranking], metrics: Sequence[Metric]
) -> pd.DataFrame:
    judged = (
        Judged(query.query_id, task.correct(query, ranking.rows.tolist()), len(query.gold_rows))
        for query, ranking in zip(task.queries, rankings, strict=True)
    )
    return score_rankings(judged, metrics, config.no_gold)


def spread(queries: Sequence[Query], n: int | None) -> Sequence[Query]:
    """``n`` queries evenly spaced over all of them: the same for every method."""
    if n is None or n >= len(queries):
        return queries
    return [queries[i * len(queries) // n] for i in range(n)]


def check_slice_names(config: MetricConfig, queries: Sequence[Query]) -> None:
    """Refuse, before any work, groups of queries that are called like a column of the values.

    Raises:
        UserError: naming the first.
    """
    asked = measures.MetricKind.attribution  # of these, only those that are asked for are columns
    others = (one.name for one in measures.MEASURES if one.kind is not asked)
    taken = {"query_id", *config.attribution, *others, *subset_columns(measures.LDS)}
    for query in queries:
        for name in query.slices:
            if name in taken or name.startswith((SUPPORT, CLUSTER)):
                raise UserError(
                    f"a group of queries cannot be called {name!r}: a column is",
                    where=f"slices of query {query.query_id}",
                    fix="give the group another name",
                )


def sampling_of(
    config: MetricConfig, relations: Sequence[str], answers: Sequence[str], seed: int
) -> Sampling:
    """How the intervals over some queries are made, from the relation and target of each."""
    labels = cluster_labels(config.cluster, relations, answers)
    always = config.cluster not in (Cluster.none, Cluster.auto)
    return Sampling(config.bootstrap_samples, seed, labels, always)


def with_samples(frame: pd.DataFrame, sampling: Sampling) -> pd.DataFrame:
    """The table of queries with what its intervals are made from (``bench.results.per_query``)."""
    columns: dict[str, Any] = dict(cluster_columns(sampling.labels))
    for metric, pair in sampling.subsets.items():
        columns |= zip(subset_columns(metric), map(list, pair), strict=True)
    return frame.assign(**columns)


def estimates(frame: pd.DataFrame, sampling: Sampling) -> dict[str, Estimate]:
    """Mean and interval of each column; columns without any value are left out."""
    of_all = {str(name): sampling.estimate(str(name), frame[name].to_numpy()) for name in frame}
    return {name: value for name, value in of_all.items() if value is not None}


def by_group(
    labels: pd.DataFrame, measured: pd.DataFrame, sampling: Sampling
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Means and intervals by each column of labels: ``[column][label][metric]``."""
    return {
        str(name): {
            str(label): estimates(group, sampling.of(measured.index.get_indexer(group.index)))
            for label, group in measured.groupby(labels[name], sort=True)
        }
        for name in labels
    }


def _labels(queries: Sequence[Query]) -> list[dict[str, str]]:
    """Each query's groups: its own and, where some repeat the target in the prompt, if it does."""
    if not any(query.is_repetition for query in queries):
        return [query.slices for query in queries]
    return [
        {"is_repetition": str(query.is_repetition).lower(), **query.slices} for query in queries
    ]


def _length_ratios(task: Task, rankings: Sequence[Ranking]) -> list[float]:
    mean_length = task.counts["characters"] / len(task.passages)
    return [
        length_ratio(
            [len(task.passages[row].text) for row in ranking.rows[:DEPTH].tolist()], mean_length
        )
        for ranking in rankings
    ]


def _support_shares(task: Task, rankings: Sequence[Ranking]) -> pd.DataFrame | None:
    """Share of each kind of support among each query's first proponents; None if unannotated."""
    if not any(query.statement for query in task.queries):
        return None
    shares = []
    for query, ranking in zip(task.queries, rankings, strict=True):
        rows = ranking.rows[:_SUPPORT_DEPTH].tolist()
        kinds = Counter(task.support(query, row).value for row in rows)
        shares.append({kind: count / len(rows) for kind, count in kinds.items()})
    order = [kind.value for kind in Support]
    frame = pd.DataFrame(shares)
    answered = frame.notna().any(axis=1)  # an empty list has no shares: NaN, left out of the means
    frame = frame.mask(answered, frame.fillna(0.0), axis=0)
    return frame[[kind for kind in order if kind in frame]]
