"""Recompute every metric of finished cells from their stored rankings.

What is recomputed: each query's attribution metrics from ``proponent_correct`` and ``n_gold``, or
from a judge's ``proponent_ais_scores`` and its threshold; and each mean and interval from the
per-query table. What is not: the value that takes a model for a single query (``needs_model`` of
``metrics.measures``) is believed, only its mean and interval are recomputed, but for a rank
correlation over subsets of the corpus, of which only what was foreseen and measured of each is
believed; and whether a passage is correct is the task's annotation, or the judge's word, of which a
ranking holds a copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from bench.core.errors import UserError
from bench.core.escape import clean
from bench.results.intervals import numbers_beside, stored_sampling
from bench.results.per_query import read_per_query
from bench.results.rankings import correct_of
from bench.results.schema import (
    CONFIG,
    ENTAILED,
    PER_QUERY,
    RESULT,
    RETRIEVALS,
    Result,
    read_result,
)
from bench.storage.hashes import file_sha256
from bench.tasks.records import RetrievalRecord, read_retrievals
from metrics import measures
from metrics.length import length_ratio
from metrics.measures import LENGTH_RATIO, MetricKind
from metrics.settings import Cluster
from metrics.stats.bootstrap import Estimate
from metrics.stats.correlation import rank_correlation

_TOLERANCE = 1e-9  # relative: sums in another order differ in the last bits


@dataclass(frozen=True)
class Problem:
    """One thing that does not hold.

    Attributes:
        cell: the cell's folder below the results folder.
        metric: the metric, or the file, that is wrong.
        stored: the value that the cell gives.
        recomputed: the value that follows from its rankings, or that was expected.
    """

    cell: str
    metric: str
    stored: str
    recomputed: str = ""

    def __str__(self) -> str:
        expected = f", recomputed {self.recomputed}" if self.recomputed else ""
        return clean(f"{self.cell}: {self.metric}: {self.stored}{expected}")


class Problems(list[Problem]):
    """The problems of a results folder, with how many cells and numbers were looked at."""

    n_cells = 0
    n_numbers = 0


def verify(results_dir: Path, with_lists: bool = True) -> Problems:
    """Check every cell below ``results_dir``; damaged files are problems, not exceptions.

    Args:
        results_dir: the folder of the cells.
        with_lists: whether the cells have their lists; without them the values of single queries
            are believed, and means and intervals are recomputed from them.

    Raises:
        UserError: the folder does not exist or holds no cell.
    """
    folders = _cell_folders(results_dir)
    if not folders:
        raise UserError(
            "holds no finished cell", where=str(results_dir), fix="run `tdabench run` first"
        )
    problems = Problems()
    for folder in folders:
        check = _Check(folder, str(folder.relative_to(results_dir)), with_lists)
        problems += check.run()
        problems.n_cells += 1
        problems.n_numbers += check.n_numbers
    return problems


def _cell_folders(results_dir: Path) -> list[Path]:
    """Folders that hold any file of a cell: one that lost its result is damaged, not absent."""
    files = (RESULT, RETRIEVALS, PER_QUERY, CONFIG)
    folders = {path.parent for file in files for path in results_dir.glob(f"*/*/*/*/{file}")}
    return sorted(folder for folder in folders if ".partial-" not in folder.name)


@dataclass(frozen=True)
class _Settings:
    """The settings of a cell's metrics in its ``config.yaml``.

    Attributes:
        samples: number of bootstrap resamples of the intervals.
        without_gold: the score of a query that has no correct passage: NaN or 0.
        judged: whether a judge was asked, and not the annotation.
        threshold: a passage is correct above this score of the judge.
        cluster: by what queries hang together, for the intervals.
    """

    samples: int
    without_gold: float
    judged: bool = False
    threshold: float = ENTAILED
    cluster: Cluster = Cluster.none


class _Check:
    """The check of one cell."""

    def __init__(self, folder: Path, name: str, with_lists: bool) -> None:
        self.folder = folder
        self.name = name
        self.with_lists = with_lists
        self.n_numbers = 0
        self.problems: list[Problem] = []

    def run(self) -> list[Problem]:
        """Read the three files, then compare; what cannot be read ends the check."""
        try:
            result = self.result = read_result(self.folder / RESULT)
            _check_shape(result)
            records = self._read_lists()
            table = read_per_query(self.folder)
            self.settings = _read_settings(self.folder / CONFIG)
        except (UserError, OSError, RecursionError) as error:
            what = error.what if isinstance(error, UserError) else str(error)
            self.add(_place(error), what)
            return self.problems
        if records is None:
            self._check_numbers(None, table)
            return self.problems
        if file_sha256(self.folder / RETRIEVALS) != result.rankings_sha256:
            self.add(RETRIEVALS, "is not the file that was written with this result")
            return self.problems
        for record in records:
            self._check_list(record, result.top_k)
        if self._same_queries(records, table, result):
            by_id = {record.example_id: record for record in records}
            ordered = [by_id[query] for query in table["query_id"]]
            self._check_judge(ordered)
            if self._check_gold(ordered, table):
                self._check_numbers(ordered, table)
        return self.problems

    def _read_lists(self) -> list[RetrievalRecord] | None:
        """The rankings; None of a cell that is kept without them."""
        return list(read_retrievals(self.folder / RETRIEVALS)) if self.with_lists else None

    def _check_numbers(
        self, records: Sequence[RetrievalRecord] | None, table: dict[str, np.ndarray]
    ) -> None:
        result = self.result
        self._check_n_scored(result, table)
        cluster = self.settings.cluster
        sampling, complaints = stored_sampling(records, table, cluster, result.metrics)
        for complaint in complaints:
            self.add(*complaint)
        self.sampling = replace(sampling, samples=self.settings.samples, seed=result.seed)
        for name, stored in result.metrics.items():
            self._check_metric(name, stored, records, table)
        self._check_slices(result, table)

    def add(self, metric: str, stored: object, recomputed: object = "") -> None:
        """Note one problem."""
        self.problems.append(Problem(self.name, metric, str(stored), str(recomputed)))

    # -------------------------------------------------------------- rankings

    def _check_list(self, record: RetrievalRecord, top_k: int) -> None:
        where = f"{RETRIEVALS}, query {record.example_id}"
        scores = np.asarray(record.proponent_scores, dtype=np.float64)
        if len(record.proponents) > top_k:
            self.add(where, f"lists {len(record.proponents)} proponents, top_k is {top_k}")
        if (np.diff(scores) > 0).any():
            rank = int(np.argmax(np.diff(scores) > 0)) + 2
            self.add(where, f"proponent {rank} scores higher than the one before it")
        if len(set(record.proponent_ids)) != len(record.proponent_ids):
            self.add(where, "lists a proponent twice")

    def _same_queries(
        self, records: Sequence[RetrievalRecord], table: dict[str, np.ndarray], result: Result
    ) -> bool:
        ranked = [record.example_id for record in records]
        listed = set(table["query_id"])
        twice = len(ranked) - len(set(ranked))
        before = len(self.problems)
        if twice:
            self.add(
                RETRIEVALS, f"{twice} {'query is' if twice == 1 else 'queries are'} listed twice"
            )
        if missing := sorted(listed - set(ranked)):
            self.add(RETRIEVALS, f"lacks {_some(missing)}, in {PER_QUERY}")
        if missing := sorted(set(ranked) - listed):
            self.add(PER_QUERY, f"lacks {_some(missing)}, in {RETRIEVALS}")
        if result.task.get("n_queries") != len(listed):
            self.add(RESULT, f"n_queries {result.task.get('n_queries')}", len(listed))
        return len(self.problems) == before

    def _check_gold(self, records: Sequence[RetrievalRecord], table: dict[str, np.ndarray]) -> bool:
        """A label flipped below every cut-off moves no metric, but may exceed the gold."""
        gold = table.get("n_gold")
        if gold is None or gold.dtype.kind != "f":
            self.add("n_gold", f"{PER_QUERY} has no such column of numbers")
            return False
        known = self.result.task.get("n_passages") is not None and not self.settings.judged
        if np.isnan(gold).any() and known:
            self.add("n_gold", "is unknown for some query, though the corpus is known")
            return False
        for record, n_gold in zip(records, gold, strict=True):
            n_correct = sum(record.proponent_correct or ())
            if n_correct > n_gold:
                where = f"{RETRIEVALS}, query {record.example_id}"
                self.add(where, f"{n_correct} correct proponents, {n_gold:.0f} gold passages")
        return True

    def _check_judge(self, records: Sequence[RetrievalRecord]) -> None:
        """The result says by whom and by which threshold was judged, as the settings do."""
        judge = self.result.task.get("judge")
        if not self.settings.judged:
            if judge is not None:
                self.add("judge", f"{RESULT} names one, {CONFIG} does not")
            return
        threshold = judge.get("threshold") if isinstance(judge, dict) else None
        counts = judge.get("counts") if isinstance(judge, dict) else None
        unjudged = sum(record.proponent_ais_scores is None for record in records)
        stored = counts.get("queries_not_judged") if isinstance(counts, dict) else None
        self.n_numbers += 2
        if threshold != self.settings.threshold:
            self.add("judge threshold", f"stored {threshold}", self.settings.threshold)
        if stored != unjudged:
            self.add("judge queries_not_judged", f"stored {stored}", unjudged)

    def _check_n_scored(self, result: Result, table: dict[str, np.ndarray]) -> None:
        # A metric that nobody knows stands with them: it is told of where it is recomputed.
        kinds = (MetricKind.attribution, MetricKind.unknown)
        judged = [name for name in result.metrics if measures.of(name).kind in kinds]
        columns = [table[name] for name in judged if name in table]
        counts = [int((~np.isnan(c)).sum()) for c in columns if c.dtype.kind == "f"]
        stored, expected = result.task.get("n_scored"), max(counts, default=0)
        self.n_numbers += 1
        if stored != expected:
            self.add("n_scored", f"stored {stored}", expected)

    # -------------------------------------------------------------- metrics

    def _check_metric(
        self,
        name: str,
        stored: Estimate,
        records: Sequence[RetrievalRecord] | None,
        table: dict[str, np.ndarray],
    ) -> None:
        values = table.get(name)
        if values is None or values.dtype.kind != "f":
            self.add(name, f"{PER_QUERY} has no such column of numbers")
            return
        if name in self.sampling.subsets:
            self._check_queries(name, values, self._correlations(name), table)
        elif records is not None and not measures.of(name).needs_model:
            self._check_queries(name, values, self._expected(name, records, table), table)
        self._check_estimate(name, stored, self.sampling.estimate(name, values))

    def _correlations(self, name: str) -> list[float]:
        return [rank_correlation(*pair) for pair in zip(*self.sampling.subsets[name], strict=True)]

    def _expected(
        self, name: str, records: Sequence[RetrievalRecord], table: dict[str, np.ndarray]
    ) -> list[float]:
        """The metric of each query, computed from its ranking; empty for an unknown metric."""
        from metrics.attribution import parse_metric

        if name == LENGTH_RATIO:
            task = self.result.task
            mean_length = task["counts"]["characters"] / task["n_passages"]
            return [length_ratio(record.proponents, mean_length) for record in records]
        try:
            metric = parse_metric(name)
        except UserError as error:
            self.add(name, error.what)
            return []
        expected = []
        for record, n_gold in zip(records, table["n_gold"], strict=True):
            correct = correct_of(record, self.settings.threshold)
            if correct is None:
                expected.append(math.nan)
            elif math.isnan(n_gold):  # judged by the file it came in: how much gold is unknown
                expected.append(math.nan if metric.needs_n_gold else metric.score(correct, 1))
            elif n_gold > 0:
                expected.append(metric.score(correct, int(n_gold)))
            else:
                expected.append(self.settings.without_gold)
        return expected

    def _check_queries(
        self,
        name: str,
        values: np.ndarray,
        expected: Sequence[float],
        table: dict[str, np.ndarray],
    ) -> None:
        self.n_numbers += len(expected)
        wrong = [
            (query, stored, right)
            for query, stored, right in zip(table["query_id"], values, expected, strict=False)
            if not _same(stored, right)
        ]
        if wrong:
            query, stored, right = wrong[0]
            others = f" (and {len(wrong) - 1} more queries)" if len(wrong) > 1 else ""
            self.add(f"{name} of query {query}{others}", f"stored {stored:.6g}", f"{right:.6g}")

    def _check_estimate(self, name: str, stored: Estimate, expected: Estimate | None) -> None:
        if expected is None:
            self.add(name, f"stored {stored.value:.6g}", "nothing: no query was scored")
            return
        if stored.over != expected.over or set(stored.intervals) != set(expected.intervals):
            self.add(f"{name} interval", f"stored over {stored.over}", expected.over)
            return
        for part, (old, new) in numbers_beside(stored, expected).items():
            self.n_numbers += 1
            if not _same(old, new):
                self.add(f"{name}{part}", f"stored {old:.8g}", f"{new:.8g}")

    def _check_slices(self, result: Result, table: dict[str, np.ndarray]) -> None:
        for slice_name, groups in result.slices.items():
            labels = table.get(slice_name)
            for group, metrics in groups.items():
                for name, stored in metrics.items():
                    where = f"{name} of {slice_name}={group}"
                    values = table.get(where.removeprefix("share of "), table.get(name))
                    if values is None or values.dtype.kind != "f":
                        self.add(where, f"{PER_QUERY} has no such column of numbers")
                    elif name == "share":
                        self._check_estimate(where, stored, self.sampling.estimate(name, values))
                    elif labels is None:
                        self.add(where, f"{PER_QUERY} has no column {slice_name}")
                    else:
                        rows = labels.astype(str) == group
                        expected = self.sampling.of(rows).estimate(name, values[rows])
                        self._check_estimate(where, stored, expected)


def _check_shape(result: Result) -> None:
    """The fields that the check relies on have their type; ``read_result`` checks the metrics."""
    for name, kind in (("task", dict), ("top_k", int), ("seed", int)):
        if not isinstance(getattr(result, name), kind):
            raise UserError(f"{name} is no {kind.__name__}", where=RESULT)
    if LENGTH_RATIO in result.metrics:
        counts = result.task.get("counts")
        sizes = (result.task.get("n_passages"), dict(counts or {}).get("characters"))
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise UserError(
                "task.n_passages and task.counts.characters are no counts", where=RESULT
            )


def _read_settings(path: Path) -> _Settings:
    try:
        metric = yaml.safe_load(path.read_text(encoding="utf-8"))["metric"]
        judge = metric.get("judge")
        return _Settings(
            samples=int(metric["bootstrap_samples"]),
            without_gold={"skip": math.nan, "zero": 0.0}[metric["no_gold"]],
            judged=judge is not None,
            threshold=ENTAILED if judge is None else float(judge["threshold"]),
            cluster=Cluster(metric["cluster"]),
        )
    except Exception as error:  # a file of settings may be broken in any way
        what = " ".join(str(error).split())[:200]
        raise UserError(f"no valid metric settings in it ({what})", where=str(path)) from error


def _place(error: Exception) -> str:
    """The name of the file, and of the line in it, that an error is about."""
    if isinstance(error, UserError):
        return Path(error.where.partition(",")[0]).name + "".join(error.where.partition(",")[1:])
    return Path(getattr(error, "filename", None) or RESULT).name


def _same(stored: float, expected: float) -> bool:
    if math.isnan(stored) or math.isnan(expected):
        return math.isnan(stored) and math.isnan(expected)
    return math.isclose(stored, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def verdict_lines(problems: Problems) -> Iterator[str]:
    """The lines that ``tdabench verify`` prints: one for each problem, then what was compared."""
    yield from map(str, problems)
    count = (
        f"{len(problems)} problem{'s' if len(problems) != 1 else ''}" if problems else "all hold"
    )
    cells = f"{problems.n_cells} cell{'s' if problems.n_cells != 1 else ''}"
    yield f"{cells}, {problems.n_numbers:,} numbers compared: {count}"
    yield "influence: means and intervals recomputed; steps and trainings are not run again"
