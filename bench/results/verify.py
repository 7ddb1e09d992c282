"""Recompute every metric of finished cells from their stored rankings.

What is recomputed: each query's attribution metrics from ``proponent_correct`` and ``n_gold``, or
from a judge's ``proponent_ais_scores`` and its threshold; a query's tail-patch from the changes of
its proponents; and each mean and interval from the per-query table. What is not: the other values
that take a model for a single query (``needs_model`` of ``metrics.measures``) are believed, only
their mean and interval are recomputed, but for a rank correlation over subsets of the corpus, of
which only what was foreseen and measured of each is believed; and whether a passage is correct is
the task's annotation, or the judge's word, of which a ranking holds a copy. Scores are believed;
the shares of their tokens, where there are any, must sum to them (``bench.results.spans``).

What a cell says of itself must agree as well, and nothing that follows may be missing
(``bench.results.consistency``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path

import numpy as np

from bench.core import progress
from bench.core.errors import UserError
from bench.results.consistency import disagreements, labelled_groups, left_out, not_asked_for, some
from bench.results.intervals import numbers_beside, stored_sampling
from bench.results.lists import Listed, Ranked, read_lists
from bench.results.per_query import SUPPORT, read_per_query
from bench.results.problems import Problem, Problems
from bench.results.schema import (
    CONFIG,
    PER_QUERY,
    RESULT,
    RETRIEVALS,
    Result,
    cell_folders,
    check_links,
    read_result,
)
from bench.results.settings import MeasuredBy, measured_by, read_config
from bench.results.spans import SpanCheck
from bench.results.text_free import RANKINGS, read_text_free
from bench.storage.hashes import file_sha256
from bench.tasks.records import read_retrievals
from metrics import measures
from metrics.measures import LENGTH_RATIO, TAIL_PATCH, MetricKind
from metrics.stats.bootstrap import Estimate
from metrics.stats.correlation import rank_correlation

_TOLERANCE = 1e-9  # relative: sums in another order differ in the last bits


class Lists(Enum):
    """What is kept of the rankings of a cell, and so what can be recomputed from them.

    Attributes:
        whole: ``retrievals.jsonl``, as a run writes it.
        text_free: all but the texts (``bench.results.text_free``). What is recomputed from whole
            ones is from these, too, except that they are the file that belongs to the result.
        none: nothing: the values of single queries are believed, and means and intervals are
            recomputed from them.
    """

    whole = RETRIEVALS
    text_free = RANKINGS
    none = ""


def verify(results_dir: Path, kept: Lists = Lists.whole) -> Problems:
    """Check every cell below ``results_dir``; damaged files are problems, not exceptions.

    A cell that lost its result is damaged, not absent.

    Args:
        results_dir: the folder of the cells.
        kept: what the cells have of their rankings.

    Raises:
        UserError: the folder does not exist or holds no cell.
    """
    problems = Problems()
    for folder in progress.track(list(cell_folders(results_dir)), "verify", unit="cells"):
        check = _Check(folder, str(folder.relative_to(results_dir)), kept)
        problems += check.run()
        problems.n_cells += 1
        problems.n_numbers += check.n_numbers
        problems.n_without_identity += check.has_no_identity
    return problems


class _Check:
    """The check of one cell."""

    result: Result
    asked: MeasuredBy

    def __init__(self, folder: Path, name: str, kept: Lists) -> None:
        self.folder = folder
        self.name = name
        self.kept = kept
        self.n_numbers = 0
        self.has_no_identity = False
        self.problems: list[Problem] = []

    def run(self) -> list[Problem]:
        """Read the four files, then compare; what cannot be read ends the check."""
        try:
            check_links(self.folder)
            result = self.result = read_result(self.folder / RESULT)
            config = read_config(self.folder)
            self.asked = measured_by(config)
            table = read_per_query(self.folder, result.n_queries)
            spans = SpanCheck.of(result, config)
            lists = None if self.kept is Lists.none else self._lists(spans)
            has_same_lists = self.kept is not Lists.whole or (
                file_sha256(self.folder / RETRIEVALS) == result.rankings_sha256
            )
        except UserError as error:
            self.add(_place(error), error.what)
            return self.problems
        self.has_no_identity = not result.identity
        for complaint in disagreements(self.folder, result, config):
            self.add(*complaint)
        if not has_same_lists:
            self.add(RETRIEVALS, "is not the file that was written with this result")
            return self.problems
        if lists is None:
            self._compare(None, table)
            return self.problems
        for one in lists:
            for fault in one.faults:
                self.add(f"{self.kept.value}, query {one.query}", fault)
        if self._same_queries(lists, table):
            by_id = {one.query: one for one in lists}
            self._compare([by_id[query] for query in table["query_id"]], table)
        return self.problems

    def add(self, metric: str, stored: object, recomputed: object = "") -> None:
        """Note one problem."""
        self.problems.append(Problem(self.name, metric, str(stored), str(recomputed)))

    def _lists(self, spans: SpanCheck) -> list[Listed]:
        counts = self.result.task.get("counts") or {}
        n_characters = counts.get("characters") or 0
        n_passages = self.result.task.get("n_passages") or 0
        if LENGTH_RATIO in self.result.metrics and not (n_characters and n_passages):
            raise UserError(
                "task.n_passages and task.counts.characters are no counts", where=RESULT
            )
        mean_length = n_characters / n_passages if n_passages else math.nan
        asked, top_k = self.asked, self.result.top_k
        ranked = self._ranked()
        return list(read_lists(ranked, top_k, asked.threshold, asked.top, mean_length, spans))

    def _ranked(self) -> Iterator[Ranked]:
        if self.kept is Lists.text_free:
            yield from read_text_free(self.folder)
        else:
            for record in read_retrievals(self.folder / RETRIEVALS):
                yield record, list(map(len, record.proponents))

    def _compare(self, lists: Sequence[Listed] | None, table: dict[str, np.ndarray]) -> None:
        """Compare what the lists, in the order of the table, give with the table and the result."""
        result, asked = self.result, self.asked
        self._check_n_scored(result, table)
        asked_for, judged = None, True
        if lists is not None:
            self._check_judge(lists)
            judged = any(one.correct is not None for one in lists)
            asked_for = [one.relation for one in lists], [one.target for one in lists]
        sampling, complaints = stored_sampling(asked_for, table, asked.cluster, result.metrics)
        complaints += [
            *not_asked_for(table, asked, judged),
            *left_out(result, table, lists is not None),
        ]
        for complaint in complaints:
            self.add(*complaint)
        self.sampling = replace(sampling, samples=asked.samples, seed=result.seed)
        if lists is None or self._check_gold(lists, table):
            for name, stored in result.metrics.items():
                self._check_metric(name, stored, lists, table)
            self._check_slices(result, table)

    # -------------------------------------------------------------- rankings

    def _same_queries(self, lists: Sequence[Listed], table: dict[str, np.ndarray]) -> bool:
        ranked = [one.query for one in lists]
        listed = set(table["query_id"])
        twice = len(ranked) - len(set(ranked))
        before = len(self.problems)
        if twice:
            self.add(
                self.kept.value,
                f"{twice} {'query is' if twice == 1 else 'queries are'} listed twice",
            )
        if missing := sorted(listed - set(ranked)):
            self.add(self.kept.value, f"lacks {some(missing)}, in {PER_QUERY}")
        if missing := sorted(set(ranked) - listed):
            self.add(PER_QUERY, f"lacks {some(missing)}, in {self.kept.value}")
        if self.result.n_queries != len(listed):
            self.add(RESULT, f"n_queries {self.result.n_queries}", len(listed))
        return len(self.problems) == before

    def _check_gold(self, lists: Sequence[Listed], table: dict[str, np.ndarray]) -> bool:
        """A label flipped below every cut-off moves no metric, but may exceed the gold."""
        gold = table.get("n_gold")
        if gold is None or gold.dtype.kind != "f":
            self.add("n_gold", f"{PER_QUERY} has no such column of numbers")
            return False
        known = self.result.task.get("n_passages") is not None and not self.asked.judged
        if np.isnan(gold).any() and known:
            self.add("n_gold", "is unknown for some query, though the corpus is known")
            return False
        for one, n_gold in zip(lists, gold, strict=True):
            if one.n_correct > n_gold:
                where = f"{self.kept.value}, query {one.query}"
                self.add(where, f"{one.n_correct} correct proponents, {n_gold:.0f} gold passages")
        return True

    def _check_judge(self, lists: Sequence[Listed]) -> None:
        """The result says by whom and by which threshold was judged, as the settings do."""
        judge = self.result.task.get("judge")
        if not self.asked.judged:
            if judge is not None:
                self.add("judge", f"{RESULT} names one, {CONFIG} does not")
            return
        threshold = (judge or {}).get("threshold")
        unjudged = sum(not one.is_judged for one in lists)
        stored = (judge or {}).get("counts", {}).get("queries_not_judged")
        self.n_numbers += 2
        if threshold != self.asked.threshold:
            self.add("judge threshold", f"stored {threshold}", self.asked.threshold)
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
        lists: Sequence[Listed] | None,
        table: dict[str, np.ndarray],
    ) -> None:
        values = table.get(name)
        if values is None or values.dtype.kind != "f":
            self.add(name, f"{PER_QUERY} has no such column of numbers")
            return
        if name in self.sampling.subsets:
            self._check_queries(name, values, self._correlations(name), table)
        elif lists is not None and name == TAIL_PATCH:
            self._check_queries(name, values, [one.change for one in lists], table)
        elif lists is not None and not measures.of(name).needs_model:
            self._check_queries(name, values, self._expected(name, lists, table), table)
        self._check_estimate(name, stored, self.sampling.estimate(name, values))

    def _correlations(self, name: str) -> list[float]:
        return [rank_correlation(*pair) for pair in zip(*self.sampling.subsets[name], strict=True)]

    def _expected(
        self, name: str, lists: Sequence[Listed], table: dict[str, np.ndarray]
    ) -> list[float]:
        """The metric of each query, computed from its ranking; empty for an unknown metric."""
        from metrics.attribution import parse_metric

        if name == LENGTH_RATIO:
            return [one.length_ratio for one in lists]
        try:
            metric = parse_metric(name)
        except UserError as error:
            self.add(name, error.what)
            return []
        expected = []
        for one, n_gold in zip(lists, table["n_gold"], strict=True):
            if one.correct is None:
                expected.append(math.nan)
            elif math.isnan(n_gold):  # judged by the file it came in: how much gold is unknown
                expected.append(math.nan if metric.needs_n_gold else metric.score(one.correct, 1))
            elif n_gold > 0:
                expected.append(metric.score(one.correct, int(n_gold)))
            else:
                expected.append(self.asked.without_gold)
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
        known = labelled_groups(table)
        for slice_name, groups in result.slices.items():
            if slice_name == SUPPORT:
                self._check_shares(groups, table)
                continue
            if slice_name not in known:
                self.add(f"slices, {slice_name}", f"{PER_QUERY} has no column {slice_name}")
                continue
            for group, stored in groups.items():
                rows = known[slice_name].get(group)
                if rows is None:
                    self.add(f"slices, {slice_name}={group}", f"{PER_QUERY} has no such group")
                    continue
                sampling = self.sampling.of(rows)
                for name, one in stored.items():
                    where, values = f"{name} of {slice_name}={group}", table.get(name)
                    if values is None or values.dtype.kind != "f":
                        self.add(where, f"{PER_QUERY} has no such column of numbers")
                    else:
                        self._check_estimate(where, one, sampling.estimate(name, values[rows]))

    def _check_shares(
        self, kinds: dict[str, dict[str, Estimate]], table: dict[str, np.ndarray]
    ) -> None:
        """The mean share of each kind of support among the first proponents."""
        for kind, stored in kinds.items():
            values = table.get(f"{SUPPORT}={kind}")
            for name, one in stored.items():
                where = f"{name} of {SUPPORT}={kind}"
                if name != "share" or values is None or values.dtype.kind != "f":
                    self.add(where, f"{PER_QUERY} has no such column of numbers")
                else:
                    self._check_estimate(where, one, self.sampling.estimate(name, values))


def _place(error: UserError) -> str:
    """The name of the file, and of the line in it, that an error is about."""
    path, comma, field = error.where.partition(",")
    return Path(path).name + comma + field


def _same(stored: float, expected: float) -> bool:
    if math.isnan(stored) or math.isnan(expected):
        return math.isnan(stored) and math.isnan(expected)
    return math.isclose(stored, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
