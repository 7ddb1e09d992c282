"""Metrics of rankings that a Python program holds, made here or elsewhere."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.api.attribution import RankedPassages
from bench.api.lending import composing, working
from bench.api.words import list_of, words_of
from bench.core.errors import UserError
from bench.run.composing import composed
from bench.run.settings import settings_from
from bench.storage.jsonlines import Json, Place
from bench.tasks.given import Given, query_records
from metrics.attribution import check_depth, parse_metric

if TYPE_CHECKING:
    from bench.importing.lists import FileList
    from bench.run.settings import Settings
    from bench.tasks.base import Task
    from metrics.stats.bootstrap import Estimate

Rankings = Mapping[str, Sequence[str] | RankedPassages]


def evaluate(
    rankings: Rankings,
    task: str | Mapping[str, Any] | Iterable[Mapping[str, Any]],
    metrics: Sequence[str] = ("mrr", "hit@1", "hit@10", "recall@10"),
    *,
    missing: str = "error",
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> pd.DataFrame:
    """Attribution metrics of rankings, with the intervals of the leaderboard.

    Args:
        rankings: the ids of each query's passages by the query's id, strongest first; or what
            ``attribute`` returned.
        task: whose annotation counts: a task's name or settings, as ``run(task=…)`` takes them
            (``{"name": "factworld", "n_passages": 2000}``), which is prepared if the cache has
            none; or queries with ``gold``, ids of the passages that state each (``{"query_id",
            "prompt", "target", "gold"}``), without a corpus: an id that is no gold is wrong.
        metrics: names of attribution metrics (``tdabench list metrics``).
        missing: what becomes of queries and passages that only one of rankings and task has:
            ``"error"``, ``"skip"`` leaves them out, ``"empty"`` counts a query that is not ranked
            as a failure.
        seed: the seed of the bootstrap.
        cache_dir: where a task of settings is prepared; None for the place that ``run`` takes.

    Returns:
        one row a metric, in the order asked for: ``metric``, ``value`` (mean over queries), ``low``
        and ``high`` (its 95% interval) and ``n`` (queries it is over: those with gold).

    Raises:
        UserError: an unknown task or metric, a task without annotation, lists that are too short
            for a metric, or rankings that do not fit the task.
    """
    asked = list_of(metrics, "metrics")
    _check_lists(rankings)
    chosen: dict[str, Any] = {"metric": "attribution", "metric.attribution": asked, "seed": seed}
    if cache_dir is not None:
        chosen["cache_dir"] = cache_dir
    has_corpus = isinstance(task, str | Mapping)
    if has_corpus:
        chosen["task"] = task
    with ExitStack() as stack:
        stack.enter_context(composing())
        settings = settings_from(composed(words_of(chosen), "evaluate"))
        stack.enter_context(working())
        if has_corpus:
            from bench.run.parts import Parts

            prepared = Parts(settings).task
        else:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="tdabench-", ignore_cleanup_errors=True)
            )
            prepared = _of_ids(query_records(task), rankings, Path(folder))
        if not prepared.annotated:
            raise UserError(
                "nobody has annotated which passages state a fact",
                where="task",
                fix="give queries with gold, or another task",
            )
        estimates = _estimates(settings, prepared, rankings, missing, has_corpus)
    nothing = (math.nan, math.nan, math.nan, 0)
    rows = [
        (name, *((one.value, *one.ci95, one.n) if (one := estimates.get(name)) else nothing))
        for name in asked
    ]
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "n"])


def _check_lists(rankings: Rankings) -> None:
    if not isinstance(rankings, Mapping) or not rankings:
        raise UserError(
            f"expected lists of passage ids by query id, found {rankings!r:.60}", where="rankings"
        )
    for query, listed in rankings.items():
        ids = _ids(listed)
        if isinstance(ids, str) or not all(isinstance(one, str) for one in ids):
            raise UserError(
                f"expected a list of passage ids, found {listed!r:.60}",
                where=f"rankings[{query!r}]",
                fix="ids are texts: str(number)",
            )


def _ids(listed: Sequence[str] | RankedPassages) -> Sequence[str]:
    return listed.passage_ids if isinstance(listed, RankedPassages) else listed


def _of_ids(queries: list[Json], rankings: Rankings, folder: Path) -> Task:
    """A task whose passages are the ids that anybody names, without texts."""
    from bench.tasks.base import load_task

    listed = (one for ranked in rankings.values() for one in _ids(ranked))
    gold = (one for query in queries for one in query.get("gold") or ())
    passages = [{"passage_id": one, "text": ""} for one in dict.fromkeys((*gold, *listed))]
    return load_task("given", Given(queries, passages), folder)


def _lists(rankings: Rankings) -> Iterator[FileList]:
    """The rankings as a file would give them: the higher up, the higher the score."""
    from bench.importing.lists import Entries, FileList

    for number, (query, ranked) in enumerate(rankings.items(), start=1):
        ids = list(_ids(ranked))
        ranks = np.arange(len(ids), dtype=np.int64)
        yield FileList(
            place=Place(Path("rankings"), number),
            query_ids=(str(query),),
            proponents=Entries(
                ids=ids, scores=-ranks.astype(float), ranks=ranks, field="passage_id"
            ),
            field="query_id",
        )


def _estimates(
    settings: Settings, task: Task, rankings: Rankings, missing: str, has_corpus: bool
) -> dict[str, Estimate]:
    """Means and intervals by metric, as a cell would have them."""
    from bench.importing.matching import join
    from bench.importing.settings import Missing, choice
    from bench.run.evaluation import measure
    from methods.base import Context

    joined = join(_lists(rankings), task, choice(Missing, "missing", missing), None)
    longest = max(len(ranking.rows) for ranking in joined.rankings)
    if not (has_corpus and longest == len(task.passages)):  # else nothing is left to list
        check_depth(map(parse_metric, settings.metric.attribution), longest)
    asked = Context(replace(task, queries=joined.queries), settings.cache_dir)
    return measure(settings.metric, asked, joined.rankings, settings.seed, longest).metrics
