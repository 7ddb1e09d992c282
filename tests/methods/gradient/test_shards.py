"""Shards as jobs of an engine: whoever makes them, in whatever order, the bytes are the same."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from bench.core.errors import UserError
from bench.engines.base import Job
from bench.engines.processes import Processes, ProcessesConfig
from bench.models.language_model import LanguageModel
from bench.models.recipe import ModelRecipe
from bench.tasks.base import Task
from methods.gradient import index as index_module
from methods.gradient import recipes
from methods.gradient.settings import Hessian, Storage
from tests.fixtures.engines import Sent
from tests.fixtures.gradient_methods import (
    QUERIES,
    ToyRecipe,
    index_files,
    make,
    many_texts,
    ranked,
    toy_model,
)
from tests.fixtures.helpers import make_task
from tests.fixtures.models import load, make_model, scratch_source


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    return toy_model(tmp_path)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "task", many_texts(), QUERIES)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A corpus has several shards, and no encoder is open from an earlier test."""
    monkeypatch.setattr(index_module, "SHARD_ROWS", 7)
    recipes._open.clear()
    yield
    recipes._open.clear()


@pytest.mark.parametrize("storage", [Storage.fp32, Storage.sign])
def test_sent_elsewhere_in_any_order_the_bytes_are_the_same(tmp_path, model, task, storage):
    settings = {"storage": storage, "batch_tokens": 30}
    here = make(task, model, tmp_path / "here", **settings)
    here.index()
    expected = index_files(tmp_path / "here")
    assert len(expected) == 2 * 9 + 1
    for seed in range(3):
        engine, folder = Sent(seed), tmp_path / str(seed)
        recipe = ToyRecipe(tmp_path)
        method = make(task, model, folder, engine=engine, recipe=recipe, **settings)
        method.index()
        assert engine.n_jobs == 9
        assert index_files(folder) == expected
        assert method.context.counts == here.context.counts
        assert not list(folder.rglob("*.partial-*"))


def test_a_process_opens_the_model_once(tmp_path, model, task, monkeypatch):
    opened: list[Path] = []
    call = ToyRecipe.__call__
    monkeypatch.setattr(
        ToyRecipe, "__call__", lambda self: opened.append(self.folder) or call(self)
    )
    make(task, model, tmp_path, engine=Sent(), recipe=ToyRecipe(tmp_path)).index()
    assert opened == [tmp_path]


def test_here_the_model_at_hand_is_used(tmp_path, model, task, monkeypatch):
    monkeypatch.setattr(recipes.EncoderRecipe, "open", lambda _: pytest.fail("opened again"))
    make(task, model, tmp_path).index()


def test_what_is_translated_needs_no_model(tmp_path, model, task, monkeypatch):
    make(task, model, tmp_path).index()
    monkeypatch.setattr(recipes.EncoderRecipe, "open", lambda _: pytest.fail("loaded a model"))
    engine = Sent()
    settings = {"storage": Storage.int8, "hessian": Hessian.none}
    make(task, model, tmp_path, engine=engine, recipe=ToyRecipe(tmp_path), **settings).index()
    assert engine.n_jobs == 9


def test_only_what_is_missing_is_a_job_and_equal_texts_are_one(tmp_path, model):
    texts = many_texts(21)
    recipe = ToyRecipe(tmp_path)
    first = make_task(tmp_path / "first", texts, QUERIES)
    make(first, model, tmp_path).index()
    repeated = [f"{text} Again." for text in texts[:7]]
    grown = make_task(tmp_path / "grown", [*texts, *repeated, *repeated], QUERIES)
    engine = Sent()
    method = make(grown, model, tmp_path, engine=engine, recipe=recipe)
    found = ranked(method, top_k=35)
    assert engine.n_jobs == 1
    for a, b in zip(found, ranked(make(grown, model, tmp_path / "b"), top_k=35), strict=True):
        assert a.rows.tolist() == b.rows.tolist()


def test_another_model_elsewhere_is_refused(tmp_path, model, task):
    """A machine on which the folder holds other weights must not add to the index."""
    make_model(tmp_path / "other" / "model", layers=1, hidden=8, seed=1)
    (tmp_path / "adafactor.safetensors").rename(tmp_path / "other" / "adafactor.safetensors")
    with pytest.raises(UserError, match="another process finds another model"):
        make(task, model, tmp_path, engine=Sent(), recipe=ToyRecipe(tmp_path / "other")).index()
    assert not list(tmp_path.rglob("shard-*"))


def test_a_model_trained_here_is_opened_elsewhere_without_the_queries(tmp_path, task):
    recipe = ModelRecipe(scratch_source(), task, tmp_path / "cache", "cpu")
    here = recipe()
    sent = pickle.dumps(recipe)
    assert QUERIES[0].prompt.encode() not in sent
    elsewhere = pickle.loads(sent)()
    assert elsewhere.sha256 == here.sha256
    ours, theirs = here.module.state_dict(), elsewhere.module.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_job_is_small(tmp_path, model, task):
    """It is sent for each shard, and neither passages nor queries nor weights go with it."""
    sizes: list[int] = []

    class Weighed(Sent):
        def _finished(self, jobs: Sequence[Job], label: str, unit: str) -> Iterator[Job]:
            sizes.extend(len(pickle.dumps(job)) for job in jobs)
            return super()._finished(jobs, label, unit)

    recipe = ModelRecipe(scratch_source(), task, tmp_path, "cpu")
    make(task, recipe(), tmp_path, engine=Weighed(), recipe=recipe,
         optimizer_correction=False).index()  # fmt: skip
    assert max(sizes) < 4096


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_processes_write_the_bytes_of_serial(tmp_path, model, task, workers):
    make(task, model, tmp_path / "serial").index()
    engine = Processes(ProcessesConfig(workers, gpus=0))
    make(task, model, tmp_path / "p", engine=engine, recipe=ToyRecipe(tmp_path)).index()
    assert index_files(tmp_path / "p") == index_files(tmp_path / "serial")
    (log,) = (tmp_path / "p").rglob("seconds.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({line["file"] for line in lines}) == len(lines) == 9


def test_the_recipe_brings_the_toy_model(tmp_path, model):
    """Without it, the tests above would compare nothing."""
    again = ToyRecipe(tmp_path)()
    assert again.sha256 == model.sha256 == load(tmp_path / "model").sha256
    assert again.required_moments().sha256 == model.required_moments().sha256
