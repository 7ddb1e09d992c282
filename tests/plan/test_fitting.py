"""What phases hold in memory: the formulas beside tensors that were counted, and what fits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.cli.main import main
from bench.plan.fitting import PROJECTIONS, SCALES, STEPPED, WEIGHTS, PhaseMemory
from bench.plan.planning import Plan, make_plan, plan_settings
from methods.gradient.encoder import GradientEncoder
from metrics.optimizer_step import OptimizerStep
from tests.fixtures.models import TEXTS, directory_source, make_model, with_moments
from tests.fixtures.switches import switches

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
# Two sizes and two families, the second with tied embeddings; half of each fits into the room.
SIZES = {"llama": (2, 16, "44KB"), "gpt2": (3, 32, "100KB")}


def planned(folder: Path, *words: str) -> Plan:
    given = ("plan.passages=100", "plan.queries=10", "plan.tokens_per_passage=20")
    of_model = ("model=hf", f"model.path={folder}", "model.optimizer_state=null")
    method = ("method=trackstar", "method.projection_dim=4", "plan.device_tflops=1")
    return make_plan(*plan_settings([*of_model, *method, *given, *words]))


def phase(plan: Plan, start: str) -> PhaseMemory:
    (only,) = [one for one in plan.phases if one.name.startswith(start)]
    return only


@pytest.mark.parametrize("is_spread", [False, True])
@pytest.mark.parametrize("family", list(SIZES))
def test_what_is_planned_is_what_is_held(family: str, is_spread: bool, tmp_path: Path) -> None:
    layers, hidden, room = SIZES[family]
    folder = make_model(tmp_path / family, family, layers=layers, hidden=hidden)
    settings = {"device_map": "auto", "cpu_memory": room} if is_spread else {}
    source = directory_source(folder, **settings)
    model = with_moments(source.load(None, Path(), "cpu"), tmp_path, "adafactor")  # type: ignore[arg-type]
    assert any(one.is_meta for one in model.module.parameters()) is is_spread
    plan = planned(folder, *["plan.devices=2", "plan.model_devices=2"] * is_spread)

    encoder = GradientEncoder(model, switches(projection_dim=4), model.second_moments)
    held = [one for made in encoder._collectors for one in vars(made).values()]
    encoded = phase(plan, "encode").by_layer
    assert encoded[WEIGHTS] == sum(one.nbytes for one in model.module.parameters())
    assert encoded[PROJECTIONS] == sum(one.nbytes for one in held if isinstance(one, Tensor))

    step = OptimizerStep(model, 1e-3, model.second_moments, 1.0, 0)
    stepped, *_ = step._stepped([model.passage_tokens(TEXTS[0])])
    patched = phase(plan, "tail-patch").by_layer
    assert patched[STEPPED] == sum(one.nbytes for one in stepped.values())
    assert patched[SCALES] == sum(one.nbytes for one in step._scales.values())
    assert (patched[SCALES] == 0) is is_spread


def test_another_dtype_of_gradients_is_a_copy_more(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "llama", layers=2, hidden=16)
    single = phase(planned(folder), "encode").by_layer[WEIGHTS]
    double = phase(planned(folder, "model.gradient_dtype=float64"), "encode").by_layer[WEIGHTS]
    assert double == 3 * single


def test_layers_are_spread_whole_and_the_rest_is_on_one_device() -> None:
    one = PhaseMemory(
        "of four layers", {"weights": 80, "gradients": 40}, {"logits": 10}, n_layers=4
    )
    assert [one.fullest(devices) for devices in (1, 2, 3, 4, 8)] == [130, 70, 70, 40, 40]
    assert [one.least_devices(memory) for memory in (130, 129, 70, 69, 40, 39)] == [
        1, 2, 2, 4, 4, None,
    ]  # fmt: skip


def test_devices_of_one_model_compute_one_after_the_other(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "llama", layers=2, hidden=16)
    whole, spread = (
        planned(folder, "plan.devices=8"),
        planned(folder, "plan.devices=8", "plan.model_devices=4"),
    )
    (encode,) = [step for step in whole.passes if step.name.startswith("encode the corpus")]
    assert spread.hours(encode) == pytest.approx(4 * whole.hours(encode))


def test_devices_that_are_no_whole_number_of_models_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "model=8b", "method=trackstar", "plan.model_devices=4"]) == 2
    assert "plan.devices: 1 devices are no multiple of 4" in capsys.readouterr().err


def test_what_does_not_fit_is_said_with_the_devices_that_it_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, after = PAGE.read_text(encoding="utf-8").split("<!-- fits_70b -->\n")
    command = re.findall(r"    tdabench (plan .*)", before.replace("\\\n", " "))[-1]
    assert main(command.split()) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    lines = [line[4:] for line in after.split("\n<!-- /fits_70b -->")[0].splitlines()]
    assert len(lines) == 5
    first = printed.index(lines[0])
    assert lines == printed[first : first + len(lines)]
    assert [line.split("  ")[-1].strip() for line in lines[2:]][-1].isdigit()


def test_bfloat16_halves_what_lies_with_the_layers(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "llama", layers=2, hidden=16)
    halves = planned(folder, "model.dtype=bfloat16", "model.gradient_dtype=bfloat16")
    for start in ("encode", "tail-patch"):
        wide = phase(planned(folder), start).by_layer
        narrow = phase(halves, start).by_layer
        assert {name: 2 * size for name, size in narrow.items()} == wide
    assert torch.bfloat16.itemsize * 2 == torch.float32.itemsize
