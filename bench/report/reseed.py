"""How far a method agrees with itself under another seed: the ceiling of any agreement with it.

A projection, a random ranking and a trained model are drawn by a seed. Cells that differ in seeds
alone say how much of a ranking, and of a score, is the draw: two methods whose lists have less in
common than a method and its own re-seeding differ in more than chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from bench.report import display
from bench.report.board import Board, Row, scores_of, table_of
from bench.report.leaderboard import of_board
from bench.report.table import Column, Table, Value
from bench.report.telling_apart import METHOD_SEED, MODEL_SEED, settings
from bench.results.per_query import clusters_of
from bench.results.rankings import DEPTH, first_passages
from metrics import measures
from metrics.stats.bootstrap import Estimate
from metrics.stats.sampling import Sampling
from metrics.stats.seeds import estimate_over_seeds

# One metric of each side of the benchmark, and what retraining says where it was asked.
_SCORED = (*measures.SIDES, measures.REMOVAL_EFFECT, f"{measures.REMOVAL_EFFECT}_log", measures.LDS)
LEGEND = (
    "Cells of one method that differ in seeds alone. Overlap: share of the first "
    f"{DEPTH} passages that two seeds have in common, mean over queries and pairs of seeds, with "
    "the least and the greatest pair. Scores: mean over seeds and queries, with its 95% interval "
    "for which both were resampled, and the least and the greatest seed."
)


@dataclass(frozen=True)
class Spread:
    """A number under several seeds: mean, least and greatest."""

    mean: float
    least: float
    greatest: float


@dataclass(frozen=True)
class SeedScore:
    """A metric under several seeds.

    Attributes:
        spread: means over queries, of each seed.
        estimate: mean over seeds and queries, with its hierarchical interval; None where the seeds
            were scored on no query in common.
    """

    spread: Spread
    estimate: Estimate | None


@dataclass(frozen=True)
class Reseeding:
    """One method under several seeds.

    Attributes:
        reseeded: ``"method"``, or ``"model"`` where the trained models differ, too.
        n_queries: number of queries that all of the cells have.
        overlap: shared part of the first ``DEPTH`` passages, over pairs of seeds.
        scores: each metric that all cells measured, over seeds.
    """

    method: str
    reseeded: str
    n_seeds: int
    n_queries: int
    overlap: Spread
    scores: dict[str, SeedScore]


def reseedings(board: Board) -> list[Reseeding]:
    """Every method of a board with more than one seed, by method and what was drawn anew.

    A method is re-seeded by ``method.seed``, and by ``model.seed`` where it reads a model. Cells
    under another ``seed`` of the task have other queries, and are on another board; models that
    differ in more than the seed (checkpoints, learning rates), or whose settings no cell knows, are
    no seeds, nor are the runs of different people.

    Raises:
        UserError: a cell's rankings are damaged.
    """
    several: list[Reseeding] = []
    for reseeded, own, held in (("method", _method_seed, _model), ("model", _model, _method_seed)):
        groups: dict[str, dict[str, Row]] = {}
        for row in board.rows:
            name = repr([_unseeded(row), _model_settings(row), held(row), row.cell.source])
            groups.setdefault(name, {}).setdefault(repr(own(row)), row)
        for cells in groups.values():
            if len(cells) > 1 and (one := _reseeding(list(cells.values()), reseeded)):
                several.append(one)
    return sorted(several, key=lambda one: (one.method, one.reseeded))


def _unseeded(row: Row) -> list[tuple[str, object]]:
    drawn = ("seed", METHOD_SEED, MODEL_SEED, "model")
    return sorted((k, v) for k, v in settings(row.cell).items() if k not in drawn)


def _model_settings(row: Row) -> object:
    """The model's settings but its seed; its hash, which no other has, where they are unknown."""
    model = row.cell.config.get("model")
    if not isinstance(model, Mapping) or "seed" not in model:
        return _model(row)
    return {key: value for key, value in model.items() if key != "seed"}


def _model(row: Row) -> object:
    return row.result.model.get("sha256")


def _method_seed(row: Row) -> object:
    config = row.result.method.get("config")
    return config.get("seed") if isinstance(config, Mapping) else None


def _reseeding(rows: Sequence[Row], reseeded: str) -> Reseeding | None:
    """The agreement of rows that differ in one seed; None if they share no query."""
    lists = [first_passages(row.cell.folder) for row in rows]
    shared = sorted(set.intersection(*(set(one) for one in lists)))
    if not shared:
        return None
    pairs = [_overlap(one, other, shared) for one, other in itertools.combinations(lists, 2)]
    tables = [table_of(row.cell) for row in rows]
    always = rows[0].cell.clusters_always
    scores = {
        metric: SeedScore(
            _spread([row.result.metrics[metric].value for row in rows]),
            _over_seeds(metric, tables, always),
        )
        for metric in _SCORED
        if all(metric in row.result.metrics for row in rows)
    }
    return Reseeding(rows[0].method, reseeded, len(rows), len(shared), _spread(pairs), scores)


def _overlap(
    one: Mapping[str, set[str]], other: Mapping[str, set[str]], queries: Sequence[str]
) -> float:
    """Mean over queries of |A ∩ B| / max(|A|, |B|); two empty lists agree."""
    shares = []
    for query in queries:
        longest = max(len(one[query]), len(other[query]))
        shares.append(len(one[query] & other[query]) / longest if longest else 1.0)
    return float(np.mean(shares))


def _over_seeds(
    metric: str, tables: Sequence[Mapping[str, np.ndarray]], always: bool
) -> Estimate | None:
    """The mean over seeds and the queries that all of them were scored on."""
    scores = [scores_of(table, metric) for table in tables]
    queries = sorted(set.intersection(*map(set, scores)))
    if not queries:
        return None
    values = np.array([[own[query] for query in queries] for own in scores])
    clusters = clusters_of(tables[0])
    labels = {name: np.array([of[query] for query in queries]) for name, of in clusters.items()}
    return estimate_over_seeds(values, Sampling(labels=labels, always=always))


def _spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.mean(values)), min(values), max(values))


def seeds_tables(board: Board) -> tuple[Table, Table]:
    """The re-seedings of a board for readers, a row each; and for programs, a row a metric.

    Raises:
        UserError: a cell's rankings are damaged.
    """
    rows = reseedings(board)
    columns = [
        Column(lambda one: one.method, "method", is_text=True),
        Column(lambda one: one.reseeded, "re-seeded", is_text=True),
        Column(lambda one: one.n_seeds, "seeds"),
        Column(lambda one: _shown("overlap", one.overlap), "overlap"),
        *map(_score, [one for one in _SCORED if any(one in row.scores for row in rows)]),
    ]
    title = f"Under other seeds: {board.task} × {board.model}"
    scores = [(one, *score) for one in rows for score in one.scores.items()]
    return Table(title, columns, rows, LEGEND), Table("", _by_metric(board), scores)


def _score(metric: str) -> Column:
    return Column(
        lambda one: _shown_score(metric, one.scores.get(metric)), measures.of(metric).head
    )


def _by_metric(board: Board) -> list[Column]:
    return [
        *of_board(board),
        Column(lambda row: row[0].method, fields=("method",)),
        Column(lambda row: row[0].reseeded, fields=("reseeded",)),
        Column(lambda row: row[0].n_seeds, fields=("n_seeds",)),
        Column(lambda row: row[0].n_queries, fields=("n_queries",)),
        Column(
            lambda row: Value(raw=astuple(row[0].overlap)),
            fields=("overlap", "overlap_least", "overlap_greatest"),
        ),
        Column(lambda row: row[1], fields=("metric",)),
        Column(_ends, fields=("mean", "least", "greatest")),
        Column(_interval, fields=("low", "high", "over")),
    ]


def _ends(row: tuple[Reseeding, str, SeedScore]) -> Value:
    _, metric, score = row
    return Value(raw=tuple(map(measures.of(metric).shown, astuple(score.spread))))


def _interval(row: tuple[Reseeding, str, SeedScore]) -> Value:
    _, metric, score = row
    if score.estimate is None:
        return Value()
    return Value(raw=(*map(measures.of(metric).shown, score.estimate.ci95), score.estimate.over))


def _shown_score(metric: str, score: SeedScore | None) -> str:
    if score is None:
        return display.MISSING
    interval = display.interval(metric, score.estimate) if score.estimate else ""
    mean, ends = _shown(metric, score.spread).split(" ", 1)
    return " ".join(filter(None, (mean, interval, ends)))


def _shown(metric: str, spread: Spread) -> str:
    mean, *ends = (display.number(metric, value) for value in astuple(spread))
    return f"{mean} ({' to '.join(ends)})"
