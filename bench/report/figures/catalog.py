"""All figures, and which of them a leaderboard has data for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.core.escape import clean
from bench.report.board import Board
from bench.report.figures import methods, sweeps
from bench.report.figures.data import Body, Figure
from bench.report.figures.selection import comparable
from metrics.measures import TAIL_PATCH

FOLDER, FORMATS = "figures", ("png", "svg", "pdf", "csv")
_ON_PAGE = 2  # figures that the report's page shows above each board, the first of the catalog

_CHOICE = "One cell a method: the one whose settings are the most common among its cells."


@dataclass(frozen=True)
class Spec:
    """One figure of the catalog.

    Attributes:
        caption: one sentence on what the figure shows.
        lacks: the reason where it cannot be made.
        experiment: name of the experiment whose cells it can be made of.
        of_board, of_task: the function that collects its data; one of the two.
        compares_methods: whether all cells of the figure must be measured in one way.
    """

    name: str
    caption: str
    lacks: str
    experiment: str
    of_board: Callable[[Board], Body | None] | None = None
    of_task: Callable[[Sequence[Board]], Body | None] | None = None
    compares_methods: bool = False

    def collect(self, boards: Sequence[Board]) -> Iterator[tuple[tuple[str, ...], str, Body]]:
        """The figures that can be drawn: task (and model), a note for the caption, and the data."""
        if self.of_board:
            for board in boards:
                note, chosen = "", board
                if self.compares_methods:
                    rows, note = comparable(board.rows)
                    chosen = replace(board, rows=rows)
                if body := self.of_board(chosen):
                    if self.compares_methods and _is_choice(chosen, body):
                        note = f"{note} {_CHOICE}".strip()
                    yield (board.task, board.model), note, body
        if self.of_task:
            for task in dict.fromkeys(board.task for board in boards):
                if body := self.of_task([board for board in boards if board.task == task]):
                    yield (task,), "", body


@dataclass(frozen=True)
class MissingFigure:
    """A figure without data: the reason, and the command that makes the cells it needs."""

    name: str
    reason: str
    command: str

    def __str__(self) -> str:
        return f"no figure {self.name}: {self.reason}; {self.command}"


@dataclass(frozen=True)
class FigurePlan:
    """The figures that can be drawn, and those that cannot."""

    figures: list[Figure] = field(default_factory=list)
    missing: list[MissingFigure] = field(default_factory=list)


# The most telling first: the page shows the first of each board.
SPECS = (
    Spec(
        "attribution_influence", "Attribution (right is better) against influence (up is better).",
        "no two cells of one task and model have both MRR and tail-patch", "quickstart",
        of_board=methods.attribution_influence, compares_methods=True,
    ),
    Spec(
        "projection_dim",
        "Attribution and influence by the dimension of the gradients' projection.",
        "no two cells differ in method.projection_dim alone", "projection_dim",
        of_board=sweeps.over("projection_dim", "projection dimension per side"),
    ),
    Spec(
        "mixing", "Attribution and influence by λ; a star marks the λ that mixing=auto found.",
        "no two cells with method.hessian=mixed differ in method.mixing alone", "mixing",
        of_board=sweeps.over(sweeps.MIXING, "λ, the queries' share in R", "linear"),
    ),
    Spec(
        "storage_quality", "MRR by the size of the index in each storage format.",
        "no two cells differ in method.storage alone", "storage", of_board=sweeps.storage_quality,
    ),
    Spec(
        "tail_patch_top", "Influence by the number of proponents that are patched.",
        "no two cells differ in metric.tail_patch.top alone", "top_k_tail_patch",
        of_board=sweeps.over(
            "metric.tail_patch.top", "proponents patched per query", metrics=(TAIL_PATCH,)
        ),
    ),
    Spec(
        "tail_patch_learning_rate", "Influence by the learning rate of the tail-patch step.",
        "no two cells differ in metric.tail_patch.learning_rate alone", "tail_patch_learning_rate",
        of_board=sweeps.over(
            "metric.tail_patch.learning_rate", "learning rate of the step", metrics=(TAIL_PATCH,)
        ),
    ),
    Spec(
        "retraining",
        "Cheap metrics against what training without the proponents takes from the probability.",
        "no two cells of one task and model have a removal effect", "ground_truth",
        of_board=methods.retraining, compares_methods=True,
    ),
    Spec(
        "proponent_kinds", "What the top 10 proponents say about the fact.",
        "no cell's task annotates what its passages say", "proponent_types",
        of_board=methods.proponent_kinds, compares_methods=True,
    ),
    Spec(
        "frequency", "Attribution and influence by how often the corpus states the fact.",
        "no cell has results for two or more groups of frequency", "frequency",
        of_board=methods.frequency, compares_methods=True,
    ),
    Spec(
        "cost_quality", "What a ranking costs, in seconds and in bytes, against its MRR.",
        "no two methods of one task and model have both a cost and MRR", "quickstart",
        of_board=methods.cost_quality, compares_methods=True,
    ),
    Spec(
        "model_size", "Attribution and influence by the size of the model.",
        "no method was run, with equal settings, on two models of different size", "scaling",
        of_task=methods.model_size,
    ),
)  # fmt: skip


def plan(boards: Sequence[Board], results_dir: Path) -> FigurePlan:
    """Collect every figure's data; ``results_dir`` is where the commands put further cells."""
    planned = FigurePlan()
    taken: set[str] = set()
    for spec in SPECS:
        collected = list(spec.collect(boards))
        for place, note, body in collected:
            stem, caption = spec.name, f"{spec.caption} {note}".strip()
            if len(collected) > 1:
                named = "-".join(place)
                stem, caption = _free(f"{stem}-{_slug(named)}", taken), f"{caption} {named}."
            planned.figures.append(Figure(spec.name, place, stem, clean(caption), body))
        if not collected:
            folder = shlex.quote(f"results_dir={results_dir}")
            command = f"tdabench run -m experiment={spec.experiment} {folder}"
            planned.missing.append(MissingFigure(spec.name, spec.lacks, command))
    return planned


def on_page(figures: Sequence[Figure], task: str, model: str) -> list[Figure]:
    """The figures of one board that the report's page shows."""
    return [figure for figure in figures if figure.place == (task, model)][:_ON_PAGE]


def _is_choice(board: Board, body: Body) -> bool:
    """Whether the figure shows one cell of some method that has several."""
    methods_there = {(row.method, row.result.imported) for row in board.rows}
    shown = {record["series"] for record in body.records()}
    return len(shown) <= len(methods_there) < len(board.rows)


def is_figure(path: Path) -> bool:
    """Whether a file has a name that ``plan`` may have given it."""
    names = {spec.name for spec in SPECS}
    return path.suffix[1:] in FORMATS and path.stem.partition("-")[0] in names


def _slug(name: str) -> str:
    """A name as part of a file's: letters of ASCII, digits, dot and hyphen; never a path."""
    return re.sub(r"(?:[^A-Za-z0-9.]|\.{2,})+", "-", name).strip("-.")[:80] or "x"


def _free(stem: str, taken: set[str]) -> str:
    """``stem``, with a number where two names differ only in what a file's name cannot hold."""
    number, free = 2, stem
    while free.lower() in taken:  # some file systems know no case
        number, free = number + 1, f"{stem}-{number}"
    taken.add(free.lower())
    return free
