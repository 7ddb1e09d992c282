"""``task=none``: the file's own judgement, no corpus and no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.results.per_query import read_per_query
from bench.results.verify import verify
from tests.fixtures.cells import edit_retrievals, edit_table
from tests.fixtures.imports import K, World, imported, ranked

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def values(found: dict[str, Any]) -> dict[str, float]:
    return {name: estimate["value"] for name, estimate in found["metrics"].items()}


def test_the_same_numbers_as_with_the_task(world: World) -> None:
    with_task = imported(world, world.release(), "name=a")
    found = imported(world, world.release(world.judged_records()), task="none")
    (folder,) = [cell for cell in world.cells() if cell.parents[2].name == "none"]
    for name in ("mrr", "hit@1", "hit@10"):
        assert found["metrics"][name] == with_task["metrics"][name]
        for group, estimates in found["slices"]["relation"].items():
            assert estimates[name] == with_task["slices"]["relation"][group][name]
    assert set(found["metrics"]) == {"mrr", "hit@1", "hit@10"}  # recall needs the gold's number
    assert any("recall@10 not scored" in note for note in found["method"]["facts"]["notes"])
    assert found["task"]["n_passages"] is None
    assert ranked(folder) == [
        {**record, "proponent_correct": record["proponent_correct"]}
        for record in world.judged_records()
    ]
    assert np.isnan(read_per_query(folder)["n_gold"]).all()
    assert verify(world.results) == []


def test_entailment_above_a_half_is_correct(world: World) -> None:
    records = world.records()
    for record in records:
        record["proponent_ais_scores"] = [0.5, 0.51] + [0.0] * (K - 2)
        record["has_trex_sentence"] = False  # of another corpus: no matter
        record["c4_frequency_bucket"] = 3
    found = imported(world, world.release(records), task="none")
    assert values(found) == {"mrr": 0.5, "hit@1": 0, "hit@10": 1}
    assert found["slices"]["frequency_bucket"]["3"]["mrr"]["n"] == 6
    assert verify(world.results) == []


@pytest.mark.parametrize(("no_gold", "n"), [("skip", 4), ("zero", 6)])
def test_queries_without_gold(world: World, no_gold: str, n: int) -> None:
    records = world.judged_records()
    for record in records:
        record["proponent_correct"] = [True] + [False] * (K - 1)
    for record in records[:2]:
        record |= {"has_trex_sentence": False, "proponent_correct": [False] * K}
    path = world.release(records)
    found = imported(world, path, f"metric.no_gold={no_gold}", task="none")
    assert found["metrics"]["mrr"]["value"] == pytest.approx(4 / n)
    assert found["metrics"]["mrr"]["n"] == found["task"]["n_scored"] == n
    assert found["task"]["counts"]["queries_without_gold_sentence"] == 2
    assert verify(world.results) == []


def test_a_correct_proponent_shows_that_there_is_gold(world: World) -> None:
    records = [{**r, "has_trex_sentence": False} for r in world.judged_records()]
    records[0]["proponent_correct"] = [True] * K
    found = imported(world, world.release(records), task="none")
    assert found["method"]["counts"]["queries_correct_without_trex_sentence"] >= 1


def test_the_same_queries_are_one_board(world: World) -> None:
    one = imported(world, world.release(world.judged_records()), "name=a", task="none")
    other = world.judged_records()[::-1]
    for record in other:
        record["proponent_correct"] = record["proponent_correct"][::-1]
    two = imported(world, world.release(other), "name=b", task="none")
    assert one["task"]["sha256"] == two["task"]["sha256"]


def test_lists_are_put_in_the_order_of_their_scores_with_their_labels(world: World) -> None:
    records = world.judged_records()
    right = imported(world, world.release(records), "name=a", task="none")
    for record in records:
        turned = [4, 0, 1, 2, 3, *range(5, K)]
        for name, items in record.items():
            if isinstance(items, list):
                record[name] = [items[i] for i in turned]
        scores = np.array(record["proponent_scores"])
        record["proponent_scores"] = (scores - np.array(turned) / 100).tolist()  # no ties
    found = imported(world, world.release(records), "name=b", "top_k=10", task="none")
    assert values(found) == values(right)
    assert found["top_k"] == 10
    assert found["method"]["counts"]["lists_out_of_score_order"] == 6
    assert verify(world.results) == []


def test_what_is_told_of_single_passages_goes_with_them(world: World) -> None:
    """Fault: a list that was cut kept all entries of the columns that the import does not judge."""
    shares = [[[0, 1, 0.5]], None, [[0, 0, 0.75], [0, 2, 0.25]]]
    records = [
        {
            **record, "proponents": ["ab", "cd", "ef"], "proponent_ids": ["x", "y", "z"],
            "proponent_scores": [0.5, 0.25, 1.0], "proponent_correct": [True, False, False],
            "proponent_support": ["b", "c", "a"], "proponent_tail_patch": [0.2, None, 0.1],
            "proponent_spans": shares, "opponents": ["no"], "opponent_ids": ["o"],
            "opponent_scores": [-2.0], "opponent_spans": [[[0, 2, -2.0]]],
        }
        for record in world.records()
    ]  # fmt: skip
    words = ("top_k=2", "metric.attribution=[mrr]")
    imported(world, world.release(records), *words, task="none")
    (folder,) = world.cells()
    listed = ranked(folder)[0]
    assert listed["proponent_ids"] == ["z", "x"]
    assert listed["proponent_support"] == ["a", "b"]
    assert listed["proponent_tail_patch"] == [0.1, 0.2]
    assert listed["proponent_spans"] == [shares[2], shares[0]]
    assert listed["opponent_spans"] == [[[0, 2, -2.0]]]
    assert list(verify(world.results)) == []
    edit_retrievals(folder, lambda lines: lines[3]["opponent_spans"][0][0].__setitem__(2, -3.0))
    (line,) = map(str, verify(world.results))
    assert "opponent 1: the shares of its tokens sum to -3, its score is -2" in line


def test_shares_are_not_made_for_lists_from_elsewhere(world: World, capsys: Capture) -> None:
    line = world.refusal(capsys, world.release(), "spans=true")
    assert line == "error: spans: means nothing for a ranking made elsewhere; leave it out"


def test_what_cannot_be_judged_is_one_line(world: World, capsys: Capture) -> None:
    line = world.refusal(capsys, world.release(), task="none")
    assert "x.jsonl:1, field 'proponent_correct'" in line
    assert "set task=NAME" in line
    assert "carries no judgement" in world.refusal(capsys, world.trec(), task="none")
    only = "metric.attribution=[recall@10]"
    path = world.release(world.judged_records())
    assert "nothing to score" in world.refusal(capsys, path, only, task="none")
    records = world.judged_records()
    line = world.refusal(capsys, world.release([*records, records[0]]), task="none")
    assert "x.jsonl:7, field 'example_id': 'q0' is ranked at" in line
    records[0]["proponent_ids"][1] = records[0]["proponent_ids"][0]
    line = world.refusal(capsys, world.release(records), task="none")
    assert "x.jsonl:1, field 'proponent_ids[1]'" in line
    records = world.judged_records()
    for record in records:
        record["proponent_scores"] = [-score for score in record["proponent_scores"]]
    assert "negate them" in world.refusal(capsys, world.release(records), task="none")


def test_verify_lets_gold_be_unknown_only_without_a_corpus(world: World) -> None:
    imported(world, world.release())
    edit_table(world.cells()[0], lambda columns: columns.update(n_gold=[float("nan")] * 6))
    (line,) = map(str, verify(world.results))
    assert "n_gold: is unknown" in line
