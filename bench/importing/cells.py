"""A cell whose lists were made elsewhere: where they are from, and what its record says of that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from bench.core import progress
from bench.core.errors import UserError
from bench.core.escape import clean
from bench.importing import judged, matching
from bench.importing.bergson import read_bergson
from bench.importing.release import read_release
from bench.importing.settings import Format, Request
from bench.importing.sources import RankingFiles
from bench.importing.trec import read_trec
from bench.run.identity import Identity, metric_identity
from bench.run.life import CellLife, Outcome, TaskLife, Work
from bench.run.parts import Parts
from bench.tasks import Task
from methods.base import Ranking
from metrics.attribution import Metric, check_depth, parse_metric

_NO_MODEL = "imported"  # what the leaderboard calls the model where none was named


def import_ranking(parts: Parts, request: Request, source: RankingFiles) -> Outcome:
    """Import one ranking, or find it imported.

    Args:
        parts: the task and the model, which the rankings of one command share.

    Raises:
        UserError: anything that the user can mend; nothing is then left in the cell's folder.
    """
    kind = _OfTask if request.has_task else _SelfJudged
    return kind(parts, request, source).outcome()


class _Imported(CellLife):
    """One ranking; subclasses say by what it is judged."""

    imported = True

    def __init__(self, parts: Parts, request: Request, source: RankingFiles) -> None:
        super().__init__(parts, ["tdabench", "import", *request.words], "import")
        self.request = request
        self.source = source
        # Files may have names that are no UTF-8, or that would steer a terminal.
        self.name = clean(request.name or source.name)

    @property
    def names(self) -> tuple[str, str, str]:
        """See ``CellLife.names``."""
        model = self.settings.model["name"] if self.request.has_model else _NO_MODEL
        return self.settings.task["name"], model, self.name

    @cached_property
    def config(self) -> dict[str, Any]:
        """See ``CellLife.config``: the file stands for the method."""
        config = dict(self.settings.resolved)
        if not self.request.has_model:
            del config["model"]
        config["method"] = {
            "name": self.name,
            "format": self.source.format.value,
            "source": self.source.sha256[:16],
        }
        config["import"] = {
            "files": [clean(path) for path in self.source.paths],
            "missing": self.request.missing.value,
            "top_k_given": self.request.top_k,
        }
        return config

    def ranking_identity(self) -> dict[str, Any]:
        """Which file the lists are from, and how they are read."""
        # bergson's lists are made here and need a length; those of other formats have theirs.
        is_made_here = self.source.format is Format.bergson
        return {
            "format": self.source.format.value,
            "sha256": self.source.sha256,
            "missing": self.request.missing.value,
            "top_k": self.settings.top_k if is_made_here else self.request.top_k,
        }

    def check_lists(self, metrics: Sequence[Metric], longest: int) -> None:
        """The lists are long enough for what is measured.

        Raises:
            UserError: a metric looks deeper than the longest list.
        """
        try:
            check_depth(metrics, longest)
        except UserError as error:
            kept = [str(metric) for metric in metrics if metric.depth <= longest]
            raise UserError(
                f"its longest list has {longest} passages, too few for {error.what.split()[1]}",
                where=str(self.source.paths[0]),
                fix=f"metric.attribution=[{','.join(kept) or 'mrr'}] leaves out the deeper ones",
            ) from error

    def facts(self, notes: Sequence[str], **more: Any) -> dict[str, Any]:
        """What the record says of where the lists are from; the notes are said, too."""
        for note in notes:
            progress.say(f"{self.name}: {note}")
        return {
            "files": [clean(path.name) for path in self.source.paths],
            "files_sha256": self.source.sha256,
            "notes": list(notes),
            **more,
        }


class _OfTask(_Imported, TaskLife):
    """A ranking that is judged by the task's annotation, and with a model by tail-patch."""

    @property
    def with_model(self) -> bool:
        """Whether a model was named."""
        return self.request.has_model

    def work(self) -> Work:
        """Join the lists with the task, then measure them."""
        task = self.parts.task
        joined, facts = self._joined(task)
        if len(joined.queries) < len(task.queries):
            task = replace(task, queries=joined.queries)
        longest = max(len(ranking.rows) for ranking in joined.rankings)
        if longest < len(task.passages):  # else nothing is left to list
            metrics = [parse_metric(name) for name in self.settings.metric.attribution]
            self.check_lists(metrics, longest)
        notes = list(joined.notes)
        if not task.annotated and self.judge is None:
            notes.append("the task is not annotated: no attribution is scored")
        own = self.facts(notes, **facts)
        return self.measured(joined.rankings, task, longest, own, dict(joined.counts))

    def _joined(self, task: Task) -> tuple[matching.Joined, dict[str, Any]]:
        paths = self.source.paths
        if self.source.format is Format.bergson:
            rankings, facts = read_bergson(paths[0], task, self.settings.top_k)
            return _all_of(task, rankings), facts
        read = read_release if self.source.format is Format.release else read_trec
        return matching.join(read(paths), task, self.request.missing, self.request.top_k), {}


class _SelfJudged(_Imported):
    """A ranking that is judged by what its file says; there is no corpus at hand."""

    def check_settings(self) -> None:
        """Refuse a format that carries no judgement, and metrics that need a corpus."""
        if self.source.format is not Format.release:
            raise UserError(
                f"the format {self.source.format.value} carries no judgement",
                where=str(self.source.paths[0]),
                fix="set task=NAME instead of task=none",
            )
        judged.kept_metrics(self.settings.metric)

    def check_task(self) -> None:
        """The file is read as it is scored."""

    def identity(self) -> Identity:
        """Everything that the numbers depend on: the file stands for the task."""
        return Identity(
            ranking=self.ranking_identity(),
            metric=metric_identity(self.settings.metric),
            task=None,
            model=None,
            seed=self.settings.seed,
        )

    def work(self) -> Work:
        """Score the lists by their own judgement."""
        settings, paths, top_k = self.settings, self.source.paths, self.request.top_k
        metrics = judged.kept_metrics(settings.metric)
        file = judged.score_file(paths, settings.metric, metrics, top_k, settings.seed)
        self.check_lists(metrics, file.longest)
        left_out = [m for m in settings.metric.attribution if m not in map(str, metrics)]
        notes = list(file.notes)
        if left_out:
            notes.append(
                f"{', '.join(left_out)} not scored: the number of gold passages is unknown"
            )
        return Work(
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
            model={"name": self.names[1], "n_params": None, "sha256": None},
            evaluation=file.evaluation,
            records=(record for _, record in judged.records(paths, top_k)),
            top_k=file.longest,
            facts=self.facts(notes),
            counts=dict(file.counts),
        )


def _all_of(task: Task, rankings: list[Ranking]) -> matching.Joined:
    """A ranking of exactly the task's queries and passages."""
    counts = {
        "queries_joined_by_order": len(rankings),
        "passages_joined_by_order": len(task.passages),
    }
    return matching.Joined(list(task.queries), rankings, Counter(counts), [])
