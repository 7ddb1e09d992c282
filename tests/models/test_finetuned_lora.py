"""Adapters that are trained here: they alone move, as explicit matrices would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.core.errors import UserError
from bench.models.beginning import Occasion
from bench.models.checkpoints import load_checkpoint
from bench.models.language_model import LanguageModel, target_log_probs
from bench.models.parameter_names import adapter_names
from bench.models.training import Training
from bench.models.tuning import SavedWeights
from bench.storage.hashes import file_sha256
from bench.tasks.base import Query, Task
from metrics.optimizer_step import OptimizerStep
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, finetuned_source, make_model

QUERIES = (Query("q0", "Al Grey plays the", "trombone"), Query("q1", "Marla Venn", "was born"))
RANK, ALPHA = 3, 16.0


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "task", TEXTS, QUERIES)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("init"), "llama", layers=2)


def trained(init: Path, task: Task, cache: str = "a", **settings: Any) -> LanguageModel:
    source = finetuned_source(init, rank=RANK, **settings)
    return source.load(task, task.passages.folder / cache, "cpu")


def base_name(name: str) -> str:
    return name.replace(".base_layer", "")


@pytest.mark.parametrize("targets", [[], ["q_proj", "v_proj"]])
def test_the_base_stays(init: Path, task: Task, targets: list[str]) -> None:
    before = {path.name: file_sha256(path) for path in init.iterdir()}
    model = trained(init, task, targets=targets, epochs=3, learning_rate=1e-2)
    assert {path.name: file_sha256(path) for path in init.iterdir()} == before
    base = dict(AutoModelForCausalLM.from_pretrained(init).named_parameters())
    own = adapter_names(model.module)
    layers = 2 if targets else 7  # linear layers of a block
    assert len(own) == 2 * 2 * layers
    seen = set()
    for name, value in model.module.named_parameters():
        if name in own:
            assert value.abs().max() > 0, "it has moved"
        else:
            assert torch.equal(value, base[base_name(name)])
            seen.add(base_name(name))
    assert seen == set(base)
    assert set(model.second_moments.by_name) == set(own)


def test_a_step_is_that_of_explicit_matrices(init: Path, task: Task, tmp_path: Path) -> None:
    """The oracle: plain weights W + alpha / rank B A, and Adam by its formula."""
    rate = 1e-2
    settings: dict[str, Any] = {
        "targets": ["q_proj", "down_proj"], "optimizer": "adam", "learning_rate": rate,
        "epochs": 1, "batch_size": 6, "last_share": 1.0,
    }  # fmt: skip
    model = trained(init, task, **settings)
    config = finetuned_source(init, rank=RANK, **settings).config
    first = SavedWeights(config).training(Occasion(task, tmp_path, "cpu")).parameters()
    first = {name: value.detach().clone().requires_grad_() for name, value in first.items()}
    plain = AutoModelForCausalLM.from_pretrained(init)
    weights = {name: value.detach() for name, value in plain.named_parameters()}
    for name, lower in first.items():
        if ".lora_A." in name:
            upper = first[name.replace(".lora_A.", ".lora_B.")]
            assert torch.count_nonzero(upper) == 0
            whole = f"{name.split('.lora_A.')[0]}.weight"
            weights[whole] = weights[whole] + ALPHA / RANK * upper @ lower
    tokenizer = AutoTokenizer.from_pretrained(init)
    total, n_tokens = torch.zeros(()), 0
    for text in sorted(TEXTS, key=len):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        logits = functional_call(plain, weights, kwargs={"input_ids": ids}).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        n_tokens += ids.shape[1] - 1
    (total / n_tokens).backward()
    for name, value in model.module.named_parameters():
        if name not in first:
            continue
        slope = first[name].grad
        assert slope is not None
        want = first[name].detach() - rate * slope / (slope.abs() + 1e-8)
        clear = slope.abs() > 1e-3 * slope.abs().max()
        if ".lora_A." in name:  # B is nought, so A has no slope yet
            assert not clear.any()
            assert torch.equal(value, first[name])
        else:
            assert clear.float().mean() > 0.3
            torch.testing.assert_close(value[clear], want[clear], rtol=1e-3, atol=1e-6)


def test_the_folder_is_one_that_peft_reads(init: Path, task: Task) -> None:
    source = finetuned_source(init, rank=RANK, epochs=2, learning_rate=1e-2)
    folder = source.train(task, task.passages.folder / "a", "cpu")
    assert not (folder / "model.safetensors").exists(), "the base is where it was"
    model = source.load(task, task.passages.folder / "a", "cpu")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(init), folder).eval()
    ids = torch.tensor([model.passage_tokens(TEXTS[0]).ids])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model.module(ids).logits)
        plain = AutoModelForCausalLM.from_pretrained(init)(ids).logits
    assert not torch.allclose(plain, model.module(ids).logits, atol=1e-3)
    written = json.loads((folder / "adapter_config.json").read_text())
    assert written["target_modules"] == sorted(written["target_modules"])
    assert written["base_model_name_or_path"] is None, "no path of this machine"


def test_checkpoints_are_adapters_of_earlier_times(init: Path, task: Task) -> None:
    settings: dict[str, Any] = {"epochs": 3, "learning_rate": 1e-2}
    model = trained(init, task, **settings)
    assert len(model.checkpoints) == 2
    said = [model.training["before"], *model.training["epochs"]]
    tokens = [model.query_tokens(query) for query in QUERIES]
    models = [*(load_checkpoint(one, model) for one in model.checkpoints), model]
    found = [np.exp(target_log_probs(one, tokens)[0]).mean() for one in models]
    np.testing.assert_allclose(found, [log["target_probability"] for log in said[1:]], rtol=1e-5)
    assert len({one.sha256 for one in models}) == 3
    assert len({one.second_moments.sha256 for one in models if one.second_moments}) == 3
    again = trained(init, task, checkpoint=1, **settings)
    assert again.training["epochs"] == model.training["epochs"][:1]


def test_a_step_of_tail_patch_moves_the_adapter_alone(init: Path, task: Task) -> None:
    model = trained(init, task, epochs=2, learning_rate=1e-2)
    step = OptimizerStep(model, 1e-3, model.second_moments, None)
    assert set(step._weights) == set(adapter_names(model.module))
    assert set(step._weights) == {n for n, _ in model.module.named_parameters() if ".lora_" in n}


def test_a_stopped_training_of_an_adapter_goes_on(
    init: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = finetuned_source(init, rank=RANK, epochs=2, save_steps=2, batch_size=1)
    whole = source.train(task, tmp_path / "whole", "cpu")
    step, done = Training._step, []

    def stopping(self: Training, rows: Any) -> float:
        done.append(rows)
        if len(done) == 10:
            raise KeyboardInterrupt
        return step(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            source.train(task, tmp_path / "stopped", "cpu")
    (state,) = (tmp_path / "stopped").rglob("resume-*.safetensors")
    assert state.stat().st_size < (init / "model.safetensors").stat().st_size, "the base is not in"
    folder = source.train(task, tmp_path / "stopped", "cpu")
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert [file_sha256(folder / n) for n in names] == [file_sha256(whole / n) for n in names]


def test_what_adapters_change_is_in_the_key(init: Path, task: Task) -> None:
    full = finetuned_source(init).identity(task)
    assert finetuned_source(init, targets=["q_proj"]).identity(task) == full, "none is trained"
    keys = {
        finetuned_source(init, **change).identity(task)
        for change in ({"rank": 2}, {"rank": 3}, {"rank": 3, "targets": ["q_proj"]})
    }
    assert len(keys | {full}) == 4


def test_layers_that_are_not_there_are_named(init: Path, task: Task) -> None:
    with pytest.raises(
        UserError, match=r"model\.train\.lora\.targets=\['q_porj'\]: no adapter can"
    ):
        trained(init, task, targets=["q_porj"])
    with pytest.raises(UserError, match=r"model\.train\.lora\.rank: expected at least 1, found 0"):
        finetuned_source(init, rank=0).check()
