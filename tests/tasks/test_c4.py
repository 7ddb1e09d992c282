"""The C4 task: passages and their ids, frequencies, sampling, what is counted and refused."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from dataclasses import asdict

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from bench.cli.main import main
from bench.results.schema import read_result
from bench.tasks.c4 import C4
from tests.fixtures.composing import task_settings
from tests.fixtures.fact_files import DATA, FactFiles, fact, write

WORDS = 8  # tokens a passage


def document(text, **more):
    return {"text": text, "url": "http://x", "timestamp": "2019-04-25T12:57:54Z", **more}


class World(FactFiles):
    """Facts and shards."""

    name, builder = "c4", C4
    files = {"facts": "facts.jsonl", "passages": "c4-train.*.json.gz"}  # noqa: RUF012
    defaults = {"seed": 0, "passage_tokens": WORDS}  # noqa: RUF012

    def __init__(self, folder, facts, *shards):
        super().__init__(folder, facts)
        for number, documents in enumerate(shards):
            packed = "".join(json.dumps(one) + "\n" for one in documents).encode()
            name = f"c4-train.{number:05}-of-00002.json.gz"
            (folder / name).write_bytes(gzip.compress(packed))


@pytest.fixture
def world(tmp_path):
    """E0 and T0 are named by two passages, E1 and T1 by one through aliases, E2 without T2."""
    facts = [
        fact(0, "a", c4_frequency=12),
        fact(1, "a", entity0_alias=["The First"], entity1_alias=["Uno"]),
        fact(2, "b", c4_frequency=7, is_repetition=True),
    ]
    long = "It has E0, and T0 beside it. Here is more of it. E0 again."
    shards = (
        [document(long), document(" \n")],
        [document("uno and the\tfirst", date="2019"), document("t0 of e0"), document("E2")],
    )
    return World(tmp_path, facts, *shards)


def frequencies(task):
    return {query.query_id: query.frequency for query in task.queries}


def passages(task):
    return {passage.passage_id: passage.text for passage in task.passages}


# ------------------------------------------------------------------ passages and queries


def test_passages_have_ids_that_find_the_document_again(world):
    task = world.task()
    first, second = "c4-train.00000-of-00002", "c4-train.00001-of-00002"
    assert passages(task) == {
        f"{first}:1:0": "It has E0, and T0 beside it.",
        f"{first}:1:1": "Here is more of it. E0 again.",
        f"{second}:1:0": "uno and the\tfirst",
        f"{second}:2:0": "t0 of e0",
        f"{second}:3:0": "E2",
    }
    assert not task.annotated
    assert all(not query.gold_rows for query in task.queries)
    part = world.task(passages=f"{world.folder}/{second}.json.gz")
    assert passages(part).items() < passages(task).items(), "one shard alone has the same"


def test_packing_does_not_change_the_task(world):
    expected = world.task().sha256
    for path in world.folder.glob("*.json.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    assert world.task(passages=f"{world.folder}/c4-train.*.json").sha256 == expected


def test_queries_carry_what_judges_and_slices_need(world):
    query = world.task(prompt=1).queries[1]
    assert (query.prompt, query.target) == ("E1 1", "T1")
    assert query.subject_names == ("E1", "The First")
    assert query.answer_names == ("Uno",)
    assert query.slices == {"relation": "a", "frequency": "1-9"}


def test_counts(world):
    assert world.task().counts == {
        "facts_read": 3,
        "facts_left_out_as_repetition": 0,
        "facts_left_out_by_sampling": 0,
        "documents_read": 5,
        "documents_without_text": 1,
        "passages_read": 5,
        "passages_left_out_by_sampling": 0,
        "queries_that_no_passage_names": 1,
        "passages": 5,
        "characters": 28 + 29 + 17 + 8 + 2,
        "queries": 3,
    }


def test_whole_documents(world):
    assert len(world.task(passage_tokens=None).passages) == 4


def test_a_tokenizer_counts_its_own_tokens(world):
    tokenizer = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(world.folder / "tokenizer.json"))
    by_words, by_tokens = world.task(), world.task(tokenizer=str(world.folder))
    assert passages(by_tokens) == passages(by_words)


# ------------------------------------------------------------------ frequency


def test_frequency_is_counted_or_given(world):
    assert frequencies(world.task()) == {"f0": 2, "f1": 1, "f2": 0}
    assert frequencies(world.task(passage_tokens=None)) == {"f0": 2, "f1": 1, "f2": 0}
    given = world.task(frequency="given")
    assert frequencies(given) == {"f0": 12, "f1": None, "f2": 7}
    assert [q.slices["frequency"] for q in given.queries] == ["10-99", "unknown", "1-9"]
    assert "queries_that_no_passage_names" not in given.counts


@pytest.mark.parametrize("settings", [{}, {"n_passages": 2}, {"n_queries": 2}])
def test_frequency_is_that_of_all_passages(world, settings):
    for stratify in ("relation", "frequency"):
        found = frequencies(world.task(**settings, stratify=stratify))
        assert found.items() <= {"f0": 2, "f1": 1, "f2": 0}.items()


@pytest.fixture
def large(tmp_path):
    """60 facts: 40 named by none of 120 passages, 16 by one, 4 by ten; the files say otherwise."""
    facts = [fact(i, c4_frequency=3) for i in range(60)]
    texts = [f"E{i} has T{i}" for i in range(40, 56)]
    texts += [f"T{i} is of E{i}" for i in range(56, 60) for _ in range(10)]
    texts += [f"nothing {i}" for i in range(64)]
    documents = [document(text) for text in texts]
    return World(tmp_path, facts, documents[:50], documents[50:])


def test_a_sample_is_balanced_over_the_counted_frequency(large):
    task = large.task(n_queries=12, stratify="frequency")
    assert Counter(q.slices["frequency"] for q in task.queries) == {"0": 4, "1-9": 4, "10-99": 4}
    assert task.counts["facts_left_out_by_sampling"] == 48
    given = large.task(n_queries=12, stratify="frequency", frequency="given")
    assert {q.slices["frequency"] for q in given.queries} == {"1-9"}


# ------------------------------------------------------------------ sampling


@pytest.mark.parametrize("stratify", ["relation", "frequency"])
def test_sampled_passages_are_nested_and_no_slice(large, stratify):
    settings = {"n_queries": 5, "stratify": stratify}
    few, more = (passages(large.task(n_passages=n, **settings)) for n in (20, 40))
    assert len(few) == 20
    assert few.items() < more.items()
    assert len({name.rsplit(":", 2)[0] for name in few}) == 2
    assert few != passages(large.task(n_passages=20, seed=1, **settings))
    task = large.task(n_passages=1000, **settings)
    assert len(task.passages) == task.counts["passages_read"] == 120
    task = large.task(n_passages=20, **settings)
    assert task.counts["passages_left_out_by_sampling"] == 100
    assert task.counts["documents_read"] == 120, "counted once, though read twice"


def test_queries_of_a_retrievals_file(large):
    path = large.folder / "retrievals.jsonl"
    write(path, [{"inputs_plaintext": f"E{i} 2", "targets_plaintext": f"T{i}"} for i in (58, 3)])
    task = large.task(queries_from=str(path))
    assert frequencies(task) == {"f3": 0, "f58": 10}
    assert [query.prompt for query in task.queries] == ["E3 2", "E58 2"]


# ------------------------------------------------------------------ settings and refusals


def test_fingerprint(world):
    def fingerprint(**changes):
        return C4(world.config(**changes)).fingerprint()

    before = fingerprint()
    assert str(world.folder) not in json.dumps(before)
    assert fingerprint(seed=1) == before
    for change in (
        {"n_passages": 2}, {"passage_tokens": 9}, {"frequency": "given"}, {"prompt": 1},
        {"passages": f"{world.folder}/c4-train.00000*"},
    ):  # fmt: skip
        assert fingerprint(**change) != before
    assert fingerprint(n_passages=2) != fingerprint(n_passages=2, seed=1)
    os.utime(world.folder / "facts.jsonl", ns=(1, 1))
    assert fingerprint() != before


def test_every_setting_is_in_the_yaml(world):
    assert set(task_settings("c4")) == set(asdict(world.config()))


def test_a_faulty_line_is_named(world):
    write(world.folder / "c4-train.x.json.gz", [document("fine"), {"url": "no text"}])
    assert "c4-train.x.json.gz:2, field 'text': expected a string, found None" in world.refusal()


def test_two_shards_of_one_name(world):
    path = world.folder / "c4-train.00000-of-00002.json"
    write(path, [document("x")])
    message = world.refusal(passages=f"{world.folder}/c4-train.0*")
    assert "shard 'c4-train.00000-of-00002' is also" in message
    assert "same ids; leave one out of task.passages" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_passages": 0}, "task.n_passages: expected at least 1, found 0"),
        ({"n_queries": -1}, "task.n_queries: expected at least 1, found -1"),
        ({"prompt": 3}, "task.prompt: expected 0 to 2, found 3"),
        ({"passage_tokens": 0}, "task.passage_tokens: expected at least 1, found 0"),
        ({"tokenizer": "/none"}, "/none: no tokenizer.json there"),
        ({"passages": "none*"}, "no such file; set task.passages to"),
        ({"facts": "none*"}, "no such file; set task.facts to"),
        ({"queries_from": "none*"}, "no such file; set task.queries_from to"),
    ],
)
def test_refusals(world, changes, message):
    assert message in world.refusal(**changes)


def test_no_text_at_all(tmp_path):
    assert "the corpus is empty" in World(tmp_path, [fact(0)], [document(" ")]).refusal()


# ------------------------------------------------------------------ end to end


@pytest.mark.skipif(not (DATA / "c4").is_dir(), reason="no c4 data; set TDABENCH_DATA")
def test_real_data_with_a_judge(tmp_path):
    facts, shards = DATA / "trex/trex_facts.jsonl", DATA / "c4/c4-sample.json.gz"
    words = [
        "task=c4", f"task.facts={facts}", f"task.passages={shards}", "task.n_queries=40",
        "task.stratify=frequency", "method=bm25", "top_k=20",
        f"results_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip
    assert main(["run", *words, "metric=lexical"]) == 0
    (path,) = (tmp_path / "runs").rglob("result.json")
    result = read_result(path)
    assert result.task["n_queries"] == 40
    assert result.task["judge"]["name"] == "lexical"
    assert set(result.slices["frequency"]) == {"0", "1-9"}
    assert result.slices["frequency"]["1-9"]["mrr"].value > 0.5
    zero = result.slices["frequency"]["0"]["mrr"].value
    assert zero == 0, "what no passage names, by the counter's rule, the judge finds in none"
    assert main(["verify", "--quiet", str(tmp_path / "runs")]) == 0


def test_a_document_that_is_no_text_is_refused(tmp_path):
    world = World(tmp_path, [fact(0)], [document("a fine text"), document("bad \ud800 Paris")])
    message = world.refusal()
    assert "00000-of-00002.json.gz:2, field 'text': holds a lone surrogate (U+D800)" in message
