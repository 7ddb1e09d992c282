"""The index: shared, resumed, appended, translated, and refused when damaged."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.models.language_model import LanguageModel
from bench.models.second_moments import load_moments
from methods.gradient import index as index_module
from methods.gradient.settings import Hessian, Storage
from methods.gradient.shards import ShardWriter, read_sidecar
from methods.gradient.source import EncodedFeatures
from tests.fixtures.forks import Fork
from tests.fixtures.gradient_methods import (
    QUERIES,
    index_files,
    make,
    many_texts,
    ranked,
    toy_model,
)
from tests.fixtures.helpers import make_task
from tests.fixtures.models import load, make_model, with_moments

LOSSY = (Storage.bf16, Storage.int8, Storage.sign)


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """The number of texts in each call of the encoder, of passages and queries."""
    calls: list[int] = []
    original = EncodedFeatures.encode

    def encode(self, texts):
        calls.append(len(texts))
        return original(self, texts)

    monkeypatch.setattr(EncodedFeatures, "encode", encode)
    return calls


@pytest.fixture
def model(tmp_path) -> LanguageModel:
    return toy_model(tmp_path)


def test_methods_of_the_same_features_share_an_index(tmp_path, model, encoded):
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    ranked(make(task, model, tmp_path))
    assert sum(encoded) == len(task.passages)
    ranked(make(task, model, tmp_path, hessian=Hessian.none, unit_norm=False))
    assert sum(encoded) == len(task.passages)
    ranked(make(task, model, tmp_path, optimizer_correction=False))
    assert sum(encoded) == 2 * len(task.passages)


def test_another_epsilon_is_another_index(tmp_path, encoded):
    """Fault: passages divided with one ε were compared with queries divided with another."""
    model = with_moments(load(make_model(tmp_path / "adam", layers=1, hidden=8)), tmp_path, "adam")
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    ranked(make(task, model, tmp_path))
    path = tmp_path / "adam.safetensors"
    model.second_moments = load_moments(path, model.module, adam_epsilon=1e-2)
    expected = ranked(make(task, model, tmp_path / "apart"))
    found = ranked(make(task, model, tmp_path))
    assert sum(encoded) == 3 * len(task.passages)
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a.scores, b.scores)


def test_a_block_too_large_for_its_hessian_is_refused_before_encoding(tmp_path, model, encoded):
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    method = make(task, model, tmp_path, projection_dim=91)
    method.check()
    with pytest.raises(UserError, match=r"method\.projection_dim"):
        method.index()
    assert not encoded


def test_a_corpus_that_grew_encodes_only_what_is_new(tmp_path, model, monkeypatch, encoded):
    monkeypatch.setattr(index_module, "SHARD_ROWS", 10)
    texts = many_texts(45)
    ranked(make(make_task(tmp_path / "first", texts[:25], QUERIES), model, tmp_path))
    del encoded[:]
    grown = make_task(tmp_path / "grown", texts, QUERIES)
    found = ranked(make(grown, model, tmp_path))
    assert encoded == [10, 10, 5], "rows 0 to 19 are there; 20 to 24 were in a part of a shard"
    for a, b in zip(found, ranked(make(grown, model, tmp_path / "fresh")), strict=True):
        assert a.rows.tolist() == b.rows.tolist()
        assert np.array_equal(a.scores, b.scores)


@pytest.mark.parametrize("storage", LOSSY)
def test_a_lossy_index_is_translated_from_full_precision_if_that_is_there(
    tmp_path, model, encoded, storage
):
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    settings = {"storage": storage, "hessian": Hessian.none}
    ranked(make(task, model, tmp_path / "a", **settings))
    ranked(make(task, model, tmp_path / "b"))
    del encoded[:]
    ranked(make(task, model, tmp_path / "b", **settings))
    assert not encoded
    for name, content in index_files(tmp_path / "a").items():
        assert (tmp_path / "b" / name).read_bytes() == content


def test_the_manifest_says_what_the_rows_are(tmp_path, model, monkeypatch):
    monkeypatch.setattr(index_module, "SHARD_ROWS", 32)
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    method = make(task, model, tmp_path, storage=Storage.bf16)
    size = method.index()
    (path,) = tmp_path.rglob("corpus-*.json")
    manifest = json.loads(path.read_text())
    assert manifest["corpus_sha256"] == task.corpus_sha256
    assert [one["model"] for one in manifest["settings"]["models"]] == [model.sha256]
    assert (manifest["rows"], manifest["storage"]) == (60, "bf16")
    assert sum(manifest["layout"]["blocks"]) == manifest["dim"]
    assert [(s["first_row"], s["rows"]) for s in manifest["shards"]] == [(0, 32), (32, 28)]
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("shard-*.npy"))
    assert size.bytes == on_disk
    assert size.shards == 2


def test_no_passage_is_in_two_shards_and_none_is_left_out(tmp_path, model, monkeypatch):
    monkeypatch.setattr(index_module, "SHARD_ROWS", 7)
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    method = make(task, model, tmp_path)
    method.index()
    source = method._source
    for rows_at_once in (3, 7, 100):
        blocks = list(source.blocks(rows_at_once))
        assert len(blocks) == source.n_blocks(rows_at_once)
        rows = [first + i for first, block in blocks for i in range(len(block))]
        assert rows == list(range(60))
        whole = torch.cat([block for _, block in blocks])
    some = np.array([0, 6, 7, 30, 59])
    assert torch.equal(source.rows(some), whole[some])


def test_a_killed_build_goes_on_and_gives_the_same_bytes(tmp_path, model, monkeypatch):
    """Fault in the field: a step that died half way is taken for done."""
    monkeypatch.setattr(index_module, "SHARD_ROWS", 16)
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    undisturbed = make(task, model, tmp_path / "a")
    ranked(undisturbed)
    original, calls = ShardWriter.write, []

    def dies_on_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(ShardWriter, "write", dies_on_third)
    with pytest.raises(KeyboardInterrupt):
        ranked(make(task, model, tmp_path / "b"))
    ranked(make(task, model, tmp_path / "b"))
    assert len(calls) == 3 + 2, "finished shards are not encoded again"
    assert index_files(tmp_path / "a") == index_files(tmp_path / "b")


@pytest.mark.slow
def test_sigkill_at_any_moment_costs_nothing_that_was_finished(tmp_path, forks):
    """A real process is killed at seeded numbers of finished shards and a moment later."""
    make_model(tmp_path / "model", layers=1, hidden=8)
    chance = random.Random(0)

    def start(name: str) -> Fork:
        (tmp_path / name).mkdir(exist_ok=True)
        folders = [tmp_path / "model", tmp_path / name, tmp_path / name / "cache"]
        return forks.start(*map(str, folders), module="tests.fixtures.build_index")

    assert start("undisturbed").end().returncode == 0
    cache = tmp_path / "killed" / "cache"
    done: dict[Path, int] = {}
    for n_finished in (1, 9, 17, 26, 35, 44):
        process = start("killed")
        while process.runs(0.002) and len(list(cache.rglob("shard-*.json"))) < n_finished:
            continue
        time.sleep(chance.random() * 0.05)
        process.send(signal.SIGKILL)
        assert process.end().returncode == -signal.SIGKILL
        changed = {path: path.stat().st_mtime_ns for path in cache.rglob("shard-*.json")}
        assert changed.items() >= done.items(), "a finished shard is not written again"
        done = changed
    assert start("killed").end().returncode == 0
    assert index_files(cache) == index_files(tmp_path / "undisturbed" / "cache")
    assert not list(cache.rglob("*.partial-*")), "what killed writers left is gone"


def test_every_flipped_byte_of_a_shard_is_noticed(tmp_path, model):
    task = make_task(tmp_path / "task", many_texts(3), QUERIES)
    ranked(make(task, model, tmp_path))
    (path,) = (tmp_path / "cache").rglob("shard-*.npy")
    sidecar = path.with_suffix(".json")
    key = json.loads(sidecar.read_text())["key"]
    assert read_sidecar(path, key)["rows"] == 3
    rng = random.Random(0)
    for file in (path, sidecar):
        whole = file.read_bytes()
        for place in range(len(whole)):
            data = bytearray(whole)
            data[place] ^= 1 << rng.randrange(8)
            file.write_bytes(data)
            with pytest.raises(UserError, match="foreign or damaged"):
                read_sidecar(path, key)
        file.write_bytes(whole)
    assert read_sidecar(path, key)["rows"] == 3


@pytest.mark.parametrize("fault", ["flip", "truncate", "foreign"])
def test_damaged_or_foreign_shards_are_refused(tmp_path, model, fault):
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    ranked(make(task, model, tmp_path))
    (path,) = (tmp_path / "cache").rglob("shard-*.npy")
    if fault == "flip":
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data)
    elif fault == "truncate":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        sidecar = path.with_suffix(".json")
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "key": "another"}))
    with pytest.raises(UserError, match="foreign or damaged"):
        ranked(make(task, model, tmp_path))


def test_a_shard_that_was_copied_over_another_is_refused(tmp_path, model, monkeypatch):
    """Both are whole, of this model and these settings; the texts are others."""
    monkeypatch.setattr(index_module, "SHARD_ROWS", 20)
    task = make_task(tmp_path / "task", many_texts(40), QUERIES)
    expected = ranked(make(task, model, tmp_path))
    one, other = sorted((tmp_path / "cache").rglob("shard-*.npy"))
    for suffix in (".npy", ".json"):
        shutil.copyfile(one.with_suffix(suffix), other.with_suffix(suffix))
    with pytest.raises(UserError, match="foreign or damaged index shard"):
        ranked(make(task, model, tmp_path))
    for suffix in (".npy", ".json"):
        other.with_suffix(suffix).unlink()
    again = ranked(make(task, model, tmp_path))
    assert [r.rows.tolist() for r in again] == [r.rows.tolist() for r in expected]


def test_times_that_were_damaged_do_not_count(tmp_path, model):
    task = make_task(tmp_path / "task", many_texts(3), QUERIES)
    method = make(task, model, tmp_path)
    method.index()
    assert method.context.facts["encoding_seconds"] is not None
    (log,) = (tmp_path / "cache").rglob("seconds.jsonl")
    whole = log.read_bytes()
    for place in range(len(whole) - 1):  # the last byte is the line's end
        log.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        method.index()
        assert method.context.facts["encoding_seconds"] is None
