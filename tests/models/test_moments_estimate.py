"""Second moments by a pass over passages: what autograd and a loop over batches give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.models import moments_estimate
from bench.models.checkpoints import load_checkpoint
from bench.models.directory import Directory
from bench.models.dtypes import choose_experts
from bench.models.language_model import MOMENTS, LanguageModel
from bench.models.moment_files import write_moments
from bench.models.moments_estimate import sampled_rows
from bench.models.second_moments import Factored, Full, load_moments
from bench.models.settings import EstimateConfig
from bench.tasks.base import Task
from tests.fixtures.helpers import make_task
from tests.fixtures.models import GROUPED, TEXTS, directory_source, load, make_model

CORPUS = (*TEXTS, "x", "Oslo", "Al Grey")  # "x" is one token: nothing of it is predicted
PASS = EstimateConfig(passages=8, batch_size=3, seed=0)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "task", CORPUS)


def source(folder: Path, **settings: Any) -> Directory:
    estimated = {"optimizer_state": "estimate", "estimate_moments": PASS}
    wide = {"dtype": "float64", "gradient_dtype": "float64"}
    return directory_source(folder, **(estimated | wide | settings))


def opened(folder: Path, task: Task, **settings: Any) -> LanguageModel:
    return source(folder, **settings).load(task, task.passages.folder / "cache", "cpu")


def by_autograd(model: LanguageModel, rows: list[int], size: int) -> dict[str, torch.Tensor]:
    """Mean over batches of the squared gradient of the mean loss: transformers' own loss."""
    named = dict(model.module.requires_grad_(True).named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    n_batches = 0
    for start in range(0, len(rows), size):
        texts = [model.passage_tokens(CORPUS[row]).ids for row in rows[start : start + size]]
        texts = [ids for ids in texts if len(ids) > 1]
        total = torch.zeros((), dtype=torch.float64)
        for ids in texts:  # one by one: no padding
            row = torch.tensor([ids])
            total = total + model.module(input_ids=row, labels=row).loss * (len(ids) - 1)
        loss = total / sum(len(ids) - 1 for ids in texts)
        for name, g in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
            sums[name] += g.square()
        n_batches += 1
    return {name: total / n_batches for name, total in sums.items()}


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama", "mixtral"])
@pytest.mark.parametrize("at_once", [1, 10_000])
def test_moments_are_mean_squared_gradients_of_batches(
    architecture: str, at_once: int, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments_estimate, "_TOKENS_AT_ONCE", at_once)
    options = {**GROUPED, "num_local_experts": 3} if architecture == "mixtral" else {}
    folder = make_model(tmp_path / "model", architecture, layers=2, **options)
    model = opened(folder, task)
    rows = sampled_rows(len(CORPUS), PASS).tolist()
    oracle = load(folder)
    oracle.module.double()
    choose_experts(oracle.module, torch.float64)
    expected = by_autograd(oracle, rows, 3)
    assert set(model.second_moments.by_name) == set(expected)
    for name, want in expected.items():
        found = model.second_moments[name]
        if want.ndim > 1:
            assert isinstance(found, Factored)
            torch.testing.assert_close(found.row, want.mean(-1).float())
            torch.testing.assert_close(found.col, want.mean(-2).float())
        else:
            assert isinstance(found, Full)
            torch.testing.assert_close(found.value, want.float())
            assert found.epsilon == 0, "Adafactor adds nothing to the root"
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())
    assert not model.module.training


def test_a_larger_batch_is_not_the_same(task: Task, tmp_path: Path) -> None:
    """Fault to be shut out: squares of single passages in place of those of a batch's mean."""
    folder = make_model(tmp_path / "model", layers=1)
    found = [
        opened(folder, task, estimate_moments=replace(PASS, batch_size=size)) for size in (1, 8)
    ]
    alone, together = (sum(m.row.sum() for m in model.second_moments.by_name.values()
                           if isinstance(m, Factored)) for model in found)  # fmt: skip
    assert alone > 1.5 * together


def test_the_sample_is_seeded_and_each_row_once() -> None:
    first, again, other = (sampled_rows(50, replace(PASS, seed=seed)) for seed in (3, 3, 4))
    assert first.tolist() == again.tolist() != other.tolist()
    assert len(set(first.tolist())) == 8
    assert sorted(sampled_rows(5, PASS).tolist()) == list(range(5)), "all, if there are fewer"


def test_the_second_load_estimates_nothing(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model(tmp_path / "model", layers=1)
    first = opened(folder, task)
    assert first.training == {
        "second_moments": "estimated", "moment_passages": 8 - (6 in sampled_rows(9, PASS)),
        "moment_batches": 3,
    }  # fmt: skip

    def refuse(*_: object) -> None:
        raise AssertionError("estimated again")

    monkeypatch.setattr(moments_estimate, "estimate", refuse)
    again = opened(folder, task, gradient_dtype="float32", learning_rate=1e-3)
    assert again.second_moments.sha256 == first.second_moments.sha256
    assert again.training == first.training
    other = make_task(tmp_path / "other", TEXTS)
    for changed in (
        lambda: opened(folder, task, estimate_moments=replace(PASS, seed=1)),
        lambda: opened(folder, task, dtype="float32"),
        lambda: source(folder).load(other, task.passages.folder / "cache", "cpu"),
    ):
        with pytest.raises(AssertionError, match="estimated again"):
            changed()


def test_identity(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / "model", layers=1)
    other = make_task(tmp_path / "other", TEXTS)
    estimated = source(folder).identity(task)
    assert estimated != source(folder).identity(other), "the passages are other ones"
    assert estimated != source(folder, estimate_moments=replace(PASS, passages=7)).identity(task)
    plain = source(folder, optimizer_state=None)
    assert plain.identity(task) == plain.identity(other) != estimated
    assert plain.identity(task) == source(
        folder, optimizer_state=None, estimate_moments=None
    ).identity(task), "keys of before there were estimates"


def test_keys_of_models_without_an_estimate_do_not_depend_on_its_settings(tmp_path: Path) -> None:
    """By hand: the hash of the files and of all other settings."""
    from bench.models.loading import directory_sha256
    from bench.storage.keys import content_key

    folder = make_model(tmp_path / "model", layers=1)
    settings = {
        "path": directory_sha256(folder), "optimizer_state": None, "adam_epsilon": 1e-8,
        "adam_beta2": 0.999, "context_length": None, "learning_rate": None,
        "dtype": "float64", "gradient_dtype": "float64",
        "append_eos": False, "projection_dim": 4, "checkpoints": [],
        "checkpoint_learning_rates": [],
    }  # fmt: skip
    assert source(folder, optimizer_state=None).identity(None) == content_key(settings)  # type: ignore[arg-type]


def test_a_gradient_that_is_not_finite_is_named_and_leaves_nothing(
    task: Task, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "model", layers=1)
    model = load(folder)
    with torch.no_grad():
        model.module.get_output_embeddings().weight.fill_(3e38)  # type: ignore[operator, union-attr]
    model.module.save_pretrained(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=r"^model toy: the gradient of parameter .* is NaN or inf"):
        opened(folder, task, dtype="float32")
    assert list((task.passages.folder / "cache" / "moments").iterdir()) == []


def test_nothing_to_predict(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", ["x", "y"])
    folder = make_model(tmp_path / "model", layers=1)
    with pytest.raises(UserError, match=r"estimate: no sampled passage has a token to predict"):
        opened(folder, task)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimate_moments": None}, r"^model\.estimate_moments: has no value"),
        ({"estimate_moments": replace(PASS, passages=0)}, r"moments\.passages: expected at least"),
        ({"estimate_moments": replace(PASS, batch_size=0)}, r"batch_size: expected at least 1"),
        ({"estimate_moments": replace(PASS, seed=-1)}, r"seed: expected at least 0, found -1"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", layers=1)
    source(folder).check()
    with pytest.raises(UserError, match=message):
        source(folder, **change).check()


def test_estimates_are_near_what_a_training_saves(task: Task, tmp_path: Path) -> None:
    """The same form and scale as an optimizer's state at weights that hardly move."""
    from transformers.optimization import Adafactor

    folder = make_model(tmp_path / "model", layers=1)
    everything = replace(PASS, passages=9, batch_size=9)
    model = opened(folder, task, estimate_moments=everything)
    module = load(folder).module.double().requires_grad_(True)
    optimizer = Adafactor(module.parameters(), lr=0.0, scale_parameter=False, relative_step=False)
    texts = [model.passage_tokens(text).ids for text in CORPUS]
    for _ in range(3):  # the same batch over and over: its square is the average
        losses = [module(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
                  * (len(ids) - 1) for ids in texts if len(ids) > 1]  # fmt: skip
        (torch.stack(losses).sum() / sum(len(ids) - 1 for ids in texts)).backward()
        optimizer.step()
        optimizer.zero_grad()
    names = {p: name for name, p in module.named_parameters()}
    path = tmp_path / "saved.safetensors"
    write_moments({names[p]: dict(s) for p, s in optimizer.state.items()}, path)
    for name, saved in load_moments(path, module).by_name.items():
        ours = model.second_moments[name].inverse_sqrt()
        reached = saved.inverse_sqrt() < 1e14  # tokens that no text holds have no gradient
        np.testing.assert_allclose(ours[reached], saved.inverse_sqrt()[reached], rtol=1e-4)


def test_the_cache_holds_facts(task: Task, tmp_path: Path) -> None:
    opened(make_model(tmp_path / "model", layers=1), task)
    (path,) = (task.passages.folder / "cache" / "moments").glob("*/manifest.json")
    assert set(json.loads(path.read_text())["facts"]) == {"moment_passages", "moment_batches"}


def test_earlier_checkpoints_are_estimated_likewise(task: Task, tmp_path: Path) -> None:
    """Fault: of a model with estimated moments, a checkpoint without a state was refused."""
    folder, first = (
        make_model(tmp_path / name, "llama", seed=seed, layers=1)
        for seed, name in enumerate(("model", "first"))
    )
    model = opened(folder, task, checkpoints=[str(first)], checkpoint_learning_rates=[1e-3])
    earlier = load_checkpoint(model.checkpoints[0], model)
    alone = opened(first, task)
    assert earlier.required_moments().by_name.keys() == alone.required_moments().by_name.keys()
    for name, moment in alone.required_moments().by_name.items():
        assert torch.equal(earlier.required_moments()[name].inverse_sqrt(), moment.inverse_sqrt())
        assert not torch.equal(model.required_moments()[name].inverse_sqrt(), moment.inverse_sqrt())
    own = {name: {"exp_avg_sq": torch.ones_like(one).float()}
           for name, one in earlier.module.named_parameters()}  # fmt: skip
    write_moments(own, first / MOMENTS)
    beside = load_checkpoint(model.checkpoints[0], model).required_moments()
    assert all((moment.value == 1).all() for moment in beside.by_name.values())  # type: ignore
