"""The T-REx task: what is gold, what is sampled, what is counted, what is refused."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bench.tasks.buckets import POWERS_OF_TEN, frequency_bucket
from bench.tasks.trex import TRex
from tests.fixtures.composing import task_settings
from tests.fixtures.fact_files import DATA, REAL, TRexFiles, fact, sentence, write


@pytest.fixture
def small(tmp_path):
    """Gold stated by the fact only, by the sentence only, by both, and by none."""
    facts = [
        fact(0, "a", ["s0"]),
        fact(1, "a", []),
        fact(2, "b", ["s2", "s4"], c4_frequency=12),
        fact(3, "b", [], c4_frequency=0, is_repetition=True),
    ]
    sentences = [sentence(0), sentence(1, ["f1", "other"]), sentence(2, ["f2"]), sentence(3)]
    return TRexFiles(tmp_path, facts, [*sentences, sentence(4, ["f2"])])


@pytest.fixture
def large(tmp_path):
    """90 facts of three relations (60, 20, 10), each with one gold sentence among 400."""
    relations = ["a"] * 60 + ["b"] * 20 + ["c"] * 10
    facts = [fact(i, relation, [f"s{4 * i}"]) for i, relation in enumerate(relations)]
    return TRexFiles(tmp_path, facts, [sentence(i) for i in range(400)])


def ids(task):
    return [query.query_id for query in task.queries]


# ------------------------------------------------------------------ gold


def test_gold_is_either_side_of_the_annotation(small):
    task = small.task()
    assert {q.query_id: q.gold_rows for q in task.queries} == {
        "f0": (0,),
        "f1": (1,),
        "f2": (2, 4),
        "f3": (),
    }
    assert [p.fact_ids for p in task.passages] == [("f0",), ("f1", "other"), ("f2",), (), ("f2",)]
    assert [p.passage_id for p in task.passages] == [f"s{i}" for i in range(5)]
    assert task.annotated
    assert task.correct(task.queries[2], [0, 2, 4]).tolist() == [False, True, True]


@pytest.mark.parametrize(("prompt", "others"), [(0, (1, 2)), (1, (0, 2)), (2, (0, 1))])
def test_other_prompts_are_passages_of_their_own(small, prompt, others):
    bare = small.task(prompt=prompt)
    task = small.task(statements=2, prompt=prompt)
    passages = list(task.passages)
    assert [(p.passage_id, p.text) for p in passages[:5]] == [
        (p.passage_id, p.text) for p in bare.passages
    ]
    want = [
        (f"generated:f{i}:prompt{k}", f"E{i} {k} T{i}.", (f"f{i}",))
        for i in range(4)
        for k in others
    ]
    assert [(p.passage_id, p.text, p.fact_ids) for p in passages[5:]] == want
    assert {q.query_id: q.gold_rows for q in task.queries} == {
        "f0": (0, 5, 6), "f1": (1, 7, 8), "f2": (2, 4, 9, 10), "f3": (11, 12)
    }  # fmt: skip
    assert task.counts == {
        **bare.counts, "generated_passages": 8, "passages": 13, "characters": 30 + 8 * 8
    }  # fmt: skip


def test_statements_are_those_that_are_asked_for(small):
    task = small.task(statements=1, n_queries=2, n_passages=3, separator="")
    made = [p for p in task.passages if p.passage_id.startswith("generated:")]
    assert [p.fact_ids[0] for p in made] == ids(task), "of the asked facts alone"
    assert all(p.passage_id.endswith(":prompt1") for p in made)
    assert [p.text for p in made] == [f"E{i[1]} 1T{i[1]}." for i in ids(task)]
    assert len(task.passages) == 3 + 2, "beside n_passages"
    assert task.counts["generated_passages"] == 2


def test_a_statement_ends_in_one_full_stop(tmp_path):
    facts = [fact(0, entity1="Acme Inc.", prompt1="E0 belongs to ")]
    task = TRexFiles(tmp_path, facts, [sentence(0)]).task(statements=2)
    assert [p.text for p in task.passages][1:] == ["E0 belongs to Acme Inc.", "E0 2 Acme Inc."]


def test_without_statements_no_key_changes(small):
    """The fingerprint that names a prepared task is that of the time before there were any."""
    assert "statements" not in TRex(small.config()).fingerprint()
    assert TRex(small.config(statements=1)).fingerprint()["statements"] == 1


def test_what_is_not_known_stands_in_the_file_as_null(small):
    """Fault: fields without a value were left out, so tasks with such a query had other keys."""
    with open(small.task().passages.folder / "queries.jsonl", encoding="utf-8") as lines:
        first = json.loads(next(lines))
    assert first["frequency"] is None
    assert first["statement"] is None
    assert not {"separator", "chat", "accepted"} & set(first)


def test_counts(small):
    assert small.task().counts == {
        "facts_read": 4,
        "facts_left_out_as_repetition": 0,
        "facts_left_out_by_sampling": 0,
        "gold_sentences_missing": 0,
        "passages_read": 5,
        "passages_left_out_by_sampling": 0,
        "gold_passages": 4,
        "gold_passages_left_out_by_sampling": 0,
        "gold_passages_always_kept": 1,
        "queries_without_gold_sentence": 1,
        "queries_with_gold_left_out_by_sampling": 0,
        "passages": 5,
        "characters": 30,
        "queries": 4,
    }


def test_query_fields(small):
    query = small.task(prompt=2).queries[2]
    assert (query.prompt, query.target, query.relation) == ("E2 2", "T2", "b")
    assert (query.frequency, query.slices) == (12, {"relation": "b", "frequency": "10-99"})
    assert [q.is_repetition for q in small.task().queries] == [False, False, False, True]


def test_repetitions_are_left_out_on_request(small):
    task = small.task(repetitions="exclude")
    assert ids(task) == ["f0", "f1", "f2"]
    assert task.counts["facts_left_out_as_repetition"] == 1


@pytest.mark.parametrize(
    ("frequency", "label"),
    [
        (None, "unknown"),
        (0, "0"),
        (1, "1-9"),
        (9, "1-9"),
        (10, "10-99"),
        (99, "10-99"),
        (100, "100-999"),
        (10**6, "1000000-9999999"),
    ],
)
def test_frequency_bucket(frequency, label):
    assert frequency_bucket(frequency, POWERS_OF_TEN) == label


# ------------------------------------------------------------------ sampling


def test_sampled_queries_are_balanced_and_nested(large):
    previous: set[str] = set()
    for n, expected in ((3, (1, 1, 1)), (30, (10, 10, 10)), (60, (30, 20, 10)), (80, (50, 20, 10))):
        task = large.task(n_queries=n)
        counts = Counter(query.relation for query in task.queries)
        assert tuple(counts[name] for name in "abc") == expected
        assert previous < set(ids(task)), "a larger sample holds the smaller one"
        previous = set(ids(task))
        assert ids(task) == sorted(ids(task), key=lambda name: int(name[1:]))
        assert task.counts["facts_left_out_by_sampling"] == 90 - n
    assert len(large.task(n_queries=1000).queries) == 90


def test_a_plain_sample_follows_the_sizes(large):
    counts = Counter(q.relation for q in large.task(n_queries=30, stratify="none").queries)
    assert counts["a"] > 12
    assert sum(counts.values()) == 30


def test_a_sample_may_be_balanced_over_frequency(tmp_path):
    facts = [fact(i, c4_frequency=0 if i < 40 else 5) for i in range(44)]
    task = TRexFiles(tmp_path, facts, [sentence(0)]).task(n_queries=8, stratify="frequency")
    assert Counter(q.slices["frequency"] for q in task.queries) == {"0": 4, "1-9": 4}


def test_the_seed_moves_the_sample_and_is_no_slice(large):
    samples = [ids(large.task(n_queries=30, stratify="none", seed=seed)) for seed in (0, 0, 1, -1)]
    assert samples[0] == samples[1]
    assert len({tuple(sample) for sample in samples}) == 3
    numbers = [int(name[1:]) for name in samples[0]]
    assert min(numbers) < 20
    assert max(numbers) > 70


@pytest.mark.parametrize("keep_gold", [True, False])
def test_sampled_passages(large, keep_gold):
    task = large.task(n_queries=30, n_passages=100, keep_gold=keep_gold)
    gold = {p.passage_id for p in task.passages if p.fact_ids}
    asked = {f"s{4 * int(name[1:])}" for name in ids(task)}
    assert len(task.passages) == task.counts["passages"] == 100
    assert gold <= asked
    rows = [row for query in task.queries for row in query.gold_rows]
    assert [task.passages[row].fact_ids for row in rows] == [
        (query.query_id,) for query in task.queries if query.gold_rows
    ]
    assert task.counts["gold_passages_always_kept"] == keep_gold
    assert task.counts["gold_passages"] == len(gold) == len(rows)
    assert task.counts["gold_passages_left_out_by_sampling"] == 30 - len(gold)
    assert task.counts["queries_with_gold_left_out_by_sampling"] == 30 - len(gold)
    assert task.counts["queries_without_gold_sentence"] == 0
    assert (len(gold) == 30) == keep_gold
    numbers = [int(p.passage_id[1:]) for p in task.passages]
    assert numbers == sorted(numbers)
    assert max(numbers) > 350, "a sample, and no slice"


def test_a_larger_sample_of_passages_holds_the_smaller(large):
    small, big = (
        {p.passage_id for p in large.task(n_passages=n, n_queries=5).passages} for n in (50, 60)
    )
    assert small < big
    assert len(large.task(n_passages=10_000).passages) == 400


def test_gold_that_exceeds_the_sample_is_refused(large):
    message = large.refusal(n_queries=30, n_passages=29)
    assert message.startswith("task.n_passages: 29 is less than the 30 gold sentences")
    assert len(large.task(n_queries=30, n_passages=30).passages) == 30
    assert len(large.task(n_queries=30, n_passages=29, keep_gold=False).passages) == 29


# ------------------------------------------------------------------ files


def shard(source, target, parts, packed):
    rows = source.read_bytes().splitlines(keepends=True)
    for i in range(parts):
        part = b"".join(rows[len(rows) * i // parts : len(rows) * (i + 1) // parts])
        name = f"{target}-{i:05}-of-{parts:05}"
        Path(name).write_bytes(gzip.compress(part) if packed else part)


@pytest.mark.parametrize("n_passages", [None, 120])
def test_packing_and_sharding_do_not_change_the_task(large, tmp_path, n_passages):
    settings = {"n_queries": 30, "n_passages": n_passages}
    expected = large.task(**settings).sha256
    for parts, packed in ((1, True), (7, False), (7, True)):
        files = {}
        for kind in ("facts", "sentences"):
            target = tmp_path / f"{kind}-{parts}-{packed}"
            shard(tmp_path / f"{kind}.jsonl", target, parts, packed)
            files[kind] = f"{target}-*-of-{parts:05}"
        assert large.task(**settings, **files).sha256 == expected


def test_fingerprint_knows_content_by_name_size_and_time(small, tmp_path_factory):
    def fingerprint(world, **changes):
        return TRex(world.config(**changes)).fingerprint()

    before = fingerprint(small)
    moved = TRexFiles(tmp_path_factory.mktemp("moved"), [], [])
    for kind in ("facts", "sentences"):
        shutil.copy2(small.folder / f"{kind}.jsonl", moved.folder / f"{kind}.jsonl")
    assert fingerprint(moved) == before, "moving the files changes nothing"
    assert str(small.folder) not in json.dumps(before)
    assert fingerprint(small, seed=1) == before, "nothing is sampled: the seed changes nothing"
    for change in ({"prompt": 1}, {"n_queries": 2}, {"keep_gold": False}, {"stratify": "none"}):
        assert fingerprint(small, **change) != before
    assert fingerprint(small, n_queries=2) != fingerprint(small, n_queries=2, seed=1)
    os.utime(moved.folder / "facts.jsonl", ns=(1, 1))
    assert fingerprint(moved) != before
    shutil.copy2(small.folder / "facts.jsonl", moved.folder / "facts.jsonl")
    (moved.folder / "sentences.jsonl").rename(moved.folder / "other.jsonl")
    assert fingerprint(moved, sentences=str(moved.folder / "other.jsonl")) != before


# ------------------------------------------------------------------ refusals


def test_missing_gold_sentences(tmp_path, capsys):
    facts = [fact(0, sentences=["s0"]), fact(1, sentences=["s8", "s0"]), fact(2, sentences=["s9"])]
    world = TRexFiles(tmp_path, facts, [sentence(i) for i in range(4)])
    for n_passages in (None, 2):
        message = world.refusal(n_passages=n_passages)
        assert f"{tmp_path}/facts.jsonl:2, field 'trex_sentences': " in message
        assert "holds 's8' of fact 'f1', nor 1 more" in message
        assert "task.missing_sentences=skip" in message
        capsys.readouterr()
        task = world.task(n_passages=n_passages, missing_sentences="skip")
        assert capsys.readouterr().err.count("holds 's8' of fact 'f1', nor 1 more") == 1
        assert task.counts["gold_sentences_missing"] == 2
        assert task.counts["queries_without_gold_sentence"] == 1
        assert [len(query.gold_rows) for query in task.queries] == [1, 1, 0]


def test_sentences_left_out_by_sampling_are_not_missing(large):
    task = large.task(n_passages=5, keep_gold=False)
    assert task.counts["gold_sentences_missing"] == 0


def test_repeated_fact_id(small):
    write(small.folder / "facts.jsonl", [fact(0), fact(1), fact(2), fact(1)])
    message = small.refusal()
    assert message.startswith(f"{small.folder}/facts.jsonl:4, field 'fact_id': 'f1' is already")
    assert f"{small.folder}/facts.jsonl:2" in message


def test_repeated_gold_sentence_id(small):
    write(small.folder / "sentences.jsonl", [sentence(i) for i in (0, 1, 2, 3, 4, 2)])
    for n_passages in (None, 5):
        message = small.refusal(n_passages=n_passages)
        assert "sentences.jsonl:6, field 'sentence_id': 's2' is already the id of" in message
        assert "sentences.jsonl:3" in message


def test_a_faulty_line_is_named(small):
    with open(small.folder / "sentences.jsonl", "a") as stream:
        stream.write('{"sentence_id": "s9", "text": 3}\n')
    assert "sentences.jsonl:6, field 'text': expected a string, found 3" in small.refusal()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"prompt": 3}, "task.prompt"),
        ({"prompt": -1}, "task.prompt"),
        ({"n_queries": 0}, "task.n_queries"),
        ({"n_passages": -5}, "task.n_passages"),
    ],
)
def test_settings_out_of_range(small, changes, where):
    assert small.refusal(**changes).startswith(f"{where}: ")


def test_no_file_and_no_fact(small):
    assert "no such file; set task.facts to" in small.refusal(facts="none-*.jsonl")
    assert "no such file; set task.sentences to" in small.refusal(sentences="none.jsonl")
    write(small.folder / "facts.jsonl", [fact(0, is_repetition=True)])
    assert "no fact is left to ask" in small.refusal(repetitions="exclude")
    write(small.folder / "facts.jsonl", [])
    assert "no fact is left to ask" in small.refusal(n_queries=5)


def test_every_setting_is_in_the_yaml(small):
    shipped = task_settings("trex")
    assert set(shipped) == set(asdict(small.config()))
    assert OmegaConf.is_missing(shipped, "facts")
    assert OmegaConf.is_missing(shipped, "sentences")


# ------------------------------------------------------------------ real data


@pytest.mark.parametrize("name", REAL)
def test_real_data(name, tmp_path):
    world = TRexFiles(tmp_path, [], [])
    files = {kind: str(DATA / name / f"trex_{kind}.jsonl") for kind in ("facts", "sentences")}
    task = world.task(**files, n_queries=200, n_passages=1000)
    assert len(task.queries) == 200
    assert len(task.passages) == 1000
    rows = map(json.loads, Path(files["facts"]).read_bytes().splitlines())
    facts = {row["fact_id"]: row for row in rows}
    for query in task.queries:
        listed = facts[query.query_id]["trex_sentences"]
        gold = [task.passages[row].passage_id for row in query.gold_rows]
        assert gold == sorted(set(listed)), "both sides of the annotation agree in these files"
        assert all(query.query_id in task.passages[row].fact_ids for row in query.gold_rows)
    per_relation = Counter(query.relation for query in task.queries)
    available = Counter(row["relation"] for row in facts.values())
    assert set(per_relation) == set(available)
    fair = max(per_relation.values())
    assert all(n >= fair - 1 or n == available[name] for name, n in per_relation.items())
