"""What a cell says of itself, in its result, settings, folder and key, agrees and is complete."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.results.problems import verdict_lines
from bench.results.schema import RESULT
from bench.results.verify import verify
from bench.storage.keys import content_key
from tests.fixtures.cells import (
    SAMPLES,
    edit_config,
    edit_result,
    edit_retrievals,
    edit_table,
)
from tests.fixtures.estimates import estimate_mean


def problems_of(cell: Path) -> list[str]:
    """The problems of the results folder that ``cell`` is in, a line each."""
    return [str(problem) for problem in verify(cell.parents[3])]


# ------------------------------------------------------------------ what a cell says of itself


def test_another_method_in_the_result(cell: Path) -> None:
    edit_result(cell, lambda record: record["method"].update(name="bm25"))
    text = "\n".join(problems_of(cell))
    assert "result.json, method.name: stored 'bm25', its folder is called trackstar" in text
    assert "result.json, method.name: stored 'bm25', config.yaml has 'trackstar'" in text


@pytest.mark.parametrize("part", ["task", "model", "method"])
def test_another_name_in_the_settings(cell: Path, part: str) -> None:
    edit_config(cell, lambda settings: settings[part].update(name="other"))
    assert any(f"{part}.name: stored" in x and "has 'other'" in x for x in problems_of(cell))


def test_another_setting_of_the_method(cell: Path) -> None:
    edit_config(cell, lambda settings: settings["method"].update(k1=9))
    assert [line.partition(": ")[2] for line in problems_of(cell)] == [
        "result.json, method.k1: stored 1.5, config.yaml has 9"
    ]
    edit_result(cell, lambda record: record["method"]["config"].update(k1=9))
    (line,) = problems_of(cell)
    assert "method.key: stored" in line


@pytest.mark.parametrize("name", ["seed", "top_k"])
def test_another_number_in_the_settings(cell: Path, name: str) -> None:
    edit_config(cell, lambda settings: settings.update({name: 77}))
    (line,) = problems_of(cell)
    assert f"result.json, {name}: stored" in line
    assert "77" in line


def test_a_cell_in_another_folder(cell: Path) -> None:
    moved = cell.parents[1] / "bm25" / cell.name
    moved.parent.mkdir()
    cell.rename(moved)
    (line,) = [str(problem) for problem in verify(cell.parents[3])]
    assert "method.name: stored 'trackstar', its folder is called bm25" in line


def test_emptied_slices_and_metrics(cell: Path) -> None:
    edit_result(cell, lambda record: record.update(slices={}))
    (line,) = problems_of(cell)
    assert "slices, relation: result.json lacks it: per_query.parquet has 3 groups" in line
    edit_result(cell, lambda record: record.update(metrics={}))
    assert any(
        "metrics: result.json lacks mrr, hit@1, hit@10 and 3 more" in x for x in problems_of(cell)
    )


def test_a_group_and_a_metric_of_a_group_left_out(cell: Path) -> None:
    edit_result(cell, lambda record: record["slices"]["relation"].pop("born in"))
    edit_result(cell, lambda record: record["slices"]["relation"]["capital of"].pop("hit@1"))
    text = "\n".join(problems_of(cell))
    assert "slices, relation: result.json lacks born in" in text
    assert "slices, relation=capital of: result.json lacks hit@1" in text


def test_a_group_and_a_slice_of_nobody(cell: Path) -> None:
    def add(record: dict[str, Any]) -> None:
        relation = record["slices"]["relation"]
        record["slices"]["colour"] = {"red": relation["born in"]}
        relation["plays"] = relation["born in"]

    edit_result(cell, add)
    text = "\n".join(problems_of(cell))
    assert "slices, colour: per_query.parquet has no column colour" in text
    assert "slices, relation=plays: per_query.parquet has no such group" in text


def test_a_changed_share_of_support(cell: Path) -> None:
    shares = np.linspace(0, 1, 40)
    edit_table(cell, lambda columns: columns.update({"top10_support=states": shares}))
    assert any("slices, top10_support: result.json lacks states" in x for x in problems_of(cell))
    share = {"states": {"share": asdict(estimate_mean(shares, SAMPLES, seed=0))}}
    edit_result(cell, lambda record: record["slices"].update(top10_support=share))
    assert problems_of(cell) == []
    share["states"]["share"]["value"] = 0.9
    edit_result(cell, lambda record: record["slices"].update(top10_support=share))
    assert any(
        "share of top10_support=states: stored 0.9, recomputed 0.5" in x for x in problems_of(cell)
    )


def test_a_changed_tail_patch_of_a_proponent(cell: Path) -> None:
    edit_retrievals(cell, lambda r: r[1]["proponent_tail_patch"].__setitem__(0, 0.9))
    (line,) = problems_of(cell)
    assert "tail_patch of query q1: stored" in line
    edit_retrievals(cell, lambda r: r[1].pop("proponent_tail_patch"))
    (line,) = problems_of(cell)
    assert "tail_patch of query q1: stored" in line
    assert "recomputed nan" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda metric: metric["attribution"].remove("hit@1"), "hit@1: per_query.parquet has it"),
        (
            lambda metric: metric["tail_patch"].update(enabled=False),
            "tail_patch: per_query.parquet",
        ),
        (lambda metric: metric["tail_patch"].update(top=3), "tail_patch of query q1"),
        (lambda metric: metric.update(attribution=["map"]), "has none of the metrics"),
        (lambda metric: metric.pop("judge"), "judge is missing"),
        (lambda metric: metric.update(bootstrap_samples=10**9), "expected 1 to 10000"),
        (lambda metric: metric.update(bootstrap_samples=True), "expected 1 to 10000"),
        (lambda metric: metric["tail_patch"].update(top=-1), "expected at least 1, found -1"),
    ],
)
def test_other_settings_of_the_metrics(cell: Path, change: Any, message: str) -> None:
    edit_config(cell, lambda settings: change(settings["metric"]))
    assert any(message in line for line in problems_of(cell))


# ------------------------------------------------------------------ what the key is made of


@pytest.fixture
def keyed(cell: Path) -> Path:
    """The cell in a folder that is called by its key, as a run names it."""
    result = json.loads((cell / RESULT).read_text())
    identity = {
        "version": 2,
        "ranking": {"name": "trackstar", "settings": {"k1": 1.5}, "top_k": 20},
        "metric": {"cluster": "none", "bootstrap_samples": SAMPLES, "tail_patch": {"top": 10}},
        "task": [result["task"][name] for name in ("name", "version", "sha256")],
        "model": "m",
        "seed": 0,
    }
    parts = dict(identity)
    edit_result(cell, lambda record: record.update(identity=identity))
    return cell.rename(cell.with_name(content_key([parts.pop("version"), parts])))


def test_a_key_holds(cell: Path, keyed: Path) -> None:
    assert problems_of(keyed) == []
    assert not any("keys:" in line for line in verdict_lines(verify(keyed.parents[3])))
    keyed.rename(cell)
    (line,) = problems_of(cell)
    assert "key: the folder is not called by" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda identity: identity["ranking"]["settings"].update(k1=9),
            "key, method.k1: made",
        ),
        (lambda identity: identity["ranking"].update(name="bm25"), "key, method: made of 'bm25'"),
        (lambda identity: identity["metric"].update(cluster="auto"), "key, metric.cluster"),
        (lambda identity: identity["metric"]["tail_patch"].update(top=3), "metric.tail_patch.top"),
        (lambda identity: identity.update(seed=9), "key, seed: made of 9, the cell has 0"),
        (lambda identity: identity.update(task=["x", 1, "y"]), "key, task: made of ['x', 1, 'y']"),
    ],
)
def test_a_key_of_another_cell(keyed: Path, change: Any, message: str) -> None:
    """A folder whose name follows from what its result says, which is not what the cell is."""
    edit_result(keyed, lambda record: change(record["identity"]))
    parts = dict(json.loads((keyed / RESULT).read_text())["identity"])
    moved = keyed.rename(keyed.with_name(content_key([parts.pop("version"), parts])))
    (line,) = problems_of(moved)
    assert message in line
