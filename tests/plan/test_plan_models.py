"""What a plan says of a model, beside the model itself and what torch counts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

import bench.plan.model
import bench.plan.planning
from bench.core.errors import UserError
from bench.models.geometry import decoder_of
from bench.models.language_model import LanguageModel, Tokens
from bench.models.settings import Geometry
from bench.plan.model import architecture_of, calibrate, run_once
from bench.plan.planning import make_plan, plan_settings
from methods.gradient.codecs import make_codec
from methods.gradient.cost import (
    Architecture,
    backward_flops,
    block_sizes,
    encode_flops,
    forward_flops,
)
from methods.gradient.encoder import GradientEncoder
from methods.gradient.parameters import gradient_matrices
from methods.gradient.settings import Storage, Unsupported
from tests.fixtures.models import load, make_model
from tests.fixtures.switches import switches


def toy_model(folder: Path, layers: int = 6) -> LanguageModel:
    model = load(make_model(folder, "llama", layers=layers), torch.float32)
    model.module.set_attn_implementation("eager")  # type: ignore[operator]
    return model


def counter() -> FlopCounterMode:
    """Torch's counter, which knows neither products in place nor fused attention on a CPU."""

    def in_place(_: Any, left: tuple[int, ...], right: tuple[int, ...], **__: Any) -> int:
        return 2 * left[0] * left[1] * left[2] * right[2]

    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: in_place})


def counted(model: LanguageModel) -> Architecture:
    return architecture_of(model.module.config, switches(layer_blocks=2))


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("gpt_neox", {}), ("gpt2", {}), ("llama", {"tie_word_embeddings": True}), ("llama", {})],
)
def test_numbers_are_those_of_the_real_model(
    architecture: str, options: dict, tmp_path: Path
) -> None:
    model = load(make_model(tmp_path, architecture, layers=3, **options))
    found = counted(model)
    matrices = gradient_matrices(model.module, switches(layer_blocks=2))
    assert found.parameters == model.n_params
    assert found.matrices == tuple((*m.shape, m.block) for m in matrices)
    head = model.module.get_output_embeddings().weight.numel()  # type: ignore[operator, union-attr]
    assert found.multiplied == sum(m.weight.numel() for m in matrices) + head
    assert (found.n_layers, found.hidden_size, found.attention_width) == (3, 32, 32)
    assert found.context_length == 64
    assert (found.unwatched_layers, found.unwatched) == (0, 0)
    last = architecture_of(model.module.config, switches(layer_blocks=2, layers=[-1]))
    assert (last.unwatched_layers, last.unwatched) == (2, (found.multiplied - head) * 2 // 3)


def test_forward_and_backward_are_what_torch_counts(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    inputs = torch.randn(3, 40, 32, requires_grad=True)
    with counter() as counts:
        run_once(model.module.requires_grad_(False), inputs)
    found = counted(model)
    expected = 3 * (forward_flops(found, 40) + backward_flops(found, 40))
    assert counts.get_total_flops() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("projection_dim", [4, 16, None])
def test_encoding_is_what_torch_counts(projection_dim: int | None, tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    encoder = GradientEncoder(model, switches(projection_dim=projection_dim, layer_blocks=2))
    batch = [Tokens(list(range(1, 41)), loss_from=1) for _ in range(3)]
    with counter() as counts:
        encoder.encode(batch)
    expected = 3 * encode_flops(counted(model), 40, projection_dim)
    assert counts.get_total_flops() == pytest.approx(expected, rel=0.05)
    assert block_sizes(counted(model), projection_dim) == encoder.block_sizes


# ------------------------------------------------------------------ mixtures of experts

SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 100, "pad_token_id": 0,
}  # fmt: skip
# Of eight experts; the last two are those of every token beside it, and those that all compute.
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24},
    "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 2},  # biases of two dimensions
    "qwen2_moe": {
        "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
    },
    "llama4_text": {
        "num_local_experts": 8, "num_experts_per_tok": 1, "intermediate_size_mlp": 48,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_count_as_torch_counts_them(name: str) -> None:
    """Experts count as far as tokens are sent to them; router and shared experts in full."""
    config = AutoConfig.for_model(name, **SMALL, **EXPERTS[name])
    module = AutoModelForCausalLM.from_config(
        config, experts_implementation="eager", attn_implementation="eager"
    )
    inputs = torch.randn(3, 20, 32, requires_grad=True)
    with counter() as counts:
        run_once(module.eval().requires_grad_(False), inputs)
    found = architecture_of(config, switches(layer_blocks=2, unsupported=Unsupported.skip))
    expected = 3 * (forward_flops(found, 20) + backward_flops(found, 20))
    assert counts.get_total_flops() == pytest.approx(expected, rel=0.02)
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())
    matrices = gradient_matrices(module, switches(layer_blocks=2, unsupported=Unsupported.skip))
    assert found.matrices == tuple((*m.shape, m.block) for m in matrices)


@pytest.mark.parametrize("projection_dim", [4, None])
def test_encoding_of_a_mixture_is_what_torch_counts(
    projection_dim: int | None, tmp_path: Path
) -> None:
    """Of its experts, those that a token is sent to, and their projections."""
    options = {**EXPERTS["mixtral"], "num_key_value_heads": 2}
    model = load(make_model(tmp_path, "mixtral", layers=3, **options), torch.float32)
    model.module.set_attn_implementation("eager")  # type: ignore[operator]
    model.module.set_experts_implementation("eager")  # type: ignore[operator]
    encoder = GradientEncoder(model, switches(projection_dim=projection_dim, layer_blocks=2))
    batch = [Tokens(list(range(1, 41)), loss_from=1) for _ in range(3)]
    with counter() as counts:
        encoder.encode(batch)
    found = architecture_of(model.module.config, switches(layer_blocks=2))
    assert sorted(set(found.met)) == [2 / 8, 1.0]
    expected = 3 * encode_flops(found, 40, projection_dim)
    assert counts.get_total_flops() == pytest.approx(expected, rel=0.05)
    assert block_sizes(found, projection_dim) == encoder.block_sizes


def test_experts_below_the_chosen_layers_count_alike() -> None:
    config = AutoConfig.for_model("mixtral", **SMALL, **EXPERTS["mixtral"])
    found = architecture_of(
        config, switches(layer_blocks=2, unsupported=Unsupported.skip, layers=[-1])
    )
    head = 32 * 100
    assert (found.unwatched_layers, found.unwatched) == (2, (found.multiplied - head) * 2 // 3)


# name → parameters, and those of them that a token meets, as published; embeddings are looked up.
PUBLISHED = {"mixtral": (46.7e9, 12.9e9, 0.13e9), "gpt_oss": (116.83e9, 5.13e9, 0)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_of_mixtures(name: str) -> None:
    """transformers' defaults are Mixtral 8x7B and gpt-oss-120b."""
    every, active, looked_up = PUBLISHED[name]
    found = architecture_of(AutoConfig.for_model(name), switches(unsupported=Unsupported.skip))
    assert found.parameters == pytest.approx(every, rel=0.005)
    assert found.multiplied == pytest.approx(active - looked_up, rel=0.005)


def test_experts_that_no_number_is_given_of_are_refused() -> None:
    config = AutoConfig.for_model("deepseek_v2", num_hidden_layers=2)  # its default is none
    with pytest.raises(UserError, match=r"model: .*how many experts.*num_experts_per_tok"):
        architecture_of(config, switches(layer_blocks=2, unsupported=Unsupported.skip))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_mixture_is_calibrated(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.plan.model, "_SECONDS", 0.0)
    monkeypatch.setattr(bench.plan.model, "_RUN_FLOPS", {"cpu": 1e7})
    config = AutoConfig.for_model("mixtral", **SMALL, **EXPERTS["mixtral"])
    found = calibrate(config, dtype=dtype, device="cpu", tokens=10, batch_tokens=20)
    assert found.flops_per_second > 1e4


# ------------------------------------------------------------------ calibration


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_calibration_runs_a_narrowed_layer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.plan.model, "_LAYER_PARAMETERS", {"cpu": 2**14})
    monkeypatch.setattr(bench.plan.model, "_SECONDS", 0.0)
    config = AutoConfig.for_model(
        name, hidden_size=64, num_hidden_layers=5, num_attention_heads=4, vocab_size=40,
        intermediate_size=128, max_position_embeddings=32, pad_token_id=39,
    )  # fmt: skip
    found = calibrate(config, dtype=torch.float32, device="cpu", tokens=10, batch_tokens=20)
    assert found.flops_per_second > 1e5
    assert re.fullmatch(r"one layer (16|32) wide, 20 tokens, float32 on cpu", found.how)
    assert (config.hidden_size, config.num_hidden_layers) == (64, 5)  # the caller's is untouched


def test_a_geometry_is_the_model_that_it_describes() -> None:
    settings, _ = plan_settings(["model=154m", "model.geometry.num_layers=2"])
    geometry = Geometry(**settings.model["geometry"])
    small = replace(geometry, vocab_size=100, hidden_size=48, intermediate_size=80)
    built = decoder_of(small)
    module = AutoModelForCausalLM.from_config(built)
    assert architecture_of(built, switches()).parameters == sum(
        p.numel() for p in module.parameters()
    )


# name → layers, width and inner width
SIZES = {"154m": (12, 768, 2752), "1b": (16, 2048, 6144), "8b": (32, 4096, 14336)}


@pytest.mark.parametrize("name", SIZES)
def test_a_planned_geometry_in_full(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes, blocks and bytes are those counted by hand, without memory for weights."""
    monkeypatch.setattr(
        bench.plan.planning, "calibrate", lambda *_, **__: bench.plan.model.Speed(1e9, "")
    )
    n_layers, hidden, inner = SIZES[name]
    given = ("plan.passages=1000", "plan.queries=1000", "plan.tokens_per_passage=20")
    plan = make_plan(*plan_settings([f"model={name}", "method=trackstar", *given]))
    expected = []
    for layer in range(n_layers):
        group = layer * 8 // n_layers  # eight groups of consecutive layers
        expected += [(hidden, hidden, 2 * group)] * 4  # queries, keys, values, output
        expected += [(inner, hidden, 2 * group + 1)] * 2  # gate and up
        expected += [(hidden, inner, 2 * group + 1)]
    assert sorted(plan.architecture.matrices) == sorted(expected)
    assert plan.blocks == [64 * 64] * 16, "the paper's 65,536 dimensions"
    assert plan.storage["fp32"] == 4 * 65_536
    weights = sum(m * n for m, n, _ in expected)
    norms = (2 * n_layers + 1) * hidden
    assert plan.architecture.parameters == weights + norms + 2 * 32_000 * hidden
    assert plan.architecture.multiplied == weights + 32_000 * hidden


@pytest.mark.slow
def test_two_layers_of_1b_are_encoded_as_planned() -> None:
    """At its real width, an encoder makes of it what a plan says."""
    settings, _ = plan_settings(["model=1b", "model.geometry.num_layers=2"])
    geometry = replace(Geometry(**settings.model["geometry"]), vocab_size=100, context_length=16)
    built = decoder_of(geometry)
    module = AutoModelForCausalLM.from_config(built).eval().requires_grad_(False)
    model = LanguageModel("toy", module, None, 16, "")  # type: ignore[arg-type]
    encoder = GradientEncoder(model, switches(projection_dim=64))
    features = encoder.encode([Tokens(list(range(1, 9)), loss_from=1)])
    found = architecture_of(built, switches())
    assert found.matrices == tuple(
        (*m.shape, m.block) for m in gradient_matrices(module, switches())
    )
    assert block_sizes(found, 64) == encoder.block_sizes
    assert features.shape == (1, sum(encoder.block_sizes))
    assert make_codec(Storage.fp32, encoder.dim).bytes_per_row == features.nbytes
    assert (features.view(len(encoder.block_sizes), -1).abs().amax(1) > 0).all()
