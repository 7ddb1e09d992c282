"""Release and TREC files: how they are joined with a task, and every way they can be wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.results.verify import verify
from tests.fixtures.imports import K, World, imported, ranked

Capture = pytest.CaptureFixture[str]
Records = list[dict[str, Any]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def counts(found: dict[str, Any]) -> dict[str, int]:
    return found["method"]["counts"]


# ------------------------------------------------------------------ joining


def test_by_prompt_and_text_where_no_id_is_the_tasks(world: World) -> None:
    right = imported(world, world.release(), "name=ids")
    records = world.records()
    for i, record in enumerate(records):
        record["example_id"] = f"other{i}"
        record["fact_id"] = 1000 + i
        record["inputs_plaintext"] += " "
        record["proponent_ids"] = [f"x{j}" for j in range(K)]
    found = imported(world, world.release(records), "name=texts")
    assert found["metrics"] == right["metrics"]
    assert counts(found)["queries_joined_by_text"] == 6
    assert counts(found)["passages_joined_by_text"] == 6 * K
    assert ranked(world.cells()[0]) == ranked(world.cells()[1])  # with the task's own ids


def test_ids_of_another_corpus_are_not_taken_for_the_tasks(world: World, capsys: Capture) -> None:
    right = imported(world, world.release(), "name=ids")
    records = world.records()
    for record in records:  # ids that the task has, but of other passages
        record["proponent_ids"] = [f"p{j}" for j in range(K)]
    found = imported(world, world.release(records), "name=texts")
    assert found["metrics"] == right["metrics"]
    records[1]["proponents"][3] = "Another text."
    line = world.refusal(capsys, world.release(records))
    assert "x.jsonl:2, field 'proponent_ids[3]': passage 'p3' has another text in the task" in line


def test_identical_passages_are_each_taken_once(world: World) -> None:
    world.texts[7] = world.texts[6]
    passages = [{"passage_id": f"p{i}", "text": text} for i, text in enumerate(world.texts)]
    world.write("passages.jsonl", passages)
    record = {**world.records()[0], "proponents": [world.texts[6]] * 2 + [world.texts[9]]}
    record |= {"proponent_ids": ["x", "y", "z"], "proponent_scores": [2, 2, 1]}
    metric = "metric.attribution=[mrr]"
    imported(world, world.release([record]), "missing=skip", metric)
    assert ranked(world.cells()[0])[0]["proponent_ids"] == ["p6", "p7", "p9"]


def test_another_prompt_is_said_and_another_target_refused(world: World, capsys: Capture) -> None:
    records = world.records()
    records[2]["inputs_plaintext"] = "In other words, 2 plays the"
    found = imported(world, world.release(records))
    assert counts(found)["queries_with_another_prompt"] == 1
    assert "queries with another prompt in the task: 1" in found["method"]["facts"]["notes"]
    records[2]["targets_plaintext"] = "kazoo"
    line = world.refusal(capsys, world.release(records))
    assert "x.jsonl:3" in line
    assert "another target, 'horn 2'" in line


def test_labels_that_disagree_are_counted_and_the_task_counts(world: World) -> None:
    right = imported(world, world.release(), "name=plain")
    records = world.judged_records()
    assert counts(imported(world, world.release(records)))["labels_unlike_the_task"] == 0
    for record in records:
        record["proponent_correct"] = [True] * K
    found = imported(world, world.release(records))
    assert found["metrics"] == right["metrics"]
    assert counts(found)["labels_unlike_the_task"] > 0


def test_opponents_come_along(world: World) -> None:
    records = world.records()
    for record in records:
        record |= {"opponents": [world.texts[3], world.texts[1], world.texts[2]]}
        record |= {"opponent_ids": ["p3", "p1", "p2"], "opponent_scores": [-3, -2, -2]}
    imported(world, world.release(records))
    assert ranked(world.cells()[0])[0]["opponent_ids"] == ["p3", "p1", "p2"]


# ------------------------------------------------------------------ what only one side has


def test_a_query_that_the_task_does_not_have(world: World, capsys: Capture) -> None:
    records = world.records()
    extra = {**records[0], "example_id": "q99", "inputs_plaintext": "Nobody plays the"}
    path = world.release([*records, extra])
    line = world.refusal(capsys, path)
    assert "x.jsonl:7, field 'example_id': no query of the task has the id 'q99'" in line
    assert "missing=skip" in line
    assert "q99" in world.refusal(capsys, path, "missing=empty")
    found = imported(world, path, "missing=skip")
    assert counts(found)["file_queries_not_in_task"] == 1
    assert found["task"]["n_queries"] == 6


def test_a_query_that_the_file_does_not_rank(world: World, capsys: Capture) -> None:
    path = world.release(world.records()[1:])
    line = world.refusal(capsys, path)
    assert "does not rank 1 of the task's 6 queries, such as 'q0'" in line
    assert "missing=skip" in line
    skipped = imported(world, path, "missing=skip")
    assert skipped["task"]["n_queries"] == skipped["metrics"]["mrr"]["n"] == 5
    assert counts(skipped)["task_queries_not_in_file"] == 1
    empty = imported(world, path, "missing=empty")
    assert empty["task"]["n_queries"] == empty["metrics"]["mrr"]["n"] == 6
    ratio = empty["metrics"]["mrr"]["value"] / skipped["metrics"]["mrr"]["value"]
    assert ratio == pytest.approx(5 / 6)
    assert empty["metrics"]["length_ratio"]["n"] == 5


def test_a_passage_that_the_task_does_not_have(world: World, capsys: Capture) -> None:
    records = world.records()
    records[4]["proponent_ids"][0], records[4]["proponents"][0] = "p99", "Unheard of."
    path = world.release(records)
    line = world.refusal(capsys, path)
    assert "x.jsonl:5, field 'proponent_ids[0]': no passage of the task has the id 'p99'" in line
    found = imported(world, path, "missing=skip")
    assert counts(found)["passages_not_in_task"] == 1
    assert any("lists close up" in note for note in found["method"]["facts"]["notes"])
    assert len(ranked(world.cells()[0])[4]["proponents"]) == K - 1
    assert found["top_k"] == K


def test_a_file_of_another_task_is_refused_even_with_skip(world: World, capsys: Capture) -> None:
    lines = [line.replace("q", "z", 1) for line in world.trec_lines()]
    line = world.refusal(capsys, world.trec(lines), "missing=skip")
    assert "nor any other of the file is in the task" in line
    lines = [line.replace(" p", " z") for line in world.trec_lines()]
    line = world.refusal(capsys, world.trec(lines), "missing=skip")
    assert "no passage of the file is in the task" in line


# ------------------------------------------------------------------ order


def test_ranks_that_disagree_are_said_and_scores_count(world: World, capsys: Capture) -> None:
    right = imported(world, world.trec(), "name=right")
    lines = [line.split() for line in world.trec_lines()]
    for i, words in enumerate(lines):
        words[3] = str((i * 7) % 11)
    found = imported(world, world.trec([" ".join(words) for words in lines[::-1]]), "name=odd")
    assert "ranks disagree with their scores" in capsys.readouterr().err
    assert counts(found)["lists_out_of_score_order"] == 6
    assert found["metrics"] == right["metrics"]
    assert ranked(world.cells()[0]) == ranked(world.cells()[1])


def test_ties_in_another_order_are_said(world: World) -> None:
    records = [{**record, "proponent_scores": [0] * K} for record in world.records()]
    found = imported(world, world.release(records))
    assert counts(found)["lists_with_ties_reordered"] == 6
    assert ranked(world.cells()[0])[0]["proponent_ids"] == [f"p{r}" for r in sorted(world.rows[0])]


def test_distances_are_refused(world: World, capsys: Capture) -> None:
    records = world.records()
    for record in records:
        record["proponent_scores"] = [-score for score in record["proponent_scores"]]
    assert "negate them" in world.refusal(capsys, world.release(records))


# ------------------------------------------------------------------ malformed


def set_field(i: int, name: str, value: Any) -> Callable[[Records], None]:
    return lambda records: records[i].__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (set_field(1, "proponent_scores", [float("nan")] * K), [":2", "'proponent_scores'"]),
        (set_field(1, "proponent_ids", ["p1"]), [":2", "'proponent_ids'", "has 1 items"]),
        (set_field(0, "targets_plaintext", " "), [":1", "'targets_plaintext'"]),
        (set_field(3, "proponents", None), [":4", "'proponents'", "missing"]),
        (set_field(3, "example_id", {"a": 1}), [":4", "'example_id'"]),
        (lambda r: r.append(r[0]), [":7", "'example_id'", "ranked at", ":1 already"]),
        (
            lambda r: (
                r[2]["proponent_ids"].__setitem__(5, r[2]["proponent_ids"][4]),
                r[2]["proponents"].__setitem__(5, r[2]["proponents"][4]),
            ),
            [":3", "'proponent_ids[5]'", "is listed twice"],
        ),
    ],
)
def test_a_faulty_release_file_is_one_line(
    world: World, capsys: Capture, change: Callable[[Records], object], parts: list[str]
) -> None:
    records = world.records()
    change(records)
    line = world.refusal(capsys, world.release(records))
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("index", "line", "parts"),
    [
        (3, "q0 Q0 p1 1 1.0", [":4", "5 fields where a TREC run has 6"]),
        (3, "q0 Q0 p1 one 1.0 mine", [":4", "'rank'", "'one'"]),
        (3, "q0 Q0 p1 1 nan mine", [":4", "'score'", "'nan'"]),
        (3, "q0 Q0 p1 1 1e999 mine", [":4", "'score'"]),
        (3, "q0 Q0 p1 1 1.0 yours", [":4", "'tag'", "two runs"]),
        (3, "q0 Q0 p99 1 1.0 mine", [":4", "'docid'", "has the id 'p99'"]),
        (3, "q9 Q0 p1 1 1.0 mine", [":4", "'qid'", "has the id 'q9'"]),
        (13, "", ["'docid'", "is listed twice"]),
    ],
)
def test_a_faulty_trec_file_is_one_line(
    world: World, capsys: Capture, index: int, line: str, parts: list[str]
) -> None:
    lines = world.trec_lines()
    lines[index] = line or lines[index - 1]
    found = world.refusal(capsys, world.trec(lines))
    assert all(part in found for part in parts), found


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is empty"),
        (b"a b c\n", "neither a JSON object nor the 6 fields"),
        (b'{"a": \n', "broken JSON"),
        (b"\x80\x81 Q0 a 1 1 t\n", "not UTF-8"),
        (b"\x1f\x8b\x08nonsense", "damaged gzip"),
    ],
)
def test_what_is_no_ranking_is_one_line(
    world: World, capsys: Capture, content: bytes, part: str
) -> None:
    path = world.folder / "x"
    path.write_bytes(content)
    line = world.refusal(capsys, path)
    assert part in line
    assert str(path) in line


def test_the_format_can_be_named(world: World, capsys: Capture) -> None:
    assert "broken JSON" in world.refusal(capsys, world.trec(), "format=release")
    assert "fields where a TREC run" in world.refusal(capsys, world.release(), "format=trec")
    assert "give the folder" in world.refusal(capsys, world.release(), "format=bergson")
    assert "without scores.bin" in world.refusal(capsys, world.folder)
    imported(world, world.trec(), "format=trec")


def test_names_cannot_steer_the_terminal_or_the_config(world: World, capsys: Capture) -> None:
    records = world.records()
    records[0] |= {"example_id": "\x1b[2J", "inputs_plaintext": "x"}
    assert "\x1b" not in world.refusal(capsys, world.release(records))
    imported(world, world.release(name="a\nmetric: x.jsonl"))
    text = (world.cells()[0] / "config.yaml").read_text()
    assert text.splitlines()[2] == "seed: 0"
    odd = os.fsdecode(b"odd\xff.jsonl")
    assert imported(world, world.release(name=odd))["method"]["name"] == "odd\ufffd"
    assert len(verify(world.results)) == 0
