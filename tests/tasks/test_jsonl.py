"""A task of one's own files: with gold, without gold, and with faults."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import pytest
from omegaconf import OmegaConf

from bench.core.errors import UserError
from bench.tasks.base import Answers, load_task
from bench.tasks.jsonl import JsonLines, JsonLinesConfig
from tests.fixtures.composing import task_settings

PASSAGES = [{"passage_id": f"p{i}", "text": f"text {i}"} for i in range(6)]


def query(i, **more):
    return {"query_id": f"q{i}", "prompt": f"P{i}", "target": f"T{i}", **more}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def make(tmp_path):
    def make(asked, candidates=PASSAGES, **changes):
        write(tmp_path / "queries.jsonl", asked)
        write(tmp_path / "passages.jsonl", candidates)
        shipped = task_settings("jsonl")
        files = {kind: f"{tmp_path}/{kind}.jsonl" for kind in ("queries", "passages")}
        merged = OmegaConf.merge(
            OmegaConf.structured(JsonLinesConfig), shipped, {"seed": 0}, files, changes
        )
        config = OmegaConf.to_object(merged)
        assert set(shipped) == set(asdict(config))
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        return load_task("jsonl", JsonLines(config), tmp_path / "cache")

    return make


def refusal(make, *args, **changes):
    with pytest.raises(UserError) as caught:
        make(*args, **changes)
    return str(caught.value)


def test_sentences_of_the_release_are_passages(make):
    sentences = [{"sentence_id": f"p{i}", "text": f"text {i}"} for i in range(6)]
    asked = [query(0, gold=["p4"])]
    assert make(asked, sentences).sha256 == make(asked).sha256
    both = [{"passage_id": "p4", "sentence_id": "s", "text": "x"}]
    assert [p.passage_id for p in make(asked, both).passages] == ["p4"]


def test_with_gold(make):
    task = make(
        [
            query(0, gold=["p4", "p1", "p4"]),
            query(1, gold=[], relation="r", frequency=3, slices={"era": "old"}),
            query(2, gold=[{"passage_id": "p1"}], is_repetition=True),
            query(3),
        ]
    )
    assert task.annotated
    assert [q.gold_rows for q in task.queries] == [(1, 4), (), (1,), ()]
    assert [p.fact_ids for p in task.passages][1] == ("q0", "q2")
    assert [(p.passage_id, p.text) for p in task.passages][5] == ("p5", "text 5")
    assert task.queries[1].slices == {"relation": "r", "era": "old"}
    assert (task.queries[1].frequency, task.queries[1].relation) == (3, "r")
    assert task.queries[2].is_repetition
    assert task.counts["queries_without_gold"] == 2


def test_without_gold_the_task_is_not_annotated(make):
    task = make([query(0), query(1, gold=None)])
    assert not task.annotated
    assert task.counts["queries_without_gold"] == 2


def test_ids_may_be_integers(make):
    task = make(
        [query(0, query_id=7, gold=[3])],
        [{"passage_id": 2, "text": ""}, {"passage_id": 3, "text": "x"}],
    )
    assert (task.queries[0].query_id, task.queries[0].gold_rows) == ("7", (1,))


def test_sampled_queries(make):
    queries = [query(i, gold=["p1"]) for i in range(50)]
    samples = [
        [int(q.query_id[1:]) for q in make(queries, n_queries=n, seed=seed).queries]
        for n, seed in ((10, 0), (10, 0), (20, 0), (10, 1))
    ]
    assert samples[0] == samples[1] == sorted(samples[0])
    assert len(samples[0]) == 10
    assert set(samples[0]) < set(samples[2])
    assert samples[0] != samples[3]
    assert max(samples[0]) > 25, "a sample, and no slice"
    assert make(queries, n_queries=10).counts["queries_left_out_by_sampling"] == 40
    assert len(make(queries, n_queries=1000).queries) == 50


def test_annotation_does_not_depend_on_the_sample(make):
    queries = [query(i) for i in range(20)] + [query(20, gold=["p1"])]
    assert all(make(queries, n_queries=1, seed=seed).annotated for seed in range(3))


def test_fingerprint(make, tmp_path):
    make([query(0), query(1)])

    def fingerprint(seed, n_queries):
        files = (f"{tmp_path}/queries.jsonl", f"{tmp_path}/passages.jsonl")
        return JsonLines(
            JsonLinesConfig(*files, " ", False, Answers.target, n_queries, seed)
        ).fingerprint()

    before = fingerprint(0, None)
    assert str(tmp_path) not in json.dumps(before)
    assert fingerprint(1, None) == before
    assert fingerprint(0, 1) not in (before, fingerprint(1, 1))
    write(tmp_path / "passages.jsonl", PASSAGES[:3])
    assert fingerprint(0, None) != before


@pytest.mark.parametrize(
    ("bad", "field", "what"),
    [
        (query(1, gold=["p1", "p99"]), "gold", "no passage has the id 'p99'"),
        (query(1, gold="p1"), "gold", "expected a list of ids"),
        (query(0), "query_id", "'q0' is already the id of"),
        (query(1, query_id=None), "query_id", "expected ids"),
        (query(1, prompt=" "), "prompt", "expected a non-empty string"),
        ({"query_id": "q1", "prompt": "P"}, "target", "expected a non-empty string, found missing"),
        (query(1, frequency=-2), "frequency", "expected a count"),
        (query(1, relation=3), "relation", "expected str or null"),
        (query(1, is_repetition="no"), "is_repetition", "expected bool or null"),
        (query(1, slices={"era": 3}), "slices", "expected a text label"),
        (query(1, slices=["era"]), "slices", "expected dict or null"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_faulty_query_is_named(make, tmp_path, bad, field, what):
    message = refusal(make, [query(0, gold=["p0"]), bad])
    assert message.startswith(f"{tmp_path}/queries.jsonl:2, field {field!r}: {what}")


@pytest.mark.parametrize(
    ("bad", "field", "what"),
    [
        ({"passage_id": "p2", "text": "again"}, "passage_id", "'p2' is already the id of"),
        ({"passage_id": "p9"}, "text", "expected a string, found None"),
        ({"text": "x"}, "passage_id", "expected ids"),
    ],
)
def test_a_faulty_passage_is_named(make, tmp_path, bad, field, what):
    message = refusal(make, [query(0, gold=["p0"])], [*PASSAGES, bad])
    assert message.startswith(f"{tmp_path}/passages.jsonl:7, field {field!r}: {what}")


def test_nothing_to_ask_or_to_rank(make):
    assert "holds no query" in refusal(make, [])
    assert "the corpus is empty" in refusal(make, [query(0)], [])
    assert "the corpus is empty" in refusal(make, [query(0, gold=["p1"])], [])
    assert refusal(make, [query(0)], n_queries=0).startswith("task.n_queries: expected at least 1")
    assert "set task.passages to" in refusal(make, [query(0)], passages="none-here-*.jsonl")
