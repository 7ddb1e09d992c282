"""The life of a cell, the same for a method's lists and for imported ones; the only one who writes.

    settings → checks that need nothing → task → checks that need it → identity: the folder
    → is it there already? → checks that need the model → lists → numbers → record → files
    → the copy in the store → the logger

A cell that is whole or not there at all is what its folder then holds.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.core import progress
from bench.core.environment import environment
from bench.core.errors import UserError
from bench.core.escape import clean
from bench.models.language_model import LanguageModel
from bench.results.schema import RESULT, Cell, Result, is_finished, read_result
from bench.run.evaluation import Evaluation, check_slice_names, measure
from bench.run.identity import Identity, metric_identity, task_identity
from bench.run.judging import claims_of, judged_metrics
from bench.run.loggers import log_cell
from bench.run.parts import Parts
from bench.run.ranking_checks import check_rankings
from bench.run.spans import ListedSpans
from bench.run.writing import retrieval_records, write_cell
from bench.storage.keys import content_key, path_part
from bench.tasks.base import Task
from bench.tasks.records import RetrievalRecord
from methods.base import Context, IndexSize, Ranking, Sibling
from metrics import measures
from metrics.judges.base import Judge
from metrics.judges.jobs import judge_of


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: where it is, and whether it was there already."""

    cell: Cell
    reused: bool


@dataclass(frozen=True)
class Work:
    """What was made of a cell before it is written.

    Attributes:
        task, model: what the result says of them.
        evaluation: the numbers.
        records: the lists, one a query in the order of ``evaluation.per_query``; a stream.
        facts, counts: what the result says of the method: values found, things counted.
        phases: ``[{name, seconds, peak_mib}]``; none where nobody knows what the lists cost.
        index: size of the index; None where nobody knows.
    """

    task: dict[str, Any]
    model: dict[str, Any]
    evaluation: Evaluation
    records: Iterable[RetrievalRecord]
    top_k: int
    facts: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    phases: list[dict[str, Any]] = field(default_factory=list)
    index: IndexSize | None = None


class CellLife(ABC):
    """One cell, from settings to files; a subclass says where the lists come from.

    Args:
        parts: the task, the model and the engine, which cells may share.
        words: the command line that makes the cell, for the record, such as ``tdabench run …``.
        sweep: the sweep's name, by which loggers group cells.
    """

    imported = False

    def __init__(self, parts: Parts, words: Sequence[str], sweep: str) -> None:
        self.parts = parts
        self.settings = parts.settings
        self.words = words
        self.sweep = sweep

    # ------------------------------------------------------------------ what a subclass says

    @property
    @abstractmethod
    def names(self) -> tuple[str, str, str]:
        """What the leaderboard calls the task, the model and the method."""

    @property
    def config(self) -> dict[str, Any]:
        """The settings as ``config.yaml`` holds them."""
        return self.settings.resolved

    @abstractmethod
    def check_settings(self) -> None:
        """Raise UserError for what can be seen before the task is prepared."""

    @abstractmethod
    def check_task(self) -> None:
        """Raise UserError for what can be seen before a model is loaded or trained."""

    @abstractmethod
    def identity(self) -> Identity:
        """Everything that the numbers depend on."""

    @abstractmethod
    def work(self) -> Work:
        """Make or read the lists and measure them.

        Raises:
            UserError: anything that the user can mend.
        """

    # ------------------------------------------------------------------ the life

    def outcome(self) -> Outcome:
        """Make the cell, or find it finished.

        Raises:
            UserError: anything that the user can mend; nothing is then left in the cell's folder.
        """
        settings = self.settings
        settings.results.check()
        self.check_settings()
        self.check_task()
        identity = self.identity()
        folder = self.folder(identity)
        settings.results.bring_folder(folder)
        if is_finished(folder):
            cell = Cell(folder, read_result(folder / RESULT))
            if settings.spans and cell.config.get("spans") is not True:
                raise UserError(
                    "is finished, without the shares of tokens that spans=true asks for",
                    where=str(folder),
                    fix="delete it, also in remote_dir, to run this cell again; the index is kept",
                )
            settings.results.keep_folder(folder)  # an earlier command may have had no store
            progress.say(f"already there: {folder}")
            return Outcome(cell, reused=True)
        cell = self._written(folder, identity, self.work())
        settings.results.keep_folder(folder)
        log_cell(settings.logger, cell, self.config, self.sweep)
        values = ", ".join(_told(name, one.value) for name, one in cell.result.metrics.items())
        progress.say(f"{'imported' if self.imported else 'done'}: {folder}: {values}")
        return Outcome(cell, reused=False)

    def folder(self, identity: Identity) -> Path:
        """Where the cell is, or will be."""
        return self.settings.results_dir.joinpath(*map(path_part, self.names), identity.key)

    def _written(self, folder: Path, identity: Identity, work: Work) -> Cell:
        method, index = self.config["method"], work.index
        n_passages = work.task["n_passages"]
        result = Result(
            task=work.task,
            model=work.model,
            method={
                "name": self.names[2],
                "config": method,
                "key": content_key(method),
                "facts": work.facts,
                "counts": work.counts,
            },
            metrics=work.evaluation.metrics,
            slices=work.evaluation.slices,
            phases=work.phases,
            index={
                "bytes": index and index.bytes,
                "bytes_per_passage": index and index.bytes / n_passages,
                "shards": index and index.shards,
            },
            env=environment(self.settings.device),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            top_k=work.top_k,
            seed=self.settings.seed,
            # Cleaned: a file's name in it may be no UTF-8, or hold a line break.
            command=clean(shlex.join(self.words)),
            imported=self.imported,
            identity=identity.record,
        )
        per_query = work.evaluation.per_query
        return Cell(folder, write_cell(folder, self.config, result, work.records, per_query))


class TaskLife(CellLife):
    """A cell whose task is at hand: its lists are measured by the task and by the model."""

    @property
    def with_model(self) -> bool:
        """Whether the numbers depend on a model."""
        return True

    @cached_property
    def context(self) -> Context:
        """What is lent to whoever makes or measures the lists."""
        settings, parts = self.settings, self.parts
        return Context(
            task=parts.task,
            cache_dir=settings.cache_dir,
            load_model=self._load_model,
            device=settings.device,
            retrain=parts.retrain,
            engine=parts.engine,
            model_recipe=parts.recipe,
            mirror=settings.cache,
            spans=settings.spans,
            siblings=self.siblings,
        )

    def siblings(self) -> Sequence[Sibling]:
        """The sweep's cells that come after this one, as methods know them; none where it has none.

        A subclass that is a cell of a sweep says which.
        """
        return ()

    def _load_model(self) -> LanguageModel:
        with self.context.phases.measure("model"):
            return self.parts.model

    @cached_property
    def judge(self) -> Judge | None:
        """The judge that ``metric.judge`` names, if it names one."""
        judge = self.settings.metric.judge
        return None if judge is None else judge_of(judge, self.settings.device)

    def check_settings(self) -> None:
        """Refuse settings of the task, the model, the engine or the metrics that cannot work."""
        metric, parts = self.settings.metric, self.parts
        if self.judge is not None:
            judged_metrics(metric)
        _ = parts.builder  # its settings are checked as it is made
        parts.engine.check()
        if not self.with_model:
            return
        parts.source.check()
        if metric.retraining is not None:
            parts.source.check_retraining()
        if metric.tail_patch.enabled:
            parts.source.check_step(metric.tail_patch.optimizer, metric.tail_patch.learning_rate)

    def check_task(self) -> None:
        """Refuse what the metrics cannot measure on this task."""
        metric, task = self.settings.metric, self.parts.task
        check_slice_names(metric, task.queries)
        if self.judge is not None:
            self.judge.check(claims_of(task.queries))
        if metric.retraining is not None:
            metric.retraining.check_corpus(self.settings.top_k, len(task.passages))
        if self.judge is None and not any(query.gold_rows for query in task.queries):
            progress.say(
                "no query names a passage that states its fact (gold): attribution will not be "
                "scored; metric=lexical, or metric=nli with a model, lets a judge say what is "
                "correct"
            )

    @abstractmethod
    def ranking_identity(self) -> Any:
        """How the lists are made, or which file they are from, as a JSON value."""

    def identity(self) -> Identity:
        """Everything that the numbers depend on."""
        task = self.parts.task
        claims = claims_of(task.queries) if self.judge is not None else ()
        return Identity(
            ranking=self.ranking_identity(),
            metric=metric_identity(self.settings.metric, self.judge, claims),
            task=task_identity(task),
            model=self.parts.source.identity(task) if self.with_model else None,
            seed=self.settings.seed,
        )

    def measured(
        self,
        rankings: Sequence[Ranking],
        task: Task,
        top_k: int,
        facts: dict[str, Any] | None = None,
        counts: dict[str, int] | None = None,
        index: IndexSize | None = None,
        spans: Iterable[ListedSpans] | None = None,
    ) -> Work:
        """The numbers of lists, once it is sure that they are what a method promises.

        Args:
            rankings: the lists of the task's queries, in their order.
            task: the task, perhaps with fewer queries.
            top_k: how long the lists may be.
            facts, counts, index: what is known of the lists, as in ``Work``; what measuring
                learns is added.
            spans: the shares of tokens in each list, a stream; None where nobody asked for them.
        """
        settings, context = self.settings, self.context
        check_rankings(rankings, task.queries, len(task.passages), top_k)
        asked = replace(context, task=task, load_model=lambda: context.model)
        evaluation = measure(settings.metric, asked, rankings, settings.seed, top_k)
        phases = [] if self.imported else context.phases.records
        return Work(
            task=task_record(task, evaluation),
            model=self._model_record(),
            evaluation=evaluation,
            records=retrieval_records(task, rankings, evaluation, spans),
            top_k=top_k,
            facts={**(facts or {}), **context.facts},
            counts={**(counts or {}), **context.counts},
            phases=[asdict(phase) for phase in phases],
            index=index,
        )

    def _model_record(self) -> dict[str, Any]:
        """What a result says of its model; all None if nobody asked for it."""
        model = vars(self.context).get("model")
        return {
            "name": self.names[1],
            "n_params": model and model.n_params,
            "sha256": model and model.sha256,
            "training": model.training if model else {},
            "reading": model.reading if model else {},
        }


def _told(name: str, value: float) -> str:
    """A metric's value in the unit of tables and pages, for a line of text."""
    measure = measures.of(name)
    return (
        f"{name} {measure.shown(value):{'+' if measure.signed else ''}.3f} {measure.unit}".strip()
    )


def task_record(task: Task, evaluation: Evaluation) -> dict[str, Any]:
    """What a result says of its task, and of who judged where it was not the annotation."""
    judgement = evaluation.judgement
    return {
        "name": task.name,
        "version": task.version,
        "sha256": task.sha256,
        "n_queries": len(task.queries),
        "n_scored": evaluation.n_scored,
        "n_passages": len(task.passages),
        "separators": sorted({query.separator for query in task.queries}),
        "counts": task.counts,
        **({"judge": judgement.record} if judgement else {}),
    }
