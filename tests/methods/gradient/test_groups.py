"""Groups of shards: where they end, and that sums over them do not depend on who makes them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.engines.serial import Serial, SerialConfig
from bench.storage.mirror import Mirror
from methods.gradient import groups, hessian
from methods.gradient import index as index_module
from methods.gradient.partial_sums import PassageMeans
from methods.gradient.parts import Handed, PartsFolder, SharedSeconds
from methods.gradient.settings import Hessian, HessianForm, Storage
from methods.gradient.source import BYTES_READ
from tests.fixtures.engines import Sent
from tests.fixtures.gradient_methods import QUERIES, ToyRecipe, make, many_texts, toy_model
from tests.fixtures.helpers import make_task


@pytest.mark.parametrize("n_units", [1, 7, 8, 9, 2048, 2049, 10**6])
def test_groups_are_runs_of_a_size_that_follows_from_the_corpus(n_units: int) -> None:
    runs = groups.cut(n_units, 8)
    assert [unit for run in runs for unit in run] == list(range(n_units))
    assert len(runs) <= groups.MOST_GROUPS
    size = len(runs[0]) if len(runs) > 1 else 8
    assert {len(run) for run in runs[:-1]} <= {size}
    assert size % 8 == 0
    assert (size // 8).bit_count() == 1
    assert size == 8 or -(-n_units // (size // 2)) > groups.MOST_GROUPS, "no larger than need be"


@pytest.fixture
def model(tmp_path: Path):
    return toy_model(tmp_path)


@pytest.fixture
def task(tmp_path: Path):
    return make_task(tmp_path / "task", many_texts(), QUERIES)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 passages are nine shards, and five groups."""
    monkeypatch.setattr(index_module, "SHARD_ROWS", 7)
    monkeypatch.setattr(groups, "LEAST_SHARDS", 2)
    monkeypatch.setattr(groups, "LEAST_TEXTS", 14)


CPU = torch.device("cpu")


def means(method, folder: Path, engine=None, sample=None, counts=None) -> PassageMeans:
    parts = PartsFolder(folder, engine or Serial(SerialConfig()), Mirror(folder))
    dim = method._encoder.layout.dim
    counts = Counter() if counts is None else counts
    return PassageMeans(method._source, sample, 5, dim, CPU, parts, counts, SharedSeconds())


def statistics(blocks: list[int]) -> list[hessian.Statistic]:
    return [hessian.Outer(blocks), hessian.Squares(sum(blocks))]


def test_a_corpus_of_one_group_has_the_sums_of_one_stream(tmp_path, model, task) -> None:
    method = make(task, model, tmp_path)
    method.index()
    for statistic in statistics(method._encoder.layout.blocks):
        streamed = (block for _, block in method._source.blocks(5))
        expected = statistic.mean(streamed)
        found = means(method, tmp_path / "parts").of(statistic)
        assert all(map(torch.equal, found, expected))


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("storage", [Storage.fp32, Storage.none])
@pytest.mark.parametrize("sample", [None, [0, 3, 13, 14, 40, 59]])
def test_sums_over_groups_are_equal_on_every_engine_and_right(
    tmp_path, model, task, storage, sample
) -> None:
    sample = sample and np.array(sample)
    recipe = ToyRecipe(tmp_path)
    method = make(task, model, tmp_path, engine=Sent(), recipe=recipe, storage=storage)
    method.index()
    features = torch.cat([block for _, block in method._source.blocks(60)]).double()
    features = features if sample is None else features[sample]
    blocks = method._encoder.layout.blocks
    for statistic in statistics(blocks):
        here = means(method, tmp_path / "here", sample=sample).of(statistic)
        for one, exact in zip(here, statistic.mean([features]), strict=True):
            torch.testing.assert_close(one, exact)
        for seed in range(2):
            engine = Sent(seed)
            folder = tmp_path / f"sent-{seed}"
            sent = means(method, folder, engine, sample).of(statistic)
            assert engine.n_jobs == (5 if sample is None else 4)
            assert all(map(torch.equal, sent, here))
            assert {path.name for path in folder.rglob("*.safetensors")} == {"sums.safetensors"}
    directions = [torch.ones(size, 2, dtype=torch.float64) for size in blocks]
    here = means(method, tmp_path / "here", sample=sample).products(directions)
    sent = means(method, tmp_path / "sent", Sent(), sample).products(directions)
    assert all(map(torch.equal, sent, here))
    (exact, *_) = hessian.Products(Handed(directions)).mean([features])
    torch.testing.assert_close(here[0], exact)


@pytest.mark.usefixtures("small_groups")
def test_the_index_is_read_once_for_all_who_ask(tmp_path, model, task) -> None:
    method = make(task, model, tmp_path)
    size = method.index().bytes
    statistic = hessian.Outer(method._encoder.layout.blocks)
    for expected in (60 * method._encoder.dim * 4, 0):
        counts = Counter()
        means(method, tmp_path / "parts", counts=counts).of(statistic)
        assert counts[BYTES_READ] == expected
    assert size > 60 * method._encoder.dim * 4


@pytest.mark.usefixtures("small_groups")
def test_a_damaged_group_and_a_damaged_sum_are_made_again(tmp_path, model, task, capsys) -> None:
    method = make(task, model, tmp_path)
    method.index()
    statistic = hessian.Squares(method._encoder.dim)
    expected = means(method, tmp_path / "parts").of(statistic)
    (whole,) = (tmp_path / "parts").rglob("sums.safetensors")
    stored = whole.read_bytes()
    whole.write_bytes(stored[:-1] + bytes([stored[-1] ^ 1]))
    whole.with_name("group-00002.safetensors").write_bytes(stored)  # whole, and another's
    assert torch.equal(means(method, tmp_path / "parts").of(statistic)[0], expected[0])
    assert capsys.readouterr().err.count("is made again") == 2


@pytest.mark.usefixtures("small_groups")
def test_groups_that_are_done_are_not_done_again(tmp_path, model, task, monkeypatch) -> None:
    class Killed(Sent):
        def _finished(self, jobs, label, unit):
            yield from super()._finished(jobs[:3], label, unit)
            raise KeyboardInterrupt

    recipe = ToyRecipe(tmp_path)
    method = make(task, model, tmp_path, engine=Sent(), recipe=recipe)
    method.index()
    statistic = hessian.Squares(method._encoder.dim)
    expected = means(method, tmp_path / "whole").of(statistic)
    with pytest.raises(KeyboardInterrupt):
        means(method, tmp_path / "parts", Killed()).of(statistic)
    engine, counts = Sent(), Counter()
    found = means(method, tmp_path / "parts", engine, counts=counts).of(statistic)
    assert engine.n_jobs == 2
    assert torch.equal(found[0], expected[0])
    assert counts[BYTES_READ] == 60 * method._encoder.dim * 4


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("form", list(HessianForm))
def test_a_whitening_is_the_same_on_every_engine(tmp_path, model, task, form) -> None:
    recipe = ToyRecipe(tmp_path)
    lists = []
    for number, engine in enumerate((Serial(SerialConfig()), Sent(), Sent(5))):
        settings = {"hessian": Hessian.mixed, "hessian_form": form, "hessian_components": 3}
        folder = tmp_path / str(number)
        method = make(task, model, folder, engine=engine, recipe=recipe, **settings)
        method.index()
        lists.append([(r.rows.tolist(), r.scores.tolist()) for r in method.search(QUERIES, 9)])
    assert lists[0] == lists[1] == lists[2]
