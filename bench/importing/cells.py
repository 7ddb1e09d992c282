"""The cell of one imported ranking: how it is judged, what its record says, where it lies."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.core import progress
from bench.core.environment import environment
from bench.core.errors import UserError
from bench.core.escape import clean
from bench.core.typed import typed
from bench.importing import bergson, judged, matching, release, trec
from bench.importing.settings import Format, Request
from bench.importing.sources import Source
from bench.models import SOURCES
from bench.models.base import ModelSource
from bench.models.language_model import LanguageModel
from bench.results.schema import RESULT, Cell, Result, is_finished, read_result
from bench.run.cell import CELL_VERSION, Outcome, check_rankings, model_record, task_record
from bench.run.evaluation import Evaluation, check_slice_names, evaluate
from bench.run.judging import checked_identity, metric_parts
from bench.run.loggers import log_cell
from bench.run.writing import write_cell, write_records
from bench.storage.keys import content_key, path_part
from bench.tasks import TASKS, Task, load_task
from methods.base import Context, Ranking
from metrics.attribution import Metric, check_depth, parse_metric

# Raised whenever a change of the import moves a number of an imported cell; part of its key.
IMPORT_VERSION = 1
NO_MODEL = "imported"  # what the leaderboard calls the model where none was named


class Setting:
    """What all rankings of one command share: the task and the model, brought when needed."""

    def __init__(self, request: Request) -> None:
        self.request = request

    @cached_property
    def task(self) -> Task:
        """The prepared task."""
        settings = self.request.settings
        name = settings.task["name"]
        builder_class = TASKS.get(name)
        config = typed(builder_class.Config, settings.task, "task", ("name",))
        return load_task(name, builder_class(config), settings.cache_dir)

    @cached_property
    def source(self) -> ModelSource:
        """Where the model named is from."""
        model = self.request.settings.model
        source_class = SOURCES.get(model["source"])
        config = typed(source_class.Config, model, "model", ("name", "source"))
        return source_class(model["name"], config)

    @cached_property
    def model(self) -> LanguageModel:
        """The model named, loaded or trained."""
        settings = self.request.settings
        return self.source.load(self.task, settings.cache_dir, settings.device)

    @property
    def model_name(self) -> str:
        """What the leaderboard calls the model."""
        return self.request.settings.model["name"] if self.request.has_model else NO_MODEL

    def model_identity(self) -> str | None:
        """None without a model: nothing then depends on one."""
        if not self.request.has_model:
            return None
        self.source.check()
        return self.source.identity(self.task)


def import_ranking(setting: Setting, source: Source) -> Outcome:
    """Import one ranking, or find it imported.

    Raises:
        UserError: anything that the user can mend; nothing is then left in the cell's folder.
    """
    if setting.request.has_task:
        return _WithTask(setting, source).outcome()
    return _Judged(setting, source).outcome()


@dataclass(frozen=True)
class _Work:
    """What was made of a ranking before it is written.

    Attributes:
        task: the record of it in the result.
        model: likewise.
        counts, notes, facts: for ``method`` in the result.
        top_k: length of the longest list.
    """

    task: dict[str, Any]
    model: dict[str, Any]
    evaluation: Evaluation
    counts: dict[str, int]
    notes: list[str]
    facts: dict[str, Any]
    top_k: int


class _Import:
    """One ranking; subclasses say how it is judged and written."""

    def __init__(self, setting: Setting, source: Source) -> None:
        self.setting = setting
        self.request = setting.request
        self.settings = setting.request.settings
        self.source = source
        # Files may have names that are no UTF-8, or that would steer a terminal.
        self.name = clean(self.request.name or source.name)
        self.resolved = self._resolved()

    def outcome(self) -> Outcome:
        """The finished cell."""
        names = (self.settings.task["name"], self.setting.model_name, self.name)
        folder = self.settings.results_dir.joinpath(
            *map(path_part, names), content_key(self.identity())
        )
        if is_finished(folder):
            return Outcome(Cell(folder, read_result(folder / RESULT)), reused=True)
        result = self.write(folder)
        cell = Cell(folder, result)
        log_cell(self.settings.logger, cell, self.resolved, "import")
        return Outcome(cell, reused=False)

    def identity(self) -> list[Any]:
        """Whatever the numbers depend on."""
        request, resolved = self.request, self.settings.resolved
        return [
            IMPORT_VERSION,
            CELL_VERSION,
            self.source.format.value,
            self.source.sha256,
            request.missing.value,
            # bergson's lists are made here, and have a default length; others are as they are.
            self.settings.top_k if self.source.format is Format.bergson else request.top_k,
            {"metric": metric_parts(resolved["metric"]), "seed": resolved["seed"]},
        ]

    def write(self, folder: Path) -> Result:
        """Judge the ranking and write all files."""
        raise NotImplementedError

    def check_lists(self, metrics: Sequence[Metric], longest: int, complete: bool = False) -> None:
        """The lists are long enough for what is measured; ``complete``: nothing is left to list.

        Raises:
            UserError: a metric looks deeper than the longest list.
        """
        if complete:
            return
        try:
            check_depth(metrics, longest)
        except UserError as error:
            raise UserError(
                f"its longest list has {longest} passages, too few for {error.what.split()[1]}",
                where=str(self.source.paths[0]),
                fix=f"metric.attribution=[{_within(metrics, longest)}] leaves out the deeper ones",
            ) from error

    def result(self, work: _Work) -> Result:
        """The record of the cell."""
        for note in work.notes:
            progress.say(f"{self.name}: {note}")
        config = self.resolved["method"]
        return Result(
            task=work.task,
            model=work.model,
            method={
                "name": self.name,
                "config": config,
                "key": content_key(config),
                "facts": {
                    "files": [clean(path.name) for path in self.source.paths],
                    "files_sha256": self.source.sha256,
                    "notes": work.notes,
                    **work.facts,
                },
                "counts": work.counts,
            },
            metrics=work.evaluation.metrics,
            slices=work.evaluation.slices,
            # What the ranking cost to make is not known here.
            phases=[],
            index={"bytes": None, "bytes_per_passage": None, "shards": None},
            env=environment(self.settings.device),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            top_k=work.top_k,
            seed=self.settings.seed,
            command=clean(shlex.join(["tdabench", "import", *self.request.words])),
            imported=True,
        )

    def _resolved(self) -> dict[str, Any]:
        resolved = dict(self.settings.resolved)
        if not self.request.has_model:
            del resolved["model"]
        resolved["method"] = {
            "name": self.name,
            "format": self.source.format.value,
            "source": self.source.sha256[:16],
        }
        resolved["import"] = {
            "files": [clean(path) for path in self.source.paths],
            "missing": self.request.missing.value,
            "top_k_given": self.request.top_k,
        }
        return resolved


class _WithTask(_Import):
    """Judged by the task's annotation, and with a model by tail-patch."""

    def identity(self) -> list[Any]:
        """See ``_Import.identity``."""
        task = self.setting.task
        place = [task.name, task.version, task.sha256, self.setting.model_identity()]
        judge = checked_identity(self.settings.metric, task, self.settings.device)
        return [*super().identity(), place, *judge]

    def write(self, folder: Path) -> Result:
        """See ``_Import.write``."""
        task = self.setting.task
        joined, facts = self._joined(task)
        if len(joined.queries) < len(task.queries):
            task = replace(task, queries=joined.queries)
        longest = max(len(ranking.rows) for ranking in joined.rankings)
        check_rankings(joined.rankings, task.queries, len(task.passages), longest)
        check_slice_names(self.settings.metric, task.queries)
        metrics = [parse_metric(name) for name in self.settings.metric.attribution]
        self.check_lists(metrics, longest, complete=longest == len(task.passages))
        context = Context(
            task=task,
            cache_dir=self.settings.cache_dir,
            load_model=lambda: self.setting.model,
            device=self.settings.device,
        )
        evaluation = evaluate(
            self.settings.metric, context, joined.rankings, self.settings.seed, longest
        )
        notes = joined.notes
        if not task.annotated and evaluation.judgement is None:
            notes = [*notes, "the task is not annotated: no attribution is scored"]
        work = _Work(
            task=task_record(task, evaluation),
            model=model_record(self.setting.model_name, self.setting.__dict__.get("model")),
            evaluation=evaluation,
            counts=dict(joined.counts),
            notes=notes,
            facts=facts,
            top_k=longest,
        )
        result = self.result(work)
        return write_cell(folder, self.resolved, result, task, joined.rankings, evaluation)

    def _joined(self, task: Task) -> tuple[matching.Joined, dict[str, Any]]:
        paths = self.source.paths
        if self.source.format is Format.bergson:
            rankings, facts = bergson.read(paths[0], task, self.settings.top_k)
            return _all_of(task, rankings), facts
        read = release.read if self.source.format is Format.release else trec.read
        return matching.join(read(paths), task, self.request.missing, self.request.top_k), {}


class _Judged(_Import):
    """Judged by what the file itself says; there is no corpus at hand."""

    def write(self, folder: Path) -> Result:
        """See ``_Import.write``."""
        settings, paths, top_k = self.settings, self.source.paths, self.request.top_k
        if self.source.format is not Format.release:
            raise UserError(
                f"the format {self.source.format.value} carries no judgement",
                where=str(paths[0]),
                fix="set task=NAME instead of task=none",
            )
        metrics = judged.kept_metrics(settings.metric)
        file = judged.score_file(paths, settings.metric, metrics, top_k, settings.seed)
        self.check_lists(metrics, file.longest)
        left_out = [m for m in settings.metric.attribution if m not in map(str, metrics)]
        notes = list(file.notes)
        if left_out:
            notes.append(
                f"{', '.join(left_out)} not scored: the number of gold passages is unknown"
            )
        work = _Work(
            task={
                "name": settings.task["name"],
                "version": None,
                "sha256": file.sha256,
                "n_queries": file.n_queries,
                "n_scored": file.evaluation.n_scored,
                "n_passages": None,
                "query_sets": file.query_sets,
                "counts": {
                    "queries": file.n_queries,
                    "queries_without_gold_sentence": file.without_gold,
                },
            },
            model={"name": self.setting.model_name, "n_params": None, "sha256": None},
            evaluation=file.evaluation,
            counts=dict(file.counts),
            notes=notes,
            facts={},
            top_k=file.longest,
        )
        records = (record for _, record in judged.records(paths, top_k))
        per_query = file.evaluation.per_query
        return write_records(folder, self.resolved, self.result(work), records, per_query)


def _all_of(task: Task, rankings: list[Ranking]) -> matching.Joined:
    """A ranking of exactly the task's queries and passages."""
    counts = {
        "queries_joined_by_order": len(rankings),
        "passages_joined_by_order": len(task.passages),
    }
    return matching.Joined(list(task.queries), rankings, Counter(counts), [])


def _within(metrics: Sequence[Metric], longest: int) -> str:
    return ",".join(str(metric) for metric in metrics if metric.depth <= longest) or "mrr"
