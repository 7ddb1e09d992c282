"""Every way in which a cell's numbers can stop following from its rankings is noticed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.results.per_query import read_per_query
from bench.results.problems import verdict_lines
from bench.results.schema import CONFIG, PER_QUERY, RESULT, RETRIEVALS
from bench.results.verify import verify
from metrics.attribution import parse_metric
from metrics.stats.correlation import rank_correlation
from metrics.stats.sampling import Sampling
from tests.fixtures.cells import (
    SAMPLES,
    edit_config,
    edit_result,
    edit_retrievals,
    edit_table,
    write_cell,
)
from tests.fixtures.estimates import estimate_mean


def problems_of(cell: Path) -> list[str]:
    """The problems of the results folder that ``cell`` is in, a line each."""
    problems = [str(problem) for problem in verify(cell.parents[3])]
    assert all("\n" not in line and "trackstar" in line for line in problems)
    return problems


def test_cells_as_written_hold(cell: Path) -> None:
    write_cell(cell.parents[3], "bm25", strength=0.2, seed=1)
    problems = verify(cell.parents[3])
    assert list(problems) == []
    assert problems.n_cells == 2
    # A cell: n_scored, 40 queries x 4 metrics, and 40 of tail-patch in one of them. An estimate is
    # 4 numbers: of 6 and of 4 metrics, each of all queries and of 3 groups.
    assert problems.n_numbers == 2 * (1 + 40 * 4) + 40 + 4 * (6 + 4) * (1 + 3)
    assert next(verdict_lines(problems)) == "2 cells, 522 numbers compared: all hold"


def set_metric(name: str, field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["metrics"][name].update({field: value})


@pytest.mark.parametrize("name", ["mrr", "hit@1", "hit@10", "recall@10", "tail_patch"])
def test_a_changed_mean(cell: Path, name: str) -> None:
    edit_result(cell, set_metric(name, "value", 0.987))
    (line,) = problems_of(cell)
    assert f"{name}: stored 0.987, recomputed 0." in line


def test_a_changed_interval_and_a_changed_n(cell: Path) -> None:
    edit_result(cell, set_metric("mrr", "ci95", [0.0, 1.0]))
    edit_result(cell, set_metric("hit@10", "n", 41))
    text = "\n".join(problems_of(cell))
    assert "mrr interval, low: stored 0, recomputed" in text
    assert "mrr interval, high: stored 1, recomputed" in text
    assert "hit@10 n: stored 41, recomputed 40" in text


def test_a_changed_slice(cell: Path) -> None:
    edit_result(cell, lambda r: r["slices"]["relation"]["born in"]["mrr"].update(value=0.99))
    (line,) = problems_of(cell)
    assert "mrr of relation=born in: stored 0.99" in line


def test_a_nan_in_the_result(cell: Path) -> None:
    edit_result(cell, set_metric("mrr", "value", math.nan))
    assert any("expected a finite number, found nan" in line for line in problems_of(cell))


def test_a_metric_without_column(cell: Path) -> None:
    edit_table(cell, lambda columns: columns.pop("hit@1"))
    problems = problems_of(cell)
    assert len(problems) == 4  # of all queries, and of three groups
    assert all("hit@1" in line for line in problems)


def add_metric(cell: Path, name: str) -> None:
    """Give the cell one more metric, as a run with it in ``metric.attribution`` would have."""
    records = [json.loads(line) for line in (cell / RETRIEVALS).read_text().splitlines()]
    n_gold = read_per_query(cell)["n_gold"]
    values = [
        parse_metric(name).score(np.array(record["proponent_correct"], dtype=bool), int(n))
        for record, n in zip(records, n_gold, strict=True)
    ]
    edit_table(cell, lambda columns: columns.update({name: values}))
    relations, scores = read_per_query(cell)["relation"], np.array(values)

    def change(record: dict[str, Any]) -> None:
        record["metrics"][name] = asdict(estimate_mean(scores, SAMPLES, seed=0))
        for relation, own in record["slices"]["relation"].items():
            own[name] = asdict(estimate_mean(scores[relations == relation], SAMPLES, seed=0))

    edit_result(cell, change)
    edit_config(cell, lambda settings: settings["metric"]["attribution"].append(name))


@pytest.mark.parametrize("name", ["map", "map@10", "ndcg@10", "precision@10"])
def test_every_metric_is_recomputed_from_the_rankings(cell: Path, name: str) -> None:
    add_metric(cell, name)
    assert problems_of(cell) == []
    edit_table(cell, lambda columns: columns[name].__setitem__(5, 0.123))
    text = "\n".join(problems_of(cell))
    assert f"{name} of query q5: stored 0.123, recomputed" in text
    edit_retrievals(cell, lambda r: r[5].update(proponent_correct=[False] * 20))
    assert f"{name} of query q5: stored 0.123, recomputed 0" in "\n".join(problems_of(cell))


@pytest.mark.parametrize("name", ["map", "map@10", "ndcg@10", "recall@10"])
def test_what_needs_the_gold_is_not_scored_where_nobody_counted_it(cell: Path, name: str) -> None:
    """Rankings judged by their own file, without a corpus: a number would be invented."""
    if name != "recall@10":
        add_metric(cell, name)
    edit_table(cell, lambda columns: columns.update(n_gold=[math.nan] * 40))
    edit_result(cell, lambda record: record["task"].update(n_passages=None))
    problems = problems_of(cell)
    assert any(f"{name} of query" in line and "recomputed nan" in line for line in problems)
    assert not any("mrr" in line or "hit@" in line for line in problems)


def test_a_metric_of_unknown_name(cell: Path) -> None:
    edit_result(cell, lambda r: r["metrics"].update(glory=r["metrics"]["mrr"]))
    edit_table(cell, lambda columns: columns.update(glory=columns["mrr"]))
    (line,) = problems_of(cell)
    assert "glory" in line


# ------------------------------------------------------------------ rankings


def test_a_flipped_label_at_the_top(cell: Path) -> None:
    def flip(records: list[dict[str, Any]]) -> None:
        records[3]["proponent_correct"][0] = not records[3]["proponent_correct"][0]

    edit_retrievals(cell, flip)
    text = "\n".join(problems_of(cell))
    for metric in ("mrr", "hit@1", "recall@10"):
        assert f"{metric} of query q3: stored" in text


def test_more_correct_proponents_than_there_is_gold(cell: Path) -> None:
    def flip_the_tail(records: list[dict[str, Any]]) -> None:
        records[0]["proponent_correct"][12:] = [True] * 8  # below the cut-off of every metric

    edit_retrievals(cell, flip_the_tail)
    (line,) = problems_of(cell)
    assert "query q0" in line
    assert "gold" in line


def test_a_swapped_order(cell: Path) -> None:
    def swap(records: list[dict[str, Any]]) -> None:
        scores = records[5]["proponent_scores"]
        scores[2], scores[3] = scores[3], scores[2]

    edit_retrievals(cell, swap)
    (line,) = problems_of(cell)
    assert "query q5: proponent 4 scores higher than the one before it" in line


def test_a_nan_score(cell: Path) -> None:
    edit_retrievals(cell, lambda r: r[0]["proponent_scores"].__setitem__(0, math.nan))
    (line,) = problems_of(cell)
    assert "proponent_scores" in line


def test_a_list_longer_than_top_k(cell: Path) -> None:
    edit_result(cell, lambda r: r.update(top_k=19))
    edit_config(cell, lambda settings: settings.update(top_k=19))
    problems = problems_of(cell)
    assert len(problems) == 40
    assert "lists 20 proponents, top_k is 19" in problems[0]


def test_a_proponent_listed_twice(cell: Path) -> None:
    edit_retrievals(cell, lambda r: r[1].update(proponent_ids=[r[1]["proponent_ids"][0]] * 20))
    (line,) = problems_of(cell)
    assert "query q1: lists a proponent twice" in line


def test_a_deleted_line(cell: Path) -> None:
    edit_retrievals(cell, lambda records: records.pop(7))
    (line,) = problems_of(cell)
    assert f"{RETRIEVALS}: lacks q7" in line


def test_a_line_too_many_and_one_twice(cell: Path) -> None:
    def add(records: list[dict[str, Any]]) -> None:
        records += [records[0], {**records[1], "example_id": "q99"}]

    edit_retrievals(cell, add)
    text = "\n".join(problems_of(cell))
    assert "1 query is listed twice" in text
    assert f"{PER_QUERY}: lacks q99" in text


def test_queries_that_vanished_from_both_files(cell: Path) -> None:
    edit_retrievals(cell, lambda records: records.pop())
    edit_table(cell, lambda columns: [values.pop() for values in columns.values()])
    assert any("n_queries 40, recomputed 39" in line for line in problems_of(cell))


def test_a_query_hidden_as_not_scored(cell: Path) -> None:
    edit_table(cell, lambda columns: columns["mrr"].__setitem__(2, math.nan))
    assert any("mrr of query q2: stored nan" in line for line in problems_of(cell))


@pytest.mark.parametrize(("no_gold", "right"), [("skip", math.nan), ("zero", 0.0)])
@pytest.mark.parametrize("value", [math.nan, 0.0, 0.5])
def test_a_query_without_gold_scores_what_the_setting_says(
    cell: Path, no_gold: str, right: float, value: float
) -> None:
    def score(columns: dict[str, list[Any]]) -> None:
        columns["n_gold"][2] = 0
        for name in ("mrr", "hit@1", "hit@10", "recall@10"):
            columns[name][2] = value

    edit_retrievals(cell, lambda r: r[2].update(proponent_correct=[False] * 20))
    edit_table(cell, score)
    config = (cell / CONFIG).read_text()
    (cell / CONFIG).write_text(config.replace("no_gold: skip", f"no_gold: {no_gold}"))
    wrong = any("of query q2" in line for line in problems_of(cell))
    assert wrong != (value == right or (math.isnan(value) and math.isnan(right)))


def test_a_changed_n_scored(cell: Path) -> None:
    edit_result(cell, lambda record: record["task"].update(n_scored=39))
    (line,) = problems_of(cell)
    assert "n_scored: stored 39, recomputed 40" in line


# ------------------------------------------------------------------ damaged files


@pytest.mark.parametrize("file", [RESULT, RETRIEVALS, PER_QUERY, CONFIG])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "binary"])
def test_a_damaged_file_is_one_line(cell: Path, file: str, damage: str) -> None:
    path = cell / file
    if damage == "missing":
        path.unlink()
    else:
        half = path.read_bytes()[: path.stat().st_size // 2]
        path.write_bytes({"truncated": half, "empty": b"", "binary": b"\xff\xfe\x00\x01"}[damage])
    (line,) = problems_of(cell)
    assert file in line or "lacks q" in line


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", '{"schema_version": 1}'])
def test_a_result_that_is_none(cell: Path, text: str) -> None:
    (cell / RESULT).write_text(text)
    (line,) = problems_of(cell)
    assert RESULT in line


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", []),
        ("top_k", "x"),
        ("slices", []),
        ("seed", "x"),
        ("phases", [{"name": "a", "seconds": "x"}]),
        ("index", {"bytes": "=1+1"}),
        ("model", 3),
    ],
)
def test_a_field_of_the_wrong_type(cell: Path, field: str, value: Any) -> None:
    edit_result(cell, lambda record: record.update({field: value}))
    (line,) = problems_of(cell)
    assert RESULT in line


def test_one_damaged_cell_does_not_hide_another(cell: Path) -> None:
    other = write_cell(cell.parents[3], "bm25")
    (other / PER_QUERY).unlink()
    edit_result(cell, set_metric("mrr", "value", 0.5))
    problems = verify(cell.parents[3])
    assert {Path(problem.cell).parent.name for problem in problems} == {"bm25", "trackstar"}


def test_unfinished_cells_are_none_of_its_business(cell: Path) -> None:
    partial = cell.with_name(f".{cell.name}.partial-x")
    partial.mkdir()
    (partial / RETRIEVALS).write_text("{")
    assert problems_of(cell) == []


def test_nothing_to_verify_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished cell"):
        verify(tmp_path)


def test_another_rankings_file_is_noticed_by_its_hash(cell: Path) -> None:
    """A label flipped far down moves no metric: only the hash can tell."""
    path = cell / RETRIEVALS
    first, *others = path.read_text().splitlines()
    record = json.loads(first)
    record["proponents"][-1] += "!"
    path.write_text("\n".join([json.dumps(record), *others]) + "\n")
    (line,) = problems_of(cell)
    assert "is not the file" in line


# ------------------------------------------------------------------ what intervals are over


@pytest.fixture
def clustered(cell: Path) -> Path:
    """The cell with intervals over clusters, and a score over subsets of the corpus."""
    measured = {"cluster": "relation", "retraining": {"lds_subsets": 5}}
    edit_config(cell, lambda settings: settings["metric"].update(measured))
    table, rng = read_per_query(cell), np.random.default_rng(0)
    labels = [("born in", "instrument", "capital of").index(name) for name in table["relation"]]
    predicted, measured = rng.normal(size=(40, 5)), rng.normal(size=(40, 5))
    scores = [rank_correlation(*pair) for pair in zip(predicted, measured, strict=True)]
    columns = {
        "cluster=relation": labels, "lds": scores, "lds_predicted": predicted.tolist(),
        "lds_measured": measured.tolist(),
    }  # fmt: skip
    edit_table(cell, lambda old: old.update(columns))
    sampling = Sampling(
        SAMPLES, 0, {"relation": np.array(labels)}, always=True,
        subsets={"lds": (predicted, measured)},
    )  # fmt: skip

    def change(record: dict[str, Any]) -> None:
        names = [*record["metrics"], "lds"]
        values = {**table, "lds": np.array(scores)}
        record["metrics"] = {n: asdict(sampling.estimate(n, values[n])) for n in names}
        for group in record["slices"]["relation"]:
            rows = table["relation"] == group
            of_group = {n: sampling.of(rows).estimate(n, values[n][rows]) for n in names}
            record["slices"]["relation"][group] = {n: asdict(one) for n, one in of_group.items()}

    edit_result(cell, change)
    return cell


def test_intervals_over_clusters_and_subsets_hold(clustered: Path) -> None:
    assert problems_of(clustered) == []
    record = json.loads((clustered / RESULT).read_text())["metrics"]
    assert record["mrr"]["over"] == "relation"
    assert record["lds"]["over"] == "relation and subsets"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_metric("mrr", "over", "queries"), "mrr interval: stored over queries, recomputed re"),
        (set_metric("mrr", "intervals", {}), "mrr interval: stored over relation"),
        (lambda r: r["metrics"]["mrr"]["intervals"]["queries"].update(ci95=[0.0, 1.0]),
         "mrr interval over queries, low: stored 0"),
        (lambda r: r["metrics"]["mrr"]["intervals"]["relation"].update(units=4),
         "mrr relation: stored 4, recomputed 3"),
        (set_metric("lds", "ci95", [0.0, 1.0]), "lds interval, low: stored 0"),
    ],
)  # fmt: skip
def test_a_changed_kind_of_interval(clustered: Path, change: Any, message: str) -> None:
    edit_result(clustered, change)
    assert any(message in line for line in problems_of(clustered))


def test_changed_clusters_and_subsets(clustered: Path) -> None:
    edit_table(clustered, lambda old: old["cluster=relation"].__setitem__(3, 2))
    assert any(
        "clusters by relation: per_query.parquet has others" in x for x in problems_of(clustered)
    )
    edit_table(clustered, lambda old: old["lds_predicted"][0].__setitem__(0, 99.0))
    assert any("lds of query q0: stored" in line for line in problems_of(clustered))
    for lists in ([[1.0]] * 40, [[1.0, 2.0]] * 39 + [[1.0]], [[1.0] * 1001] * 40):
        edit_table(clustered, lambda old, own=lists: old.update(lds_predicted=own))
        assert any("lds: lds_predicted: " in line for line in problems_of(clustered))
    edit_table(clustered, lambda old: old.update(lds_predicted=[["a"]] * 40))
    assert any("column 'lds_predicted': holds list<" in line for line in problems_of(clustered))


def test_another_cluster_in_the_settings(clustered: Path) -> None:
    config = (clustered / CONFIG).read_text()
    (clustered / CONFIG).write_text(config.replace("cluster: relation", "cluster: none"))
    assert any("clusters by relation" in line for line in problems_of(clustered))
    (clustered / CONFIG).write_text(config.replace("cluster: relation", "cluster: odd"))
    assert any("no valid metric settings" in line for line in problems_of(clustered))
