"""The plan of a training: numbers counted by hand, without memory for weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli.main import main
from bench.core.errors import UserError
from bench.models.padding import most_tokens
from bench.plan.planning import plan_settings
from bench.plan.training import TrainingPlan, plan_training
from tests.fixtures.models import make_model

Capture = pytest.CaptureFixture[str]
CORPUS = ("plan.passages=1000000", "plan.tokens_per_passage=100", "plan.queries=1")
SIZES = {"154m": (12, 768, 2752), "1b": (16, 2048, 6144), "8b": (32, 4096, 14336)}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TDABENCH_CACHE", str(tmp_path / "cache"))


def planned(*words: str) -> TrainingPlan:
    return plan_training(*plan_settings(list(words)))


@pytest.mark.parametrize("name", SIZES)
def test_a_size_in_full(name: str) -> None:
    layers, hidden, inner = SIZES[name]
    plan = planned(f"model={name}", *CORPUS, "plan.device_tflops=100")
    matrices = layers * (4 * hidden * hidden + 3 * hidden * inner) + 32_000 * hidden
    parameters = matrices + 32_000 * hidden + (2 * layers + 1) * hidden
    assert plan.parameters == plan.trained == parameters
    assert plan.tokens == 1e8
    assert plan.steps == 382  # 1e8 tokens in steps of 16 passes of 16,384
    # 6 FLOPs a weight and token, and 12 a T^2 L a text for the two products of attention.
    flops = 1e6 * (6 * matrices * 100 + 12 * hidden * 100**2 * layers)
    assert plan.flops == pytest.approx(flops)
    assert plan.tokens_per_second == pytest.approx(1e14 * 1e8 / flops)
    assert plan.hours == pytest.approx(flops / 1e14 / 3600)
    memory = plan.memory
    assert memory["weights"] == memory["gradients"] == 4 * parameters
    assert memory["weights in half precision"] == 2 * parameters
    square, wide = 4 * (hidden + hidden), 3 * (hidden + inner)
    sides = layers * (square + wide) + 2 * (32_000 + hidden) + (2 * layers + 1) * hidden
    assert memory["state of adafactor"] == 4 * sides
    assert plan.disk == 4 * parameters + 4 * sides


def test_adam_keeps_two_numbers_a_parameter() -> None:
    plan = planned("model=154m", "model.train.optimizer=adam", *CORPUS, "plan.device_tflops=1")
    assert plan.memory["state of adam"] == 8 * plan.parameters


def test_what_is_computed_again_costs_a_forward_pass_and_spares_memory() -> None:
    words = ("model=8b", *CORPUS, "plan.device_tflops=100")
    kept, again = planned(*words), planned(*words, "model.train.recompute=true")
    assert again.flops == pytest.approx(kept.flops * 4 / 3, rel=0.01)
    name = "activations of a pass, about"
    assert again.memory[name] < kept.memory[name] / 10


def test_a_pass_over_a_number_of_texts_holds_so_many_logits() -> None:
    words = ("model=154m", "model.train.batch_tokens=null", *CORPUS, "plan.device_tflops=1")
    few, many, more = (
        planned(*words, f"model.train.batch_size={n}").memory["logits of a pass, about"]
        for n in (10, 1_000, 10_000)
    )
    assert few < many == more
    assert many / few == pytest.approx(most_tokens(32_000) / (10 * 100))


def test_tokens_a_second_that_are_given() -> None:
    plan = planned("model=1b", *CORPUS, "plan.tokens_per_second=20000")
    assert plan.tokens_per_second == pytest.approx(20_000)
    assert plan.hours == pytest.approx(1e8 / 20_000 / 3600)


def test_passages_a_pass_make_steps_too(tmp_path: Path) -> None:
    init = make_model(tmp_path / "init", "llama", layers=2)
    words = ("model=finetuned", f"model.init={init}", "plan.passages=1000", "plan.queries=1",
             "plan.tokens_per_passage=20", "plan.tokens_per_second=1")  # fmt: skip
    whole = planned(*words, "model.train.batch_size=8", "model.train.accumulate=4")
    assert whole.steps == 10 * 32  # 1,000 passages in steps of 32, ten epochs at the most
    lora = planned(*words, "model.train.lora.rank=3")
    assert lora.trained == 2 * 3 * (4 * (32 + 32) + 3 * (32 + 64))
    assert lora.parameters == whole.parameters
    assert lora.memory["gradients"] == 4 * lora.trained


def test_the_command_trains_nothing(tmp_path: Path, capsys: Capture) -> None:
    words = ["train", "--dry-run", "model=8b", *CORPUS, "plan.device_tflops=400"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith("plan: train 8b on factworld\n")
    for line in ("parameters                   8,047,038,464", "steps", "tokens a second", "hours"):
        assert line in out
    assert "at 400 TFLOP/s sustained (plan.device_tflops)" in out
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_others_has_no_training(tmp_path: Path) -> None:
    init = make_model(tmp_path / "init", layers=1)
    with pytest.raises(UserError, match="is not trained here"):
        planned("model=hf", f"model.path={init}", *CORPUS)
