"""Rankings judged by entailment: for a corpus without annotation, or beside one.

How many passages of the corpus are correct is then unknown, so recall and its like are not scored.
A query of which any listed passage could not be judged is not scored either: a list with holes has
no reciprocal rank. Such queries are counted and named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.core import progress
from bench.core.errors import UserError
from bench.engines.base import Engine, Job
from bench.engines.scoring import scored
from bench.storage.mirror import Mirror
from bench.storage.scores import Key
from bench.tasks.base import Query, Task
from methods.base import Ranking
from metrics.attribution import Judged, Metric, parse_metric, score_rankings
from metrics.judges.base import Claim, Pair, make_claim
from metrics.judges.cache import JudgementCache, claim_digest, pair_key
from metrics.judges.jobs import PAIRS_A_JOB, PairJudge, judge_of
from metrics.settings import MetricConfig, NoGold
from metrics.stats.agreement import compare

_NAMED = 10  # queries without score that a result names


@dataclass(frozen=True)
class Judgement:
    """What a judge said of every ranking.

    Attributes:
        scores: the scores of each query's listed passages, in their order; None for a query of
            which some could not be judged.
        threshold: the score above which a passage is correct.
        record: what the result says: who judged, by which threshold, and what was counted.
    """

    scores: list[list[float] | None]
    threshold: float
    record: dict[str, Any]

    def correct(self, number: int) -> np.ndarray | None:
        """Whether each listed passage of query ``number`` is correct: bool ``[list length]``."""
        scores = self.scores[number]
        return None if scores is None else np.asarray(scores, dtype=np.float64) > self.threshold


def metrics_without_gold(config: MetricConfig, why: str, fix: str) -> list[Metric]:
    """The metrics that need not know how many passages are correct.

    Args:
        why: the reason, which the error message gives after "nothing to score: ".
        fix: what the user can do about it.

    Raises:
        UserError: none is left.
    """
    metrics = [parse_metric(name) for name in config.attribution]
    kept = [metric for metric in metrics if not metric.needs_n_gold]
    if not kept:
        raise UserError(f"nothing to score: {why}", where="metric.attribution", fix=fix)
    return kept


def judged_metrics(config: MetricConfig) -> list[Metric]:
    """Those of ``metric.attribution`` that can be had from a judge.

    Raises:
        UserError: none is left.
    """
    return metrics_without_gold(
        config,
        "with a judge, the number of correct passages in the corpus is not known",
        "add mrr or hit@10, or leave metric.judge out",
    )


def claims_of(queries: Sequence[Query]) -> list[Claim]:
    """What a passage must state to be correct for each query."""
    return [
        make_claim(q.prompt, q.target, q.subject_names, q.answer_names, q.separator)
        for q in queries
    ]


def judge_rankings(
    config: MetricConfig,
    task: Task,
    rankings: Sequence[Ranking],
    cache_dir: Path,
    device: str,
    engine: Engine,
    mirror: Mirror,
) -> Judgement:
    """Judge every listed passage; only pairs that the cache lacks cost anything.

    Args:
        mirror: the copy of ``cache_dir`` in a store, which judgements are shared through.

    Raises:
        UserError: see ``judge_of``.
    """
    assert config.judge is not None
    judge = judge_of(config.judge, device)
    claims = claims_of(task.queries)
    cache = JudgementCache(cache_dir, judge)
    keys = _keys(task, claims, rankings)
    wanted = {key: place for places in keys for key, place in places}
    settings = dict(config.judge)
    pairs = PairJudge(settings, device, judge.identity(), task.passages, here=judge)

    def jobs(kept: Mapping[Key, float], folder: Path) -> list[Job]:
        missing = [(row, claims[n]) for key, (n, row) in wanted.items() if key not in kept]
        return pairs.jobs(missing, folder)

    unit = f"times {PAIRS_A_JOB} pairs"
    made = scored(cache, mirror, wanted, jobs, engine, f"judge by {judge.name}", unit)
    scores = made.scores
    counts = Counter(
        pairs=sum(map(len, keys)), pairs_distinct=len(wanted), pairs_from_cache=len(made.kept)
    )
    if cache.damaged:
        counts["cache_records_damaged"] = cache.damaged
    lists = [[scores[key] for key, _ in places] for places in keys]
    counts["pairs_not_judged"] = sum(math.isnan(score) for one in lists for score in one)
    unscored = [q.query_id for q, one in zip(task.queries, lists, strict=True) if _has_hole(one)]
    counts["queries_not_judged"] = len(unscored)
    if unscored:
        progress.say(
            f"{judge.name} could not judge {counts['pairs_not_judged']:,} pairs: "
            f"{len(unscored):,} queries are not scored ({', '.join(unscored[:3])}, …)"
        )
    kept = judged_metrics(config)
    judgement = Judgement(
        scores=[None if _has_hole(one) else one for one in lists],
        threshold=judge.threshold,
        record={
            "name": judge.name,
            "identity": judge.identity(),
            "threshold": judge.threshold,
            "settings": settings,
            "claim": "prompt, separator, target",
            "counts": {**counts, **made.counts},
            "queries_not_judged": unscored[:_NAMED],
            "metrics_not_scored": [m for m in config.attribution if m not in map(str, kept)],
        },
    )
    if task.annotated:
        judgement.record["agreement_with_annotation"] = _agreement(task, rankings, judgement)
    return judgement


def score_judged(
    config: MetricConfig, task: Task, rankings: Sequence[Ranking], judgement: Judgement
) -> pd.DataFrame:
    """One row a query, as of ``score_rankings``; ``n_gold`` is NaN, for nobody has counted it."""
    metrics = judged_metrics(config)
    nothing = np.zeros(0, dtype=bool)
    correct = [judgement.correct(i) for i in range(len(rankings))]
    # One correct passage stands in for their unknown number: no metric that is left looks at it.
    judged = (
        Judged(query.query_id, nothing if one is None else one, 1)
        for query, one in zip(task.queries, correct, strict=True)
    )
    frame = score_rankings(judged, metrics, NoGold.skip)
    frame["n_gold"] = math.nan
    frame.loc[[one is None for one in correct], [str(metric) for metric in metrics]] = math.nan
    return frame


def _keys(
    task: Task, claims: Sequence[Claim], rankings: Sequence[Ranking]
) -> list[list[tuple[Key, tuple[int, int]]]]:
    """The key of each query's listed passages in the cache, with the query's number and the row."""
    digests: dict[int, bytes] = {}
    keys = []
    for number, (claim, ranking) in enumerate(zip(claims, rankings, strict=True)):
        digest = claim_digest(claim)
        rows = ranking.rows.tolist()
        for row in rows:
            if row not in digests:
                digests[row] = pair_key(Pair(task.passages[row].text, claim))[0]
        keys.append([((digests[row], digest), (number, row)) for row in rows])
    return keys


def _has_hole(scores: Sequence[float]) -> bool:
    return any(map(math.isnan, scores))


def _agreement(
    task: Task, rankings: Sequence[Ranking], judgement: Judgement
) -> dict[str, Any] | None:
    """The judge against the annotation, over the listed passages; None if nothing was judged."""
    truth: list[bool] = []
    said: list[bool] = []
    clusters: list[str] = []
    for number, (query, ranking) in enumerate(zip(task.queries, rankings, strict=True)):
        correct = judgement.correct(number)
        if correct is not None:
            truth += task.correct(query, ranking.rows.tolist()).tolist()
            said += correct.tolist()
            clusters += [query.query_id] * len(correct)
    if not truth:
        return None
    agreement = compare(truth, said, clusters)
    measures = {
        name: None if math.isnan(one.value) else asdict(one)
        for name, one in agreement.measures.items()
    }
    return {"pairs": agreement.n, **measures}
