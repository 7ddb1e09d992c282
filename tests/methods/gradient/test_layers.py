"""Which layers carry the gradient, adapters among them, and what is not computed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from bench.core.errors import UserError
from bench.models.language_model import LanguageModel, pad, token_log_probs
from bench.models.loading import load_directory
from bench.tasks.base import Query
from methods.gradient.encoder import GradientEncoder
from methods.gradient.loss import backward_of
from methods.gradient.parameters import coverage, gradient_matrices
from methods.gradient.projection import projection
from methods.gradient.settings import Adapters, Output, Unsupported
from tests.fixtures.models import TEXTS, load, make_model
from tests.fixtures.switches import switches

DIM = 5
RANK = 3


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    found = load(make_model(tmp_path / "model", "llama", layers=2, num_key_value_heads=2))
    found.module.double()  # in the gradient's dtype, so that the encoder takes it and no copy
    return found


def encoder_of(model: LanguageModel, **options) -> GradientEncoder:
    return GradientEncoder(model, switches(**{"projection_dim": DIM, **options}))


def tokens_of(model: LanguageModel, count: int = 3) -> list:
    return [model.passage_tokens(text) for text in TEXTS[:count]]


def autograd_features(model: LanguageModel, matrices: list) -> Tensor:
    """Features by autograd, one text at a time, every gradient formed and projected."""
    model.module.requires_grad_(True)
    rows = []
    for tokens in tokens_of(model):
        model.module.zero_grad()
        (-token_log_probs(model.module, *pad([tokens], model.device)).sum()).backward()
        blocks: dict[int, Tensor] = {}
        for matrix in matrices:
            (m, n), gradient = matrix.shape, matrix.weight.grad
            left = projection(0, matrix.name, "out", DIM, m)
            right = projection(0, matrix.name, "in", DIM, n)
            part = (left @ gradient @ right.T).flatten()
            blocks[matrix.block] = blocks.get(matrix.block, 0) + part
        rows.append(torch.cat([blocks[block] for block in sorted(blocks)]))
    model.module.requires_grad_(False)
    return torch.stack(rows)


# ------------------------------------------------------------------ adapters


class LoraLinear(nn.Module):
    """A LoRA-adapted layer with the names and the arithmetic of peft's."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        m, n = base.weight.shape
        self.base_layer = base
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.5)})
        self.lora_A = nn.ModuleDict({"default": nn.Linear(n, RANK, bias=False).double()})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(RANK, m, bias=False).double()})
        self.lora_magnitude_vector = nn.ModuleDict()
        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        if self.merged:
            return y
        dropped = self.lora_dropout["default"](x)
        return y + 2.0 * self.lora_B["default"](self.lora_A["default"](dropped))


def adapt(model: LanguageModel) -> list[LoraLinear]:
    torch.manual_seed(1)
    adapted = []
    for layer in model.module.model.layers:
        for parent, name in ((layer.self_attn, "q_proj"), (layer.mlp, "down_proj")):
            adapted.append(LoraLinear(getattr(parent, name)))
            setattr(parent, name, adapted[-1])
    model.module.train()  # the encoder must switch the adapters' dropout off
    return adapted


@pytest.mark.parametrize("which", list(Adapters))
def test_adapted_layers_equal_autograd(model: LanguageModel, which: Adapters) -> None:
    adapt(model)
    encoder = encoder_of(model, adapters=which)
    matrices = gradient_matrices(model.module, switches(adapters=which))
    assert all(("lora_" in m.name) == (which is Adapters.lora) for m in matrices)
    assert len(matrices) == (8 if which is Adapters.lora else 14)
    expected = autograd_features(model, matrices)
    torch.testing.assert_close(encoder.encode(tokens_of(model)), expected, rtol=1e-9, atol=1e-9)


def test_base_gradient_is_that_of_the_merged_weight(model: LanguageModel) -> None:
    """Why `base` is the default: an adapted model and its merged twin have the same features."""
    adapted = adapt(model)
    apart = encoder_of(model).encode(tokens_of(model))
    with torch.no_grad():
        for layer in adapted:
            update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            layer.base_layer.weight += 2.0 * update
            layer.merged = True
    torch.testing.assert_close(encoder_of(model).encode(tokens_of(model)), apart)


def test_an_idle_adapter_is_named(model: LanguageModel) -> None:
    """A merged adapter, or one that is not active, would silently add nothing."""
    for layer in adapt(model):
        layer.merged = True
    encoder = encoder_of(model, adapters=Adapters.lora)
    with pytest.raises(UserError, match=r"q_proj\.lora_A\.default\.weight takes no part"):
        encoder.encode(tokens_of(model))


def test_no_adapter_is_refused(model: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"method\.adapters: no adapter matrix"):
        encoder_of(model, adapters=Adapters.lora)


def test_dora_is_refused(model: LanguageModel) -> None:
    """Its output is no linear function of the base weight."""
    adapt(model)[0].lora_magnitude_vector["default"] = nn.Linear(1, 1)
    with pytest.raises(UserError, match="DoRA"):
        encoder_of(model)


# ------------------------------------------------------------------ unsupported layers


@pytest.fixture
def mixture(tmp_path: Path, model: LanguageModel) -> LanguageModel:
    """A mixture whose experts are not given the numbers of those that a token is sent to."""
    config = AutoConfig.for_model(
        "llama4_text", hidden_size=32, intermediate_size=16, intermediate_size_mlp=16, head_dim=8,
        num_hidden_layers=2, num_local_experts=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=300, pad_token_id=0,
    )  # fmt: skip
    model.module = AutoModelForCausalLM.from_config(config).double()
    return model


def test_mixture_of_experts_is_named_and_refused(mixture: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"feed_forward\.experts\..*mixture-of-experts") as error:
        encoder_of(mixture)
    assert "method.unsupported=skip" in str(error.value)


def test_mixture_of_experts_is_skipped_if_asked(mixture: LanguageModel, capsys) -> None:
    encoder = encoder_of(mixture, unsupported=Unsupported.skip)
    assert "left out model.layers.0.feed_forward.experts" in capsys.readouterr().err
    matrices = gradient_matrices(mixture.module, switches(unsupported=Unsupported.skip))
    assert {m.name.split(".")[3] for m in matrices} == {"self_attn", "feed_forward"}
    assert {m.name.split(".")[4] for m in matrices if "self_attn" not in m.name} == {
        "router", "shared_expert",
    }  # fmt: skip
    expected = autograd_features(mixture, matrices)
    # transformers routes in float32 whatever the model's dtype.
    torch.testing.assert_close(encoder.encode(tokens_of(mixture)), expected, rtol=1e-5, atol=1e-5)


def test_what_is_left_out_is_told_by_share_and_name(mixture: LanguageModel) -> None:
    """Fault: a run with unsupported=skip looked like one of the whole model."""
    every, left = 0, 0
    for name, parameter in mixture.module.named_parameters():
        if ".layers." in name and parameter.ndim > 1:
            every += parameter.numel()
            left += parameter.numel() if ".experts." in name else 0
    found = coverage(mixture.module, switches())
    assert found["share"] == pytest.approx((every - left) / every, abs=1e-6)
    assert found["parameters"] == every - left
    assert found["left_out"] == [
        f"model.layers.0-1.feed_forward.experts.{name} (mixture-of-experts)"
        for name in ("gate_up_proj", "down_proj")
    ]
    one = coverage(mixture.module, switches(layers=[1]))
    assert one["share"] == found["share"]
    assert (
        one["left_out"][1] == "model.layers.1.feed_forward.experts.down_proj (mixture-of-experts)"
    )


def test_a_model_that_is_taken_whole_says_so(model: LanguageModel) -> None:
    found = coverage(model.module, switches())
    assert (found["share"], found["left_out"]) == (1.0, [])
    assert found["parameters"] == sum(
        math.prod(matrix.shape) for matrix in gradient_matrices(model.module, switches())
    )


class Special(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_a_linear_with_its_own_forward_is_refused(model: LanguageModel) -> None:
    model.module.model.layers[1].mlp.up_proj = Special(32, 64)
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj\.weight \(Special has a forward"):
        encoder_of(model)


def test_a_matrix_outside_linear_layers_is_refused(model: LanguageModel) -> None:
    model.module.model.layers[0].mlp.scale = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.scale .*neither nn.Linear nor Conv1D"):
        encoder_of(model)


def test_a_weight_of_two_layers_is_refused(model: LanguageModel) -> None:
    """Each would get a projection of its own, and their sum would be no gradient."""
    layers = model.module.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj\.weight \(shares its weight"):
        encoder_of(model)


def test_a_layer_that_is_used_twice_adds_up(model: LanguageModel) -> None:
    layers = model.module.model.layers
    layers[1].mlp = layers[0].mlp
    matrices = gradient_matrices(model.module, switches())
    assert len(matrices) == 11
    encoder = encoder_of(model)
    expected = autograd_features(model, matrices)
    torch.testing.assert_close(encoder.encode(tokens_of(model)), expected, rtol=1e-9, atol=1e-9)


def test_rows_that_mix_examples_are_refused(model: LanguageModel) -> None:
    class Drops(nn.Module):
        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.inner(x[:, :1]), self.inner(x[:, 1:])], dim=1)

    mlp = model.module.model.layers[0].mlp
    mlp.up_proj = Drops(mlp.up_proj)
    with pytest.raises(UserError, match=r"mlp\.up_proj\.inner\.weight gets 3 rows for"):
        encoder_of(model).encode(tokens_of(model))


# ------------------------------------------------------------------ what is not computed


def test_no_weight_gradient_and_nothing_below_the_first_matrices(model: LanguageModel) -> None:
    reached = []
    embeddings = model.module.get_input_embeddings()
    encoder = encoder_of(model)
    embeddings.register_forward_hook(lambda *args: reached.append(args[-1].requires_grad))
    encoder.encode(tokens_of(model))
    assert reached == [False]
    assert all(p.grad is None and not p.requires_grad for p in model.module.parameters())


def test_the_model_is_left_as_it_was(model: LanguageModel) -> None:
    def mine(x: Tensor) -> Tensor:
        return nn.functional.linear(x, first.weight)

    first = gradient_matrices(model.module, switches())[0].module
    first.forward = mine
    encoder = encoder_of(model)
    encoder.encode(tokens_of(model))
    assert first.forward is mine
    others = [m.module for m in gradient_matrices(model.module, switches())[1:]]
    assert not any("forward" in module.__dict__ for module in others)
    assert model.module(input_ids=torch.tensor([[1, 2]])).logits.requires_grad is False


def test_the_head_runs_on_labelled_positions_only(model: LanguageModel) -> None:
    shapes = []
    head = model.module.get_output_embeddings()
    head.register_forward_hook(lambda *args: shapes.append(tuple(args[-1].shape[:-1])))
    tokens = [*tokens_of(model), model.query_tokens(Query("q", "Al Grey plays the", "trombone"))]
    encoder_of(model).encode(tokens)
    assert shapes == [(1, sum(t.n_loss for t in tokens))]


def test_a_head_that_is_no_layer(model: LanguageModel, monkeypatch) -> None:
    """Some models multiply by the embeddings themselves, and all logits are computed."""
    expected = encoder_of(model).encode(tokens_of(model))
    monkeypatch.setattr(model.module, "get_output_embeddings", lambda: None)
    torch.testing.assert_close(encoder_of(model).encode(tokens_of(model)), expected)


def test_the_loss_is_that_of_token_log_probs(model: LanguageModel) -> None:
    """The causal shift stands in two places: they must agree."""
    tokens = [*tokens_of(model), model.query_tokens(Query("q", "Al Grey plays the", "trombone"))]
    ids, labels = pad(tokens, model.device)
    found = []
    for cheap in (True, False):
        hidden = []
        handle = model.module.get_input_embeddings().register_forward_hook(
            lambda *args: hidden.append(args[-1].requires_grad_(True))  # noqa: B023 - used at once
        )
        if cheap:
            backward_of(Output.loss, model.module, ids, labels)
        else:
            (-token_log_probs(model.module, ids, labels).sum()).backward()
        handle.remove()
        found.append(hidden[0].grad)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------ half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_frequencies_of_positions(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    """Fault: weights cast here rounded them, weights loaded in half precision did not."""
    folder = make_model(tmp_path / "rotary", "llama", layers=2)
    cast = load_directory("m", folder, device="cpu", gradient_dtype=dtype)
    loaded = load_directory("m", folder, device="cpu", dtype=dtype, gradient_dtype=dtype)
    frequencies = [
        buffer
        for model in (cast, loaded)
        for name, buffer in encoder_of(model, projection_dim=4).module.named_buffers()
        if name.endswith(".inv_freq")
    ]
    assert len(frequencies) == 2
    assert all(one.dtype == torch.float32 for one in frequencies)
    assert torch.equal(*frequencies)


@pytest.mark.parametrize("projection_dim", [DIM, None])
def test_half_precision_sums_in_float32(tmp_path: Path, projection_dim: int | None) -> None:
    folder = make_model(tmp_path / "half", "gpt_neox", layers=2)
    half = encoder_of(load(folder, torch.bfloat16), projection_dim=projection_dim)
    exact = encoder_of(load(folder), projection_dim=projection_dim)
    model = load(folder)
    found, expected = half.encode(tokens_of(model)), exact.encode(tokens_of(model))
    assert found.dtype == torch.float32
    assert not torch.equal(found, found.bfloat16().float()), "more digits than bfloat16 has"
    cosine = torch.cosine_similarity(found.double(), expected)
    assert (cosine > 0.99).all()
