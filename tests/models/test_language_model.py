"""Tokens, the causal shift, loading, and refusals."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers

from bench.core.errors import UserError
from bench.models.language_model import (
    IGNORE,
    Tokens,
    pad,
    target_log_probs,
    token_log_probs,
)
from bench.models.loading import directory_sha256
from bench.tasks.base import Query
from tests.fixtures.models import TEXTS, load, make_model

FAMILIES = ("gpt_neox", "gpt2", "llama")


@pytest.fixture
def folder(tmp_path):
    return make_model(tmp_path / "model")


def test_causal_shift_on_a_two_token_model():
    """Fault in the field: the causal shift missing. Logits at t must score token t + 1."""

    class Next(torch.nn.Module):
        def forward(self, input_ids, use_cache=False):
            table = torch.log(torch.tensor([[0.1, 0.9], [0.7, 0.3]]))
            return type("Output", (), {"logits": table[input_ids]})

    ids, labels = pad([Tokens([0, 1, 0], loss_from=1)], torch.device("cpu"))
    found = token_log_probs(Next(), ids, labels).exp()[0].tolist()
    assert found == pytest.approx([0.9, 0.7])


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_equals_transformers(tmp_path, family):
    model = load(make_model(tmp_path / "model", family))
    tokens = model.passage_tokens(TEXTS[0])
    ids, labels = pad([tokens], model.device)
    ours = -token_log_probs(model.module, ids, labels).sum() / tokens.n_loss
    theirs = model.module(input_ids=ids, labels=ids).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_query_tokens(folder):
    model = load(folder)
    tokens = model.query_tokens(Query("q", "Al Grey plays the", "trombone"))
    prompt = model.tokenizer("Al Grey plays the")["input_ids"]
    target = model.tokenizer(" trombone", add_special_tokens=False)["input_ids"]
    assert tokens.ids == prompt + target
    assert tokens.loss_from == len(prompt)
    _, labels = pad([tokens], model.device)
    assert labels[0, : len(prompt)].tolist() == [IGNORE] * len(prompt)
    assert labels[0, len(prompt) :].tolist() == target


@pytest.mark.parametrize("family", FAMILIES)
def test_target_probability_ignores_batch_and_padding(tmp_path, family):
    model = load(make_model(tmp_path / "model", family))
    asked = [("Al Grey plays the", "trombone"), ("Oslo", "of Free Birds and India"), ("a", "b")]
    queries = [model.query_tokens(Query("q", *pair)) for pair in asked]
    together, _ = target_log_probs(model, queries)
    alone = [target_log_probs(model, [query])[0][0] for query in queries]
    assert together == pytest.approx(alone, rel=1e-5)


def test_questions_go_by_few_where_their_logits_are_large(folder, monkeypatch):
    model = load(folder)
    queries = [Tokens(list(range(2, 2 + n)), loss_from=1) for n in (3, 9, 4, 5, 3)]
    expected = target_log_probs(model, queries)[0]
    shapes = []
    hook = model.module.register_forward_pre_hook(
        lambda _, args, named: shapes.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    bytes_of_ten_tokens = 4 * 10 * len(model.tokenizer)
    monkeypatch.setattr("bench.models.padding.LOGITS_BYTES", bytes_of_ten_tokens)
    found = target_log_probs(model, queries)[0]
    hook.remove()
    assert shapes == [(1, 3), (1, 9), (2, 5), (1, 3)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_recalled_means_greedy_decoding_gives_the_target(folder):
    model = load(folder)
    prompt = model.tokenizer(TEXTS[0])["input_ids"][:5]
    ids = list(prompt)
    for _ in range(3):
        ids.append(int(model.module(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    wrong = [*ids[:-1], (ids[-1] + 1) % 100]
    _, recalled = target_log_probs(model, [Tokens(ids, 5), Tokens(wrong, 5)])
    assert recalled == [True, False]


def test_passages_are_cut_and_say_so(folder):
    model = load(folder)
    short, long = model.passage_tokens("Oslo"), model.passage_tokens("Oslo " * 100)
    assert not short.truncated
    assert long.truncated
    assert len(long.ids) == model.context_length == 64
    model.append_eos = True
    assert model.passage_tokens("Oslo").ids == [*short.ids, model.tokenizer.eos_token_id]


def test_target_without_tokens_is_named(folder):
    model = load(folder)
    model.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(UserError, match=r"query q7: target .* tokenises to nothing; drop"):
        model.query_tokens(Query("q7", "Al Grey plays the", "\u200b"))
    with pytest.raises(UserError, match="prompt tokenises to nothing"):
        model.query_tokens(Query("q7", "\u200b", "x"))


def test_query_longer_than_the_context(folder):
    with pytest.raises(UserError, match="exceed the model's context of 64"):
        load(folder).query_tokens(Query("q", "Oslo " * 100, "x"))


def test_eval_mode_and_frozen(folder):
    module = load(folder).module
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_nan_in_the_weights_is_named(folder):
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    edit_weights(folder, lambda tensors: tensors[name].__setitem__((0, 0), float("nan")))
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        load(folder)


def test_hash_follows_content_not_place(folder, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    assert directory_sha256(copy) == directory_sha256(folder)
    edit_weights(copy, lambda tensors: tensors["embed_out.weight"].__setitem__((0, 0), 7.0))
    assert directory_sha256(copy) != directory_sha256(folder)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "spiece.model", "tokenizer.json"])
def test_hash_covers_every_file_that_a_tokenizer_is_read_from(folder, name):
    before = directory_sha256(folder)
    (folder / name).write_text("another")
    assert directory_sha256(folder) != before
    (folder / "notes.txt").write_text("no part of the model")


def test_directories_that_are_no_models(tmp_path, folder):
    with pytest.raises(UserError, match=r"no config\.json"):
        load(tmp_path)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be loaded"):
        load(folder)


def test_remote_code_is_never_run(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}
    config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')")
    with pytest.raises(UserError, match="cannot be loaded"):
        load(folder)
    assert not (tmp_path / "exploded").exists()
