"""Which metric foresees retraining: rank correlation across methods, against its definition."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest

from bench.report.board import make_boards
from bench.report.formats.comma_separated import of_tables
from bench.report.formats.markdown import section
from bench.report.meta_evaluation import Foresight, foresight_table, foresights
from bench.results.schema import read_cells
from tests.fixtures.cells import edit_result, edit_step, edit_table, write_cell

stats = pytest.importorskip("scipy.stats")  # comes with sentence-transformers
METHODS = ("bm25", "dense", "grad_dot", "grad_cos", "trackstar")


def write(
    results: Path, name: str, columns: dict[str, np.ndarray], rate: float | None = None
) -> Path:
    """A cell that measured these, too, at one learning rate of tail-patch."""
    folder = write_cell(results, name)
    edit_table(folder, lambda table: table.update({k: v.tolist() for k, v in columns.items()}))
    stored = {
        key: {"value": float(np.nanmean(v)), "ci95": [0, 0], "n": len(v)}
        for key, v in columns.items()
    }
    edit_result(folder, lambda record: record["metrics"].update(stored))
    if rate is not None:
        edit_step(folder, learning_rate=rate)
        folder = folder.rename(folder.with_name(f"{hash(rate) % 10**16:016}"))
    return folder


def noisy(mean: float, seed: int, noise: float = 0.01, n: int = 40) -> np.ndarray:
    return mean + np.random.default_rng(seed).normal(0, noise, n)


def found(results: Path) -> dict[tuple[str, str], Foresight]:
    (board,) = make_boards(read_cells(results))
    return {(row.metric, row.truth): row for row in foresights(board)}


def test_a_metric_that_knows_the_order(tmp_path: Path) -> None:
    for i, name in enumerate(METHODS):
        columns = {
            "tail_patch": noisy(i, i),
            "lds": noisy(-i, i),
            "removal_effect": noisy(i, 9 + i),
        }
        write(tmp_path, name, columns)
    rows = found(tmp_path)
    right = rows["tail_patch", "removal_effect"]
    assert (right.correlation, right.ci95) == (pytest.approx(1), (pytest.approx(1),) * 2)
    assert (right.n_methods, right.n_queries) == (5, 40)
    assert rows["lds", "removal_effect"].correlation == pytest.approx(-1)
    assert rows["removal_effect", "lds"].correlation == pytest.approx(-1)
    assert ("removal_effect", "removal_effect") not in rows
    assert ("mrr", "removal_effect") in rows
    assert not any(truth == "mrr" for _, truth in rows)


def test_the_interval_is_wide_where_queries_disagree(tmp_path: Path) -> None:
    for i, name in enumerate(METHODS):
        write(tmp_path, name, {"lds": noisy(i, i, noise=20), "qld": noisy(i, 9 + i, noise=20)})
    low, high = found(tmp_path)["lds", "qld"].ci95
    assert high - low > 0.5


def test_against_means_and_scipy(tmp_path: Path) -> None:
    tables = {}
    for i, name in enumerate(METHODS):
        columns = {"lds": noisy(0, i, 1), "removal_effect": noisy(0, 9 + i, 1)}
        columns["removal_effect"][i::3] = math.nan  # other queries than of the other methods
        write(tmp_path, name, columns)
        tables[name] = columns
    means = [
        [np.nanmean(tables[name][key]) for name in METHODS] for key in ("lds", "removal_effect")
    ]
    row = found(tmp_path)["lds", "removal_effect"]
    assert row.correlation == pytest.approx(stats.spearmanr(*means).statistic)
    assert row.ci95[0] <= row.correlation <= row.ci95[1]


def test_controls_and_too_few_methods(tmp_path: Path) -> None:
    for i, name in enumerate(("bm25", "dense", "random", "gold", "grad_dot")):
        write(tmp_path, name, {"lds": noisy(i, i), "qld": noisy(i, 9 + i)})
    assert found(tmp_path) == {}
    write(tmp_path, "trackstar", {"lds": noisy(9, 0), "qld": noisy(9, 1)})
    assert found(tmp_path)["lds", "qld"].n_methods == 4


def test_learning_rates_are_metrics_of_their_own(tmp_path: Path) -> None:
    for i, name in enumerate(METHODS):
        truth = {"removal_effect": noisy(i, 9 + i)}
        write(tmp_path, name, {"tail_patch": noisy(i, i), **truth}, rate=0.5)
        write(tmp_path, name, {"tail_patch": noisy(-i, i)}, rate=0.01)
    rows = found(tmp_path)
    values = {metric: row.correlation for (metric, _), row in rows.items() if "tail" in metric}
    assert values == {
        "tail_patch (learning rate 0.5)": pytest.approx(1),
        "tail_patch (learning rate 0.01)": pytest.approx(-1),
    }


def test_as_text(tmp_path: Path) -> None:
    for i, name in enumerate(METHODS):
        write(tmp_path, name, {"removal_effect": noisy(i, i), "lds": np.zeros(40)})
    tables = [foresight_table(board) for board in make_boards(read_cells(tmp_path))]
    lines = csv.DictReader(io.StringIO(of_tables(tables)))
    records = {(line["metric"], line["truth"]): line for line in lines}
    assert records["lds", "removal_effect"]["rank_correlation"] == "nan", "all methods are equal"
    assert records["mrr", "removal_effect"]["n_methods"] == "5"
    text = "\n".join(section(tables[0]))
    assert "| LDS | removal effect (pp) | – | \\[–, –\\] | 5 |" in text


def test_opponents_steps_are_told_apart_by_their_rate_too(tmp_path: Path) -> None:
    """Fault: those of the first rate that was read stood for both."""
    for i, name in enumerate(METHODS):
        truth = {"removal_effect": noisy(i, 9 + i)}
        write(tmp_path, name, {"opponent_tail_patch": noisy(i, i), **truth}, rate=0.5)
        write(tmp_path, name, {"opponent_tail_patch": noisy(-i, i)}, rate=0.01)
    rows = found(tmp_path)
    values = {metric: row.correlation for (metric, _), row in rows.items() if "tail" in metric}
    assert values == {
        "opponent_tail_patch (learning rate 0.5)": pytest.approx(1),
        "opponent_tail_patch (learning rate 0.01)": pytest.approx(-1),
    }
