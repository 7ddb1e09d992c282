"""One cell from settings to files: task → model → method → rankings → metrics → result."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import progress
from bench.core.environment import environment
from bench.core.errors import UserError
from bench.core.typed import typed
from bench.engines import ENGINES, Engine
from bench.models.base import ModelSource
from bench.models.language_model import LanguageModel
from bench.models.recipe import ModelRecipe
from bench.models.retraining import Removal
from bench.results.schema import RESULT, SCHEMA_VERSION, Cell, Result, is_finished, read_result
from bench.run.composing import model_source, task_builder
from bench.run.evaluation import Evaluation, check_slice_names, evaluate
from bench.run.judging import checked_identity, metric_parts
from bench.run.loggers import check_logger, log_cell
from bench.run.settings import Settings
from bench.run.writing import write_cell
from bench.storage.keys import content_key, path_part
from bench.tasks import Query, Task, load_task
from methods.base import Context, IndexSize, Method, Ranking
from methods.choosing import chosen
from metrics.attribution import check_depth, parse_metric

# Raised whenever a change of the harness moves a number of a cell; part of every cell's key.
CELL_VERSION = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: where it is, and whether it was there already."""

    cell: Cell
    reused: bool


def run_cell(settings: Settings, overrides: Sequence[str] = (), sweep: str = "single") -> Outcome:
    """Run one cell, or find it finished.

    Args:
        settings: of this cell.
        overrides: the command-line words that make it, for the record.
        sweep: name of the sweep, the default group of loggers.

    Raises:
        UserError: anything that the user can mend; nothing is then left in the cell's folder.
    """
    return _Run(settings, overrides, sweep).outcome()


class _Run:
    """The parts of one cell, made when they are first needed."""

    def __init__(self, settings: Settings, overrides: Sequence[str], sweep: str) -> None:
        self.settings = settings
        self.overrides = overrides
        self.sweep = sweep

    def outcome(self) -> Outcome:
        settings = self.settings
        check_logger(settings.logger)
        settings.results.check()
        check_depth(map(parse_metric, settings.metric.attribution), settings.top_k)
        method_class, method_config = chosen(settings.method)
        method_class.check_settings(method_config)
        self.source.check()
        self.engine.check()
        self._check_retraining()
        method = method_class(method_config, self.context)
        folder = self._folder(method)
        settings.results.bring_folder(folder)
        if is_finished(folder):
            settings.results.keep_folder(folder)  # an earlier run may have had no store
            progress.say(f"already there: {folder}")
            return Outcome(Cell(folder, read_result(folder / RESULT)), reused=True)
        check_slice_names(settings.metric, self.task.queries)
        method.check()
        patch = settings.metric.tail_patch
        if patch.enabled:
            self.source.check_step(patch.optimizer, patch.learning_rate)
        result = self._work(method, folder)
        settings.results.keep_folder(folder)
        cell = Cell(folder, result)
        log_cell(settings.logger, cell, settings.resolved, self.sweep)
        return Outcome(cell, reused=False)

    @cached_property
    def task(self) -> Task:
        builder = task_builder(self.settings)
        return load_task(self.settings.task["name"], builder, self.settings.cache_dir)

    @cached_property
    def source(self) -> ModelSource:
        return model_source(self.settings)

    @cached_property
    def engine(self) -> Engine:
        name = self.settings.engine["name"]
        engine_class = ENGINES.get(name)
        return engine_class(typed(engine_class.Config, self.settings.engine, "engine", ("name",)))

    @cached_property
    def context(self) -> Context:
        return Context(
            task=self.task,
            cache_dir=self.settings.cache_dir,
            load_model=self._load_model,
            device=self.settings.device,
            retrain=self._retrain,
            engine=self.engine,
            model_recipe=self.model_recipe,
            mirror=self.settings.cache,
        )

    @cached_property
    def model_recipe(self) -> ModelRecipe:
        settings = self.settings
        return ModelRecipe(self.source, self.task, settings.cache_dir, settings.device)

    def _check_retraining(self) -> None:
        if (retraining := self.settings.metric.retraining) is not None:
            self.source.check_retraining()
            retraining.check(self.settings.top_k, len(self.task.passages))

    def _retrain(self, removals: Sequence[Removal]) -> np.ndarray:
        settings = self.settings
        with self._trained_model_shared():
            return self.source.retrain(
                self.task, settings.cache_dir, settings.device, removals, self.engine
            )

    def _load_model(self) -> LanguageModel:
        with self.context.phases.measure("model"), self._trained_model_shared():
            return self.model_recipe()

    def _trained_model_shared(self) -> AbstractContextManager[None]:
        """Around what trains the model, if it is one that is trained."""
        trained = self.source.trained_folder(self.task, self.settings.cache_dir)
        return nullcontext() if trained is None else self.settings.cache.shared(trained)

    def _folder(self, method: Method) -> Path:
        settings = self.settings
        parts = {name: settings.resolved[name] for name in ("method", "metric", "top_k", "seed")}
        parts["metric"] = metric_parts(parts["metric"])
        identity = [
            CELL_VERSION,
            self.task.name,
            self.task.version,
            self.task.sha256,
            self.source.identity(self.task),
            parts,
            method.identity(),
            *checked_identity(settings.metric, self.task, settings.device),
        ]
        names = (self.task.name, settings.model["name"], settings.method["name"])
        return settings.results_dir.joinpath(*map(path_part, names), content_key(identity))

    def _work(self, method: Method, folder: Path) -> Result:
        settings, context, task = self.settings, self.context, self.task
        label = f"{task.name} × {settings.model['name']} × {settings.method['name']}"
        progress.say(
            f"cell {label}: {len(task.queries):,} queries, {len(task.passages):,} passages"
        )
        with context.phases.measure("index"):
            size = method.index()
        with context.phases.measure("search"):
            rankings = list(method.search(task.queries, settings.top_k))
        check_rankings(rankings, task.queries, len(task.passages), settings.top_k)
        evaluation = evaluate(settings.metric, context, rankings, settings.seed, settings.top_k)
        result = self._result(size, evaluation)
        return write_cell(folder, settings.resolved, result, task, rankings, evaluation)

    def _result(self, size: IndexSize, evaluation: Evaluation) -> Result:
        settings, context, task = self.settings, self.context, self.task
        model = context.__dict__.get("model")  # only if somebody needed it
        return Result(
            task=task_record(task, evaluation),
            model=model_record(settings.model["name"], model),
            method={
                "name": settings.method["name"],
                "config": settings.resolved["method"],
                "key": content_key(settings.resolved["method"]),
                "facts": context.facts,
                "counts": dict(context.counts),
            },
            metrics=evaluation.metrics,
            slices=evaluation.slices,
            phases=[asdict(phase) for phase in context.phases.records],
            index={
                "bytes": size.bytes,
                "bytes_per_passage": size.bytes / len(task.passages),
                "shards": size.shards,
            },
            env=environment(settings.device),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            top_k=settings.top_k,
            seed=settings.seed,
            command=shlex.join(["tdabench", "run", *self.overrides]),
            schema_version=SCHEMA_VERSION,
        )


def judge_record(evaluation: Evaluation) -> dict[str, Any]:
    """``judge`` of a result's task: who judged, where it was not the annotation."""
    return {"judge": evaluation.judgement.record} if evaluation.judgement else {}


def task_record(task: Task, evaluation: Evaluation) -> dict[str, Any]:
    """What a result says of its task."""
    return {
        "name": task.name,
        "version": task.version,
        "sha256": task.sha256,
        "n_queries": len(task.queries),
        "n_scored": evaluation.n_scored,
        "n_passages": len(task.passages),
        "separators": sorted({query.separator for query in task.queries}),
        "counts": task.counts,
        **judge_record(evaluation),
    }


def model_record(name: str, model: LanguageModel | None) -> dict[str, Any]:
    """What a result says of its model; None if nobody needed it."""
    return {
        "name": name,
        "n_params": model.n_params if model else None,
        "sha256": model.sha256 if model else None,
        "training": model.training if model else {},
        "reading": model.reading if model else {},
    }


def check_rankings(
    rankings: Sequence[Ranking], queries: Sequence[Query], n_passages: int, top_k: int
) -> None:
    """Hold a method to its promise, so that a faulty plug-in cannot reach the leaderboard.

    Raises:
        UserError: other queries than asked for, rows out of range or repeated, scores that are not
            finite or not sorted, ties out of row order, or lists longer than ``top_k``.
    """
    faults = []
    if [r.query_id for r in rankings] != [q.query_id for q in queries]:
        faults.append("it did not answer the queries asked, in their order")
    for ranking in rankings:
        opponents = (ranking.opponent_rows, -np.asarray(ranking.opponent_scores), n_passages)
        for name, (rows, scores, longest) in (
            ("ranking", (ranking.rows, ranking.scores, top_k)),
            ("opponents", opponents),  # as many as the method's own setting asks for
        ):
            fault = _fault(np.asarray(rows), np.asarray(scores), n_passages, longest)
            if fault:
                faults.append(f"the {name} of query {ranking.query_id} {fault}")
    if faults:
        raise UserError(f"the method returned a wrong ranking: {faults[0]}", where="method")


def _fault(rows: np.ndarray, scores: np.ndarray, n_passages: int, longest: int) -> str:
    """What is wrong with one list whose scores should fall; empty if nothing is."""
    step = np.diff(scores)
    if len(rows) != len(scores) or len(rows) > longest:
        return f"has {len(rows)} rows and {len(scores)} scores, where {longest} fit"
    if not np.isfinite(scores).all():
        return "has scores that are NaN or infinite"
    if len(set(rows.tolist())) != len(rows) or not _within(rows, n_passages):
        return "has rows that repeat or do not exist"
    if (step > 0).any() or ((step == 0) & (np.diff(rows) < 0)).any():
        return "is not sorted by score, then rising row"
    return ""


def _within(rows: np.ndarray, n_passages: int) -> bool:
    return bool(((rows >= 0) & (rows < n_passages)).all())
