"""A folder of peft on its base is the model that was saved, and anything else is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.core.errors import UserError
from bench.models.adapters import CONFIG, WEIGHTS, adapter_sha256, with_adapter
from bench.models.loading import load_directory, load_module
from bench.models.parameter_names import adapter_names, bare_name
from tests.fixtures.adapters import make_adapter
from tests.fixtures.models import make_model

IDS = torch.tensor([[5, 9, 2, 77, 31, 8]])


def base_of(folder: Path, architecture: str = "llama", **options: Any) -> Path:
    return make_model(folder / "base", architecture, layers=2, **options)


def loaded(base: Path, adapter: Path, dtype: torch.dtype = torch.float32) -> Any:
    return with_adapter(load_module(base, dtype, torch.device("cpu")), adapter)


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "every linear layer": ("llama", {"target_modules": "all-linear"}),
    "a pattern": ("llama", {"target_modules": r".*layers\.1\.self_attn\.(q|v)_proj"}),
    "some layers": ("llama", {"layers_to_transform": [1]}),
    "ranks": ("llama", {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"q_proj": 7}}),
    "rank-stabilised": ("llama", {"use_rslora": True, "r": 4}),
    "gaussian": ("llama", {"init_lora_weights": "gaussian"}),
    "dropout": ("llama", {"lora_dropout": 0.5}),
    "head": ("llama", {"modules_to_save": ["lm_head"]}),
    "mlp": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "conv1d": ("gpt2", {}),
    "conv1d, told so": ("gpt2", {"fan_in_fan_out": True}),
    "biases of its layers": ("gpt2", {"bias": "lora_only"}),
    "every bias": ("gpt_neox", {"bias": "all"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_the_saved_model_says(tmp_path: Path, kind: str) -> None:
    architecture, settings = KINDS[kind]
    base = base_of(tmp_path, architecture)
    model = make_adapter(base, tmp_path / "adapter", **settings)
    module = loaded(base, tmp_path / "adapter")
    with torch.no_grad():
        want, found = (one(input_ids=IDS).logits for one in (model, module))
        plain = load_module(base, torch.float32, torch.device("cpu"))(input_ids=IDS).logits
    assert torch.equal(found, want)
    assert not torch.allclose(found, plain, atol=1e-2), "it is active"
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not module.training
    trained = [bare_name(name) for name, one in model.named_parameters() if one.requires_grad]
    assert [bare_name(name) for name in adapter_names(module)] == trained
    assert [bare_name(name) for name in adapter_names(model)] == trained


def test_a_tied_head_that_was_saved_is_tied_no_more(tmp_path: Path) -> None:
    """peft trains a copy of the head; the embedding stays the base's."""
    base = base_of(tmp_path, tie_word_embeddings=True)
    model = make_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    module = loaded(base, tmp_path / "adapter")
    assert not torch.equal(module.lm_head.weight, module.model.embed_tokens.weight)
    with torch.no_grad():
        assert torch.equal(module(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_it_is_of_the_bases_dtype_and_draws_nothing(tmp_path: Path) -> None:
    base = base_of(tmp_path)
    make_adapter(base, tmp_path / "adapter")
    before = torch.get_rng_state()
    module = loaded(base, tmp_path / "adapter", torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), before)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_a_model_without_adapter_has_none_of_its_names(tmp_path: Path) -> None:
    assert adapter_names(load_module(base_of(tmp_path), torch.float32, torch.device("cpu"))) == []


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("written", "bare"),
    [
        ("model.layers.0.q_proj.weight", "model.layers.0.q_proj.weight"),
        ("model.layers.0.q_proj.base_layer.weight", "model.layers.0.q_proj.weight"),
        ("base_model.model.model.layers.0.q.lora_A.weight", "model.layers.0.q.lora_A.weight"),
        ("base_model.model.model.layers.0.q.lora_A.mine.weight", "model.layers.0.q.lora_A.weight"),
        ("module.base_model.model.q.lora_B.default.weight", "q.lora_B.weight"),
        ("_fsdp_wrapped_module.base_model.model.q.base_layer.bias", "q.bias"),
        ("base_model.model.emb.lora_embedding_A.default", "emb.lora_embedding_A"),
        ("base_model.model.emb.lora_embedding_A", "emb.lora_embedding_A"),
        ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight"),
        ("model._orig_mod.layers.0.module.weight", "model.layers.0.weight"),
    ],
)
def test_names_without_what_wrappers_put_in(written: str, bare: str) -> None:
    assert bare_name(written) == bare


# ------------------------------------------------------------------ what is refused


def edit(adapter: Path, **fields: Any) -> None:
    path = adapter / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def retensor(adapter: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(adapter / WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / WEIGHTS)


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def pickled(adapter: Path) -> None:
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickle": (pickled, r"has no adapter_model\.safetensors, and adapter_model\.bin is a pickle"),
    "no configuration": (lambda a: (a / CONFIG).unlink(), r"has no adapter_config\.json"),
    "tuner": (lambda a: edit(a, peft_type="LOHA"), r"json: peft_type is 'LOHA', and LORA is read"),
    "DoRA": (lambda a: edit(a, use_dora=True), r"use_dora is True, and plain LoRA is read"),
    "PiSSA": (
        lambda a: edit(a, init_lora_weights="pissa_niter_4"),
        "init_lora_weights is 'pissa_niter_4', which changed weights of the base",
    ),
    "tokens": (
        lambda a: edit(a, trainable_token_indices=[3]), r"trainable_token_indices is \[3\]"
    ),
    "experts": (
        lambda a: edit(a, target_parameters=["experts.down_proj"]), "target_parameters is"
    ),
    "later field": (lambda a: edit(a, use_something_new={"a": 1}), "use_something_new is"),
    "rank": (lambda a: edit(a, r=4), r"tensors of another shape: .*lora_A\.weight \[3, 32\] inst"),
    "size": (lambda a: edit(a, r=1 << 40), "r is 1,099,511,627,776, and 1,048,576 is the most"),
    "no target": (lambda a: edit(a, target_modules=["c_attn"]), "cannot be put onto the model"),
    "one target less": (
        lambda a: edit(a, target_modules=["q_proj"]),
        r"tensors that have no place in the model: .*down_proj.* and 1 more",
    ),
    "one tensor less": (
        lambda a: retensor(a, lambda t: t.pop(A)),
        r"tensors are missing: model\.layers\.0\.self_attn\.q_proj\.lora_A\.default\.weight",
    ),
    "not finite": (
        lambda a: retensor(a, lambda t: t[A].fill_(float("nan"))),
        r"q_proj\.lora_A\.default\.weight holds NaN",
    ),
    "saved module": (
        lambda a: edit(a, modules_to_save=["lm_head"]), "modules_to_save names .*: lm_head"
    ),
    "no safetensors": (lambda a: (a / WEIGHTS).write_text("x"), "cannot be put onto the model"),
    "no object": (lambda a: (a / CONFIG).write_text("[]"), "is no JSON object"),
    "no numbers": (lambda a: edit(a, r="many"), "cannot be put onto the model"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_plain_lora_of_this_model_is_one_line(tmp_path: Path, kind: str) -> None:
    change, message = WRONG[kind]
    base, adapter = base_of(tmp_path), tmp_path / "adapter"
    make_adapter(base, adapter)
    change(adapter)
    with pytest.raises(UserError, match=message) as caught:
        loaded(base, adapter)
    assert str(adapter) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_base_that_a_file_names_is_never_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = base_of(tmp_path), tmp_path / "adapter"
    make_adapter(base, adapter)
    edit(adapter, base_model_name_or_path="someone/some-model", revision="main")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    loaded(base, adapter)


def test_an_adapters_folder_is_no_model(tmp_path: Path) -> None:
    """Fault: with peft at hand transformers takes the base that the file names, or both as one."""
    base, adapter = base_of(tmp_path), tmp_path / "adapter"
    make_adapter(base, adapter)
    with pytest.raises(UserError, match=r"holds an adapter of peft.*set model.adapter to it"):
        load_directory("toy", adapter, device="cpu")
    (base / CONFIG).write_bytes((adapter / CONFIG).read_bytes())
    (base / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes())
    with pytest.raises(UserError, match="holds an adapter of peft"):
        load_module(base, torch.float32, torch.device("cpu"))


def test_without_peft_it_says_how_to_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = base_of(tmp_path), tmp_path / "adapter"
    make_adapter(base, adapter)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"needs the package peft.*pip install 'tdabench\[peft\]'"):
        loaded(base, adapter)


def test_the_hash_is_of_the_two_files(tmp_path: Path) -> None:
    base, one, two = base_of(tmp_path), tmp_path / "one", tmp_path / "two"
    make_adapter(base, one)
    make_adapter(base, two)
    assert adapter_sha256(one) == adapter_sha256(two)
    (two / "README.md").write_text("other")
    assert adapter_sha256(one) == adapter_sha256(two)
    edit(two, lora_alpha=7)
    assert adapter_sha256(one) != adapter_sha256(two)
