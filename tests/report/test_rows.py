"""The rows of a leaderboard: their order, what they are called, and which may be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metrics.stats.correlation import rank_correlation
from tests.fixtures.cells import (
    edit_result,
    edit_step,
    edit_table,
    write_cell,
)
from tests.fixtures.reports import boards_of, labels, three_cells


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return three_cells(tmp_path)


def test_rows_come_by_mrr_then_name(tmp_path: Path) -> None:
    for method, strength in (("grad_dot", 0.05), ("dense", 0.6), ("bm25", 2.0)):
        write_cell(tmp_path, method, strength=strength)
    for method in ("trackstar", "grad_cos"):  # a tie: both find nothing
        write_cell(tmp_path, method, strength=0)
    assert labels(boards_of(tmp_path)[0]) == ["bm25", "dense", "grad_dot", "grad_cos", "trackstar"]


def test_settings_are_named_only_where_cells_differ(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25", config={"b": 0.4, "nested": {"x": 1}})
    write_cell(tmp_path, "bm25", config={"b": 0.75, "nested": {"x": 1}})
    write_cell(tmp_path, "dense", config={"b": 1})
    assert sorted(labels(boards_of(tmp_path)[0])) == ["bm25 (b=0.4)", "bm25 (b=0.75)", "dense"]


def test_how_it_was_measured_tells_cells_apart(tmp_path: Path) -> None:
    for number, top in enumerate((1, 10)):
        folder = write_cell(tmp_path, "bm25")
        edit_step(folder, top=top)
        folder.rename(folder.with_name(f"{number}" * 16))
    write_cell(tmp_path, "dense")
    expected = ["bm25 (metric.tail_patch.top=1)", "bm25 (metric.tail_patch.top=10)", "dense"]
    assert sorted(labels(boards_of(tmp_path)[0])) == expected
    (folder.with_name("1" * 16) / "config.yaml").write_text("{")  # verify tells of it
    assert len(set(labels(boards_of(tmp_path)[0]))) == 3


def test_seeds_are_rows_of_their_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = write_cell(tmp_path, "bm25", seed=seed)
        # Another seed trains another model; saying so twice would be noise.
        edit_result(folder, lambda r, s=seed: r["model"].update(sha256=f"{s}" * 64))
    assert sorted(labels(boards_of(tmp_path)[0])) == ["bm25 (seed=0)", "bm25 (seed=1)"]


def measured(folder: Path, **tail_patch: object) -> None:
    edit_step(folder, enabled=True, **tail_patch)


def test_values_measured_in_another_way_are_told_apart_and_not_compared(tmp_path: Path) -> None:
    """Fault: one step on one passage was bold beside means over ten, with letters."""
    for method in ("bm25", "dense", "trackstar"):
        patch = {"bm25": 0.5, "dense": 0.01, "trackstar": 0.1}[method]
        measured(write_cell(tmp_path, method, tail_patch=patch), top=1 if method == "bm25" else 10)
    (board,) = boards_of(tmp_path)
    of = {row.method: row for row in board.rows}
    assert of["bm25"].label == "bm25 (metric.tail_patch.top=1)"
    assert of["dense"].label == "dense (metric.tail_patch.top=10)"
    assert "tail_patch" not in of["bm25"].best | of["bm25"].letters.keys()
    assert "tail_patch" in of["trackstar"].best
    assert {(p.a, p.b) for p in board.pairs if p.metric == "tail_patch"} == {
        (of["trackstar"].label, of["dense"].label)
    }
    assert "mrr" in of["bm25"].letters


def test_steps_on_other_models_are_not_compared(tmp_path: Path) -> None:
    for method, sha in (("bm25", "a"), ("dense", "b"), ("trackstar", "b")):
        folder = write_cell(tmp_path, method, tail_patch=0.5 if method == "bm25" else 0.1)
        measured(folder, top=10)
        edit_result(folder, lambda record, sha=sha: record["model"].update(sha256=sha * 64))
    of = {row.method: row for row in boards_of(tmp_path)[0].rows}
    assert of["bm25"].label == "bm25 (model=aaaaaaaa)"
    assert "tail_patch" not in of["bm25"].letters
    assert "mrr" in of["bm25"].letters


def test_steps_that_were_made_otherwise_are_not_compared(tmp_path: Path) -> None:
    """Fault: all were asked for the saved moments, and one had Adam's where others had Adafactor's.

    A rate that was left to the training is the rate that the training had.
    """
    steps = {
        "bm25": {"optimizer": "adam", "second_moments": "aa", "learning_rate": 0.1, "clip": 1.0},
        "dense": {"optimizer": "adafactor", "second_moments": "bb", "learning_rate": 0.1,
                  "clip": 1.0},
        "trackstar": {"optimizer": "adafactor", "second_moments": "bb", "learning_rate": 0.1,
                      "clip": 1.0},
    }  # fmt: skip
    for method, step in steps.items():
        folder = write_cell(tmp_path, method, tail_patch=0.5 if method == "bm25" else 0.1)
        rate = "null" if method == "dense" else 0.1
        measured(folder, top=10, optimizer="saved", learning_rate=rate)
        facts = {"tail_patch_step": step}
        edit_result(folder, lambda record, f=facts: record["method"].update(facts=f))
    of = {row.method: row for row in boards_of(tmp_path)[0].rows}
    assert "optimizer=adam," in of["bm25"].label
    assert "optimizer=adafactor" in of["dense"].label
    assert "learning_rate" not in of["dense"].label
    assert "tail_patch" not in of["bm25"].letters
    assert of["dense"].letters["tail_patch"]
    assert of["trackstar"].letters["tail_patch"]


def test_controls_are_tested_where_they_are_no_bounds(tmp_path: Path) -> None:
    """Of MRR, gold is a bound; that a method foresees more than chance is to be shown."""
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(40, 12))
    for method, noise in (("bm25", 0.3), ("random", 9.0), ("gold", 0.1)):
        folder = write_cell(tmp_path, method)
        predicted = measured + noise * rng.normal(size=measured.shape)
        scores = [rank_correlation(*pair) for pair in zip(predicted, measured, strict=True)]
        lists = {"lds_predicted": predicted.tolist(), "lds_measured": measured.tolist()}
        edit_table(folder, lambda old, s=scores, own=lists: old.update({"lds": s, **own}))
        shown = {"value": float(np.mean(scores)), "ci95": [0.0, 1.0], "n": 40}
        edit_result(folder, lambda record, v=shown: record["metrics"].update(lds=v))
    (board,) = boards_of(tmp_path)
    of = {row.method: row for row in board.rows}
    assert len({row.letters["lds"] for row in of.values()}) == 3
    pairs = [pair for pair in board.pairs if pair.metric == "lds"]
    assert {pair.difference.over for pair in pairs} == {"queries and subsets"}
    assert len(pairs) == 3
    assert not any("mrr" in row.letters for row in of.values()), "one method alone is left"
    assert "lds" in of["bm25"].best, "a control is never the best"
    assert "lds" not in of["gold"].best


def test_judges_with_other_thresholds_are_boards_of_their_own(tmp_path: Path) -> None:
    for method, threshold in (("bm25", 0.5), ("dense", 0.9)):
        named = {"name": "nli", "identity": "ab" * 32, "threshold": threshold}
        folder = write_cell(tmp_path, method)
        edit_result(folder, lambda record, named=named: record["task"].update(judge=named))
    tasks = [board.task for board in boards_of(tmp_path)]
    assert tasks == [
        "factworld judged by nli abababab",
        "factworld judged by nli abababab above 0.9",
    ]


def test_opponents_are_best_where_they_are_lowest(tmp_path: Path) -> None:
    """Fault: bold stood where they speak most for the target."""
    for method, value in (("bm25", -0.2), ("dense", 0.1)):
        folder = write_cell(tmp_path, method)
        shown = {"value": value, "ci95": [value, value], "n": 40}
        edit_result(folder, lambda record, v=shown: record["metrics"].update(opponent_tail_patch=v))
    best = {row.method for row in boards_of(tmp_path)[0].rows if "opponent_tail_patch" in row.best}
    assert best == {"bm25"}


@pytest.mark.parametrize(
    ("other", "expected"), [("ef" * 32, {"bm25 (b=1, model=cdcdcdcd)"}), (None, {"bm25 (b=1)"})]
)
def test_models_are_told_apart_where_both_are_known(
    tmp_path: Path, other: str | None, expected: set[str]
) -> None:
    write_cell(tmp_path, "bm25", config={"b": 1})
    folder = write_cell(tmp_path, "bm25", config={"b": 2})
    edit_result(folder, lambda record: record["model"].update(sha256=other))
    assert expected < set(labels(boards_of(tmp_path)[0]))


def test_rows_that_rest_on_estimated_moments_say_so(tmp_path: Path) -> None:
    """Those that divide by V, or step with it; the others of the same model do not."""

    def edited(folder: Path, moments: str, optimizer: str) -> None:
        record = json.loads((folder / "result.json").read_text())
        record["model"]["training"] = {"second_moments": moments}
        (folder / "result.json").write_text(json.dumps(record))
        edit_step(folder, optimizer=optimizer)

    corrected, plain = {"optimizer_correction": True}, {"optimizer_correction": False}
    edited(write_cell(tmp_path, "a", config=corrected), "estimated", "sgd")
    edited(write_cell(tmp_path, "b", config=plain), "estimated", "sgd")
    edited(write_cell(tmp_path, "c", config=plain, tail_patch=0.1), "estimated", "saved")
    edited(write_cell(tmp_path, "d", config=plain, tail_patch=0.1), "estimated", "sgd")
    edited(write_cell(tmp_path, "e", config={"first": corrected}), "estimated", "sgd")
    edited(write_cell(tmp_path, "f", config=corrected, tail_patch=0.1), "saved", "saved")
    (board,) = boards_of(tmp_path)
    marked = {row.method for row in board.rows if "moments estimated" in row.label}
    assert marked == {"a", "c", "e"}


def test_rows_of_a_part_of_the_matrices_say_how_much(tmp_path: Path) -> None:
    def edited(name: str, facts: Any) -> None:
        folder = write_cell(tmp_path, name)
        edit_result(folder, lambda record: record["method"].update(facts=facts))

    edited("whole", {"gradient_parameters": {"share": 1.0}})
    edited("part", {"gradient_parameters": {"share": 0.1234}})
    edited("hybrid", {"first.gradient_parameters": {"share": 0.5}, "second.mixing": 0.9})
    edited("foreign", {"gradient_parameters": {"share": "half"}, "x.gradient_parameters": 7})
    assert set(labels(boards_of(tmp_path)[0])) == {
        "whole", "part (12.3% of the matrices)", "hybrid (50% of the matrices)", "foreign",
    }  # fmt: skip


def test_cells_that_no_setting_tells_apart_show_their_key(tmp_path: Path) -> None:
    first = write_cell(tmp_path, "bm25")
    first.rename(first.with_name("1111111122222222"))
    write_cell(tmp_path, "bm25")
    assert "bm25 [11111111]" in labels(boards_of(tmp_path)[0])
    assert len(set(labels(boards_of(tmp_path)[0]))) == 2


def test_tasks_of_one_name_but_different_content_are_not_compared(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25")
    write_cell(tmp_path, "dense", task_sha256="ef" * 32)
    boards = boards_of(tmp_path)
    assert [board.task for board in boards] == ["factworld @abababab", "factworld @efefefef"]
    assert [len(board.rows) for board in boards] == [1, 1]


def test_a_task_without_annotation_is_sorted_by_what_it_has(tmp_path: Path) -> None:
    for method, patch in (("bm25", 0.001), ("dense", 0.05)):
        folder = write_cell(tmp_path, method, tail_patch=patch)
        edit_result(
            folder,
            lambda r: r.update(
                metrics={k: v for k, v in r["metrics"].items() if k.startswith("tail_patch")}
            ),
        )
    assert labels(boards_of(tmp_path)[0]) == ["dense", "bm25"]
