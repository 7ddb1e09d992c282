"""A cell whose lists a method makes: task × model × method × seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from bench.core import progress
from bench.core.errors import UserError
from bench.results.schema import is_finished
from bench.results.spans import TOLERANCE
from bench.run.identity import method_identity
from bench.run.life import Outcome, TaskLife, Work
from bench.run.parts import Parts
from bench.run.settings import Settings
from bench.run.spans import spans_of_lists, tolerance
from bench.run.values import check_spans
from methods.base import Method, Sibling
from methods.choosing import chosen
from metrics.attribution import check_depth, parse_metric
from metrics.optimizer_step import check_room


def run_cell(
    settings: Settings,
    overrides: Sequence[str] = (),
    sweep: str = "single",
    later: Callable[[], Sequence[Settings]] = tuple,
) -> Outcome:
    """Run one cell, or find it finished.

    Args:
        overrides: the command-line words that make it, for the record.
        sweep: the name of the sweep, by which loggers group cells.
        later: gives the settings of the sweep's cells that come after this one and differ from it
            in the method alone.

    Raises:
        UserError: anything that the user can mend; nothing is then left in the cell's folder.
    """
    parts, words = Parts(settings), ["tdabench", "run", *overrides]
    parts.check_device()
    return MethodCell(parts, words, sweep, later).outcome()


class MethodCell(TaskLife):
    """One method on one task and model.

    Args:
        later: as in ``run_cell``.
    """

    def __init__(
        self,
        parts: Parts,
        words: Sequence[str],
        sweep: str,
        later: Callable[[], Sequence[Settings]] = tuple,
    ) -> None:
        super().__init__(parts, words, sweep)
        self._later = later

    @property
    def names(self) -> tuple[str, str, str]:
        """See ``CellLife.names``."""
        settings = self.settings
        return settings.task["name"], settings.model["name"], settings.method["name"]

    @cached_property
    def _chosen(self) -> tuple[type[Method], Any]:
        """The class of the method and its settings."""
        return chosen(self.settings.method)

    @cached_property
    def method(self) -> Method:
        """The method, which has done nothing yet."""
        kind, config = self._chosen
        return kind(config, self.context)

    def siblings(self) -> list[Sibling]:
        """The cells that come after this one and are not there yet, as methods know them.

        A cell with faulty settings is left out: it says so itself when its turn comes.
        """
        siblings = []
        with suppress(UserError):
            for settings in self._later():
                with suppress(UserError):
                    cell = MethodCell(self.parts.beside(settings), self.words, self.sweep)
                    cell.check_settings()
                    if not is_finished(cell.folder(cell.identity())):
                        siblings.append(Sibling(*cell._chosen, settings.top_k))
        return siblings

    def check_settings(self) -> None:
        """Refuse settings of any part that cannot work."""
        settings = self.settings
        check_depth(map(parse_metric, settings.metric.attribution), settings.top_k)
        kind, config = self._chosen
        kind.check_settings(config)
        if settings.spans:
            check_spans(settings.method["name"], config)
        super().check_settings()

    def ranking_identity(self) -> dict[str, Any]:
        """How the method makes the lists."""
        return method_identity(self.method, self.settings.method, self.settings.top_k)

    def work(self) -> Work:
        """Let the method index the passages and search them, then measure what it found."""
        method, context, top_k = self.method, self.context, self.settings.top_k
        method.check()
        n_queries, n_passages = len(context.task.queries), len(context.task.passages)
        label = " × ".join(self.names)
        progress.say(f"cell {label}: {n_queries:,} queries, {n_passages:,} passages")
        if "model" in vars(context):  # what it cannot do is told before hours of work
            for query in context.task.queries:
                context.model.query_tokens(query)
            if self.settings.metric.tail_patch.enabled:
                check_room(context.model)
        with context.phases.measure("index"):
            size = method.index()
        with context.phases.measure("search"):
            rankings = list(method.search(context.task.queries, top_k))
        spans = None
        if self.settings.spans:  # they are made as the lists are written, one query at a time
            context.facts[TOLERANCE] = tolerance(context.model.gradient_dtype)
            spans = spans_of_lists(method, context.task.queries, rankings)
        return self.measured(rankings, context.task, top_k, index=size, spans=spans)
