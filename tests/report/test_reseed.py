"""Agreement of a method with itself under other seeds, against its definition."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.report.board import make_boards
from bench.report.formats.comma_separated import of_tables
from bench.report.formats.markdown import section
from bench.report.reseed import DEPTH, Reseeding, reseedings, seeds_tables
from bench.results.schema import read_cells
from bench.tasks.records import read_retrievals
from metrics.stats.sampling import Sampling
from metrics.stats.seeds import estimate_over_seeds
from tests.fixtures.cells import (
    edit_config,
    edit_result,
    edit_retrievals,
    edit_table,
    write_cell,
)


def seeded(results: Path, method: str, seed: int, model: str = "m0", rate: float = 1) -> Path:
    """A cell of another ``method.seed``, and of the model with this hash and learning rate."""
    config = {"seed": seed, "model": model, "rate": rate}
    folder = write_cell(results, method, config=config, tail_patch=0.01 * seed)

    def change(record: dict) -> None:
        record["method"]["config"] = {"k1": 1.5, "seed": seed}
        record["model"]["sha256"] = model

    edit_result(folder, change)
    settings = {"learning_rate": rate, "seed": model[-1]}
    edit_config(folder, lambda config: config["model"].update(settings))
    rng = np.random.default_rng([seed, len(model), ord(model[-1])])
    edit_retrievals(folder, lambda records: [shuffle(record, rng) for record in records])
    return folder


def shuffle(record: dict, rng: np.random.Generator) -> None:
    record["proponent_ids"] = [f"s{i}" for i in rng.permutation(40)[: len(record["proponents"])]]


def lists(folder: Path) -> dict[str, list[str]]:
    [cell] = [c for c in read_cells(folder.parents[3]) if c.folder == folder]

    return {
        r.example_id: r.proponent_ids for r in read_retrievals(cell.folder / "retrievals.jsonl")
    }


def found(results: Path) -> list[Reseeding]:
    (board,) = make_boards(read_cells(results))
    return reseedings(board)


def test_overlap_and_scores_of_three_seeds(tmp_path: Path) -> None:
    folders = [seeded(tmp_path, "trackstar", seed) for seed in range(3)]
    write_cell(tmp_path, "bm25")
    (row,) = found(tmp_path)
    assert (row.method, row.reseeded, row.n_seeds, row.n_queries) == ("trackstar", "method", 3, 40)
    rankings = [lists(folder) for folder in folders]
    pairs = []
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        shares = [
            len(set(rankings[a][q][:DEPTH]) & set(rankings[b][q][:DEPTH])) / DEPTH
            for q in rankings[0]
        ]
        pairs.append(sum(shares) / len(shares))
    assert row.overlap.mean == pytest.approx(np.mean(pairs))
    assert (row.overlap.least, row.overlap.greatest) == pytest.approx((min(pairs), max(pairs)))
    values = [c.result.metrics["tail_patch"].value for c in read_cells(tmp_path)
              if c.result.method["name"] == "trackstar"]  # fmt: skip
    score = row.scores["tail_patch"].spread
    assert score.mean == pytest.approx(np.mean(values))
    assert (score.least, score.greatest) == (min(values), max(values))
    (board,) = make_boards(read_cells(tmp_path))
    seeds = [row.cell.folder for row in board.rows if row.method == "trackstar"]
    tables = [pd.read_parquet(folder / "per_query.parquet") for folder in seeds]
    ordered = [table.sort_values("query_id")["tail_patch"] for table in tables]
    scored = np.array([values.dropna() for values in ordered])
    estimate = row.scores["tail_patch"].estimate
    assert estimate == estimate_over_seeds(scored, Sampling())
    assert estimate is not None
    assert (estimate.n, estimate.over) == (30, "seeds and queries")
    assert estimate.value == pytest.approx(np.mean(values))


def test_queries_of_one_cluster_are_drawn_together(tmp_path: Path) -> None:
    """All queries of a relation are found, or none: over queries the interval is too narrow."""
    for seed in range(2):
        folder = seeded(tmp_path, "trackstar", seed)
        columns = {"mrr": [float(i < 10) for i in range(40)]}
        columns["cluster=relation"] = [i // 10 for i in range(40)]
        edit_table(folder, lambda table, c=columns: table.update(c))
    estimate = found(tmp_path)[0].scores["mrr"].estimate
    assert estimate is not None
    assert estimate.over == "seeds and relation"
    assert estimate.intervals["seeds and relation"].units == 4


def test_another_model_is_another_seeding(tmp_path: Path) -> None:
    for seed, model in [(0, "m0"), (1, "m0"), (0, "m1")]:
        seeded(tmp_path, "trackstar", seed, model)
    assert [(row.reseeded, row.n_seeds) for row in found(tmp_path)] == [("method", 2), ("model", 2)]


def test_models_of_other_settings_are_no_seeds(tmp_path: Path) -> None:
    for model, rate in [("m0", 1), ("m1", 2), ("m2", 3)]:
        seeded(tmp_path, "trackstar", 0, model, rate=rate)
    assert found(tmp_path) == []


def test_another_setting_is_no_seed(tmp_path: Path) -> None:
    for k1 in (1.2, 1.5):
        write_cell(tmp_path, "bm25", config={"k1": k1})
    seeded(tmp_path, "trackstar", 0)
    assert found(tmp_path) == []


def test_labels_tell_the_seed(tmp_path: Path) -> None:
    for seed in range(2):
        seeded(tmp_path, "trackstar", seed)
    (board,) = make_boards(read_cells(tmp_path))
    assert {row.label for row in board.rows} == {"trackstar", "trackstar (method.seed=1)"}


def test_equal_lists_agree_and_short_ones_count_by_the_longer(tmp_path: Path) -> None:
    folders = [seeded(tmp_path, "trackstar", seed) for seed in range(2)]

    def cut(n: int):
        def change(records: list[dict]) -> None:
            for record in records:
                for key in record.keys() - {"proponent_ids"}:
                    if key.startswith("proponent"):
                        record[key] = record[key][:n]
                record["proponent_ids"] = [f"s{i}" for i in range(n)]

        return change

    edit_retrievals(folders[0], cut(8))
    edit_retrievals(folders[1], cut(4))
    assert found(tmp_path)[0].overlap.mean == 0.5
    edit_retrievals(folders[1], cut(0))
    assert found(tmp_path)[0].overlap.mean == 0
    edit_retrievals(folders[0], cut(0))
    assert found(tmp_path)[0].overlap.mean == 1


def test_text(tmp_path: Path) -> None:
    for seed in range(2):
        seeded(tmp_path, "a|<b>", seed)
    (board,) = make_boards(read_cells(tmp_path))
    read, by_metric = seeds_tables(board)
    table = "\n".join(section(read))
    assert "## Under other seeds: factworld × tiny" in table
    (line,) = [line for line in table.splitlines() if line.startswith("| a")]
    assert "<b>" not in line
    assert line.count(" | ") == 5
    rows = list(csv.DictReader(io.StringIO(of_tables([by_metric]))))
    assert {row["metric"] for row in rows} == {"mrr", "tail_patch"}
    assert all(float(row["low"]) < float(row["mean"]) < float(row["high"]) for row in rows)
    scores = reseedings(board)[0].scores
    shown = {"mrr": 1.0, "tail_patch": 100.0}  # percentage points
    for row in rows:
        assert float(row["mean"]) == shown[row["metric"]] * scores[row["metric"]].spread.mean
    assert {row["over"] for row in rows} == {"seeds and queries"}
    assert float(rows[0]["overlap"]) == reseedings(board)[0].overlap.mean
