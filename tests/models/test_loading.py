"""A model is what its files say: what transformers would mend in silence is refused, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    Gemma3Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from bench.core.errors import UserError
from bench.models import loading
from bench.models.context import ContextLength, context_of, declared_context
from bench.models.language_model import target_log_probs
from bench.models.loading import load_directory, load_module
from bench.models.training import train_tokenizer
from bench.tasks.base import Query
from tests.fixtures.models import FAMILIES, TEXTS, directory_source, load, make_model

DOWN, UP = "model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model", "llama", layers=2)


def edited(folder: Path, change: Any) -> Path:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert "\n" not in message
    return message.removeprefix(f"{folder}: ")


# ------------------------------------------------------------------ tensors


def test_a_missing_tensor_is_named(folder: Path) -> None:
    """Fault: it was drawn at random, so that two runs of one key differed."""
    edited(folder, lambda tensors: tensors.pop(UP))
    assert refusal(folder).startswith(f"tensors are missing: {UP}; is a file missing?")


def test_many_missing_tensors_are_counted(folder: Path) -> None:
    def drop(tensors: dict) -> None:
        for name in [name for name in tensors if ".layers.1." in name]:
            del tensors[name]

    edited(folder, drop)
    assert "tensors are missing: model.layers.1.input_layernorm.weight, " in refusal(folder)
    assert " and 6 more; " in refusal(folder)


def test_an_unexpected_tensor_is_named(folder: Path) -> None:
    edited(folder, lambda tensors: tensors.update({"model.layers.2.mlp.x": torch.ones(2)}))
    assert refusal(folder).startswith("tensors that the model does not have: model.layers.2.mlp.x;")


def test_a_tensor_of_another_shape_is_named_with_both(folder: Path) -> None:
    edited(folder, lambda tensors: tensors.update({DOWN: torch.ones(32, 63)}))
    assert refusal(folder).startswith(
        f"tensors of another shape: {DOWN} [32, 63] instead of [32, 64];"
    )


def test_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "tied", "llama", layers=1, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    module = load(folder).module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert refusal(folder).startswith("tensors are missing: lm_head.weight;")


def test_a_checkpoint_is_held_to_its_files_too(folder: Path) -> None:
    edited(folder, lambda tensors: tensors.pop(UP))
    with pytest.raises(UserError, match=f"tensors are missing: {UP}"):
        load_module(folder, torch.float32, torch.device("cpu"))


# ------------------------------------------------------------------ causal


@pytest.mark.parametrize("architecture", [*FAMILIES, "mixtral", "mamba", "bloom"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoders_are_causal(tmp_path: Path, architecture: str, dtype: torch.dtype) -> None:
    options = FAMILIES.get(architecture, {})
    if architecture == "mixtral":
        options = {"num_key_value_heads": 2, "num_local_experts": 4}
    folder = make_model(tmp_path / "model", architecture, **options)
    load_module(folder, dtype, torch.device("cpu"))


def test_a_family_that_does_not_run_in_its_dtype_is_looked_at_in_float32(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "ffn_dim": 64, "attention_heads": 4, "num_layers": 2}
    folder = make_model(tmp_path / "xglm", "xglm", **sizes)
    module = load_module(folder, torch.float64, torch.device("cpu"))
    assert module.dtype == torch.float64
    with pytest.raises(RuntimeError):
        module(input_ids=torch.tensor([[1, 2]]))


def bert(folder: Path, kind: type[PreTrainedModel], **settings: Any) -> Path:
    tokenizer = train_tokenizer(iter(TEXTS * 3), 300)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        vocab_size=len(tokenizer), max_position_embeddings=64, **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertLMHeadModel])
def test_a_bidirectional_model_is_refused(
    tmp_path: Path, kind: type[PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: BertForMaskedLM passed, and saw the answer that it was asked for."""
    folder = bert(tmp_path / "bert", kind, is_decoder=False)
    message = refusal(folder)
    assert message.startswith("BertLMHeadModel is not causal: what it says of a token depends on")
    monkeypatch.setattr(loading, "_check_causal", lambda *_: None)
    model = load(folder)
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]])
    one, other = model.module(input_ids=ids).logits[:, 0]
    assert not torch.equal(one, other), "it is: the test above would pass without the check"


def test_the_same_encoder_as_a_decoder_is_causal(tmp_path: Path) -> None:
    load(bert(tmp_path / "bert", BertLMHeadModel, is_decoder=True))


# ------------------------------------------------------------------ tokenizer and context


def test_a_tokenizer_with_more_ids_than_embeddings(folder: Path) -> None:
    """Fault: an IndexError at the first text that has such a token."""
    n_ids = len(load(folder).tokenizer)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([f"<{number}>" for number in range(50)])
    tokenizer.save_pretrained(folder)
    assert refusal(folder).startswith(
        f"its tokenizer has {n_ids + 50} ids and its embedding {n_ids} rows;"
    )


def test_the_context_of_a_nested_configuration(tmp_path: Path) -> None:
    """Fault: Gemma 3 with 64 positions was read as if it had 2,048, and nothing was cut."""
    text = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
        "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 300,
        "max_position_embeddings": 64,
    }  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config={
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "image_size": 8, "patch_size": 4,
    }, mm_tokens_per_image=1)  # fmt: skip
    assert declared_context(config) == (64, "text_config.max_position_embeddings of config.json")
    folder = tmp_path / "gemma3"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    train_tokenizer(iter(TEXTS * 3), 300).save_pretrained(folder)
    model = load(folder)
    assert model.context_length == 64
    assert model.passage_tokens("Oslo " * 100).truncated


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AutoConfig.for_model("gpt2", n_positions=77), 77),
        (AutoConfig.for_model("ctrl", n_positions=78), 78),
        (AutoConfig.for_model("mpt", max_seq_len=79), 79),
        (AutoConfig.for_model("bloom", seq_length=80), 80),
        (AutoConfig.for_model("openai-gpt", n_positions=81), 81),
        (PretrainedConfig(n_ctx=82), 82),
        (AutoConfig.for_model("gptj", n_positions=83), 83),
        (AutoConfig.for_model("mamba"), None),
        (AutoConfig.for_model("bloom"), None),
        (PretrainedConfig(max_position_embeddings=-1), None),
        (PretrainedConfig(max_position_embeddings=10**30), None),
    ],
)
def test_the_context_under_every_familys_name(
    config: PretrainedConfig, expected: int | None
) -> None:
    found = declared_context(config)
    assert (found and found.tokens) == expected


def test_the_least_context_counts_and_none_is_made_up() -> None:
    tokenizer = train_tokenizer(iter(TEXTS), 300)
    gpt2, mamba = AutoConfig.for_model("gpt2", n_positions=77), AutoConfig.for_model("mamba")
    assert context_of(gpt2, tokenizer).tokens == 77
    with pytest.raises(UserError, match=r"^DIR: neither .* says how many .*model.context_length=N"):
        context_of(mamba, tokenizer, where="DIR")
    assert context_of(mamba, tokenizer, 50) == (50, "model.context_length")
    with pytest.raises(UserError, match=r"^model.context_length=78: the model reads 77 tokens at"):
        context_of(gpt2, tokenizer, 78)
    tokenizer.model_max_length = 60
    for config in (gpt2, mamba):
        assert context_of(config, tokenizer) == ContextLength(
            60, "model_max_length of its tokenizer"
        )


def test_a_context_that_is_asked_for(folder: Path) -> None:
    model = directory_source(folder, context_length=5).load(None, Path("unused"), "cpu")  # type: ignore[arg-type]
    assert (model.context_length, model.reading["context_length_from"]) == (
        5, "model.context_length",
    )  # fmt: skip
    assert len(model.passage_tokens(TEXTS[0]).ids) == 5
    source = directory_source(folder, context_length=0)
    with pytest.raises(UserError, match=r"^model\.context_length: expected at least 1"):
        source.check()


# ------------------------------------------------------------------ precision


def test_log_probabilities_of_a_float64_model_are_float64(folder: Path) -> None:
    """Fault: they were taken in float32, whatever the model's dtype."""
    model = load_directory("toy", folder, device="cpu", dtype=torch.float64)
    tokens = model.query_tokens(Query("q", "Al Grey plays the", "trombone"))
    logits = model.module(input_ids=torch.tensor([tokens.ids])).logits[0, :-1]
    assert logits.dtype == torch.float64
    scores = logits.log_softmax(-1)[torch.arange(len(tokens.ids) - 1), tokens.ids[1:]]
    expected = scores[tokens.loss_from - 1 :].sum().item()
    (found,), _ = target_log_probs(model, [tokens])
    assert found == pytest.approx(expected, rel=1e-14)
    assert found != pytest.approx(float(torch.tensor(expected).float()), rel=1e-12)
