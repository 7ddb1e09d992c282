"""Rebuilding a sample of facts from the queries of a retrievals file."""

from __future__ import annotations

import gzip
import json

import pytest

from bench.tasks.trex import TRex
from tests.fixtures.fact_files import TRexFiles, fact, sentence, write


def query(i, prompt=0, **more):
    """A line of a retrievals file that asks fact ``i``; white space as some files have it."""
    texts = {"inputs_plaintext": f"E{i} {prompt} ", "targets_plaintext": f" T{i}"}
    return {"example_id": f"x{i}", "query_set": "trex", **texts, "proponents": ["p"] * 3, **more}


@pytest.fixture
def world(tmp_path):
    facts = [fact(i, "a" if i < 6 else "b", c4_frequency=i) for i in range(10)]
    return TRexFiles(tmp_path, facts, [sentence(i) for i in range(3)])


def asked(world, queries, **changes):
    path = world.folder / "retrievals.jsonl"
    write(path, queries)
    return world.task(queries_from=str(path), **changes)


def pairs(task):
    return {query.query_id: query.prompt for query in task.queries}


def counts(task):
    return {
        key: n for key, n in task.counts.items()
        if "queries_from" in key or key.startswith("facts_")
    }  # fmt: skip


def test_each_query_is_asked_in_the_words_of_the_file(world):
    task = asked(world, [query(7, 2), query(1, 0), query(4, 0), query(50)])
    assert pairs(task) == {"f1": "E1 0", "f4": "E4 0", "f7": "E7 2"}, "in the order of the facts"
    assert counts(task) == {
        "queries_from_read": 4,
        "queries_from_of_a_fact_asked_before": 0,
        "queries_from_without_fact": 1,
        "queries_from_ambiguous": 0,
        "queries_from_joined_on_prompt0": 2,
        "queries_from_joined_on_prompt2": 1,
        "facts_read": 10,
        "facts_not_in_queries_from": 7,
        "facts_left_out_as_repetition": 0,
        "facts_left_out_by_sampling": 0,
    }


def test_both_prompt_and_target_must_be_the_facts(world, capsys):
    wrong = {**query(2), "targets_plaintext": "T3"}
    assert pairs(asked(world, [query(1), wrong])) == {"f1": "E1 0"}
    err = capsys.readouterr().err
    assert "1 of 2 queries are no fact, and are not asked: " in err
    assert "retrievals.jsonl:2\n" in err


def test_the_fact_id_of_the_file_decides_between_equal_facts(tmp_path, capsys):
    facts = [fact(0), {**fact(0), "fact_id": "twin"}, fact(1)]
    world = TRexFiles(tmp_path, facts, [sentence(0)])
    task = asked(world, [query(0, fact_id="twin"), query(1, fact_id="of another release")])
    assert list(pairs(task)) == ["twin", "f1"]
    assert "no fact" not in capsys.readouterr().err
    task = asked(world, [query(0), query(1)])
    assert list(pairs(task)) == ["f1"]
    assert task.counts["queries_from_ambiguous"] == 1
    assert "1 of 2 queries are several facts, and name none, and are not asked: " in (
        err := capsys.readouterr().err
    )
    assert "retrievals.jsonl:1 (f0, twin)" in err


def test_a_fact_that_is_asked_twice_is_counted(world):
    task = asked(world, [query(1), query(1, 2, example_id="again"), query(2)])
    assert pairs(task)["f1"].endswith(" 0"), "the first prompt counts"
    assert list(pairs(task)) == ["f1", "f2"]
    assert task.counts["queries_from_of_a_fact_asked_before"] == 1


def test_queries_of_several_files_count_once(world):
    for name in "ab":
        packed = gzip.compress("".join(json.dumps(query(i)) + "\n" for i in (1, 2)).encode())
        (world.folder / f"r_{name}.jsonl").write_bytes(packed)
    task = world.task(queries_from=str(world.folder / "r_*.jsonl"))
    assert list(pairs(task)) == ["f1", "f2"]
    assert task.counts["queries_from_read"] == 2


def test_what_is_listed_can_be_sampled_and_left_out(tmp_path):
    facts = [fact(i, "ab"[i % 2], is_repetition=i < 4) for i in range(20)]
    world = TRexFiles(tmp_path, facts, [sentence(0)])
    task = asked(world, [query(i) for i in range(10)], n_queries=4, repetitions="exclude")
    assert len(task.queries) == 4
    assert {query.relation for query in task.queries} == {"a", "b"}
    assert {int(name[1:]) for name in pairs(task)} <= set(range(4, 10))
    assert counts(task) == {
        "queries_from_read": 10,
        "queries_from_of_a_fact_asked_before": 0,
        "queries_from_without_fact": 0,
        "queries_from_ambiguous": 0,
        "queries_from_joined_on_prompt0": 10,
        "facts_read": 20,
        "facts_not_in_queries_from": 10,
        "facts_left_out_as_repetition": 4,
        "facts_left_out_by_sampling": 2,
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [query(77), query(78)],
            "retrievals.jsonl: none of its 2 queries is, by prompt and target",
        ),
        ([], "task.queries_from: holds no query"),
        ([{**query(1), "inputs_plaintext": 3}], "retrievals.jsonl:1, field 'inputs_plaintext': "),
        ([query(1, fact_id=[1])], "retrievals.jsonl:1, field 'fact_id': "),
    ],
)
def test_refusals(world, rows, message):
    write(world.folder / "retrievals.jsonl", rows)
    assert message in world.refusal(queries_from=str(world.folder / "retrievals.jsonl"))


def test_no_file(world):
    message = world.refusal(queries_from="none*.jsonl")
    assert "no such file; set task.queries_from to" in message


def test_the_file_is_part_of_the_task(world):
    without = TRex(world.config()).fingerprint()
    assert without["queries_from"] is None
    write(world.folder / "retrievals.jsonl", [query(1)])
    config = world.config(queries_from=str(world.folder / "retrievals.jsonl"))
    found = TRex(config).fingerprint()
    assert found != without
    assert str(world.folder) not in json.dumps(found)
