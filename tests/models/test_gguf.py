"""A model in one GGUF file is what its numbers stand for, and is trained on as such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.core.errors import UserError
from bench.models import gguf as reading
from bench.models.gguf import gguf_config, gguf_file, load_gguf
from bench.tasks.base import Query
from tests.fixtures.helpers import make_task
from tests.fixtures.models import GROUPED, TEXTS, finetuned_source, make_model

HEADS, GROUPS = 4, GROUPED["num_key_value_heads"]
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries and keys as GGUF has them: the halves of a head's pairs side by side."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def write_gguf(model: Path, path: Path, **changes: Any) -> Path:
    """Write a folder's Llama as llama.cpp does, in float32."""
    module = AutoModelForCausalLM.from_pretrained(model)
    config = module.config
    path.parent.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(changes.get("embedding_length", config.hidden_size))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_vocab_size(config.vocab_size)
    fields = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(fields["vocab"], key=fields["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (len(tokens) - 1)])  # the first is the end of a text
    writer.add_token_merges([" ".join(pair) for pair in fields["merges"]])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id):
        add(0)
    for name, value in module.state_dict().items():
        array = value.float().numpy()
        stem = name.removesuffix(".weight")
        prefix = ""
        if stem.startswith("model.layers."):
            _, _, number, stem = stem.split(".", 3)
            prefix = f"blk.{number}."
        if stem in ("self_attn.q_proj", "self_attn.k_proj"):
            array = interleaved(array, HEADS if stem.endswith("q_proj") else GROUPS)
        writer.add_tensor(f"{prefix}{NAMES[stem]}.weight", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("plain"), "llama", layers=2, **GROUPED)


@pytest.fixture(scope="module")
def file(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(plain, tmp_path_factory.mktemp("gguf") / "model.gguf")


def test_weights_and_tokens_are_those_of_the_model(plain: Path, file: Path) -> None:
    module, tokenizer = load_gguf(file, torch.device("cpu"))
    want = dict(AutoModelForCausalLM.from_pretrained(plain).named_parameters())
    named = dict(module.named_parameters())
    assert set(named) == set(want)
    assert all(torch.equal(value, want[name]) for name, value in named.items())
    theirs = AutoTokenizer.from_pretrained(plain)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == theirs(text)["input_ids"]
    assert gguf_config(file).hidden_size == 32


def test_it_is_trained_on_as_the_folder_is(plain: Path, file: Path, tmp_path: Path) -> None:
    queries = (Query("q0", "Al Grey plays the", "trombone"),)
    task = make_task(tmp_path / "task", TEXTS, queries)
    models = [
        finetuned_source(init).load(task, tmp_path / name, "cpu")
        for name, init in (("a", plain), ("b", file.parent))
    ]
    log, other = (model.training["epochs"] for model in models)
    assert log[-1]["loss"] == pytest.approx(other[-1]["loss"], rel=1e-3)
    assert len(list((tmp_path / "b").rglob("model.safetensors"))) == 2, "saved in full"
    assert models[1].training["begun_from"] != models[0].training["begun_from"]
    assert finetuned_source(file.parent).architecture().num_hidden_layers == 2


def test_absurd_sizes_are_refused_before_memory_is_taken(plain: Path, tmp_path: Path) -> None:
    huge = write_gguf(plain, tmp_path / "huge" / "model.gguf", embedding_length=1 << 30)
    with pytest.raises(UserError, match=r"model\.gguf: hidden_size is 1,073,741,824"):
        load_gguf(huge, torch.device("cpu"))


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF and nothing more")
    with pytest.raises(
        UserError, match=r"model\.gguf: cannot be loaded as a causal language model"
    ):
        gguf_config(tmp_path / "model.gguf")


def test_a_package_that_is_missing_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reading, "find_spec", lambda name: None if name == "gguf" else object())
    with pytest.raises(UserError, match=r"needs the package gguf; pip install 'tdabench\[gguf\]'"):
        gguf_file(file.parent)
    assert gguf_file(tmp_path) is None
