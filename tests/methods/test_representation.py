"""Hidden states and output embeddings against one text at a time; the index that both keep."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from bench.core.errors import UserError
from bench.models.loading import load_directory
from bench.tasks.base import Query
from methods import embedding_index, representation
from methods.base import Context
from methods.query_text import QueryPart
from methods.representation import (
    OutputEmbedding,
    OutputEmbeddingConfig,
    Pooling,
    RepresentationConfig,
    RepresentationSimilarity,
    hidden_states,
)
from tests.fixtures.composing import method_settings
from tests.fixtures.helpers import checked, make_task
from tests.fixtures.models import TEXTS, load, make_model

PASSAGES = [*TEXTS, "", TEXTS[0] * 4, "trombone"]  # one text is empty, and one exceeds the context
QUERIES = [Query("q0", "Al Grey plays the", "trombone"), Query("q1", "Marla Venn was", "born")]
REPSIM = RepresentationConfig(
    layer=-1,
    pooling=Pooling.mean,
    normalize=True,
    query=QueryPart.prompt_and_target,
    batch_size=128,
)
OUTPUT = OutputEmbeddingConfig(normalize=True)
KINDS = [RepresentationSimilarity, OutputEmbedding]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def make(tmp_path, folder):
    """A function that builds a method on a corpus; all share one cache."""

    def build(kind=RepresentationSimilarity, texts=PASSAGES, model=None, **changes):
        place = tmp_path / f"task-{len(list(tmp_path.iterdir()))}"
        context = Context(
            make_task(place, texts, QUERIES), tmp_path / "cache", lambda: model or load(folder)
        )
        method = kind(replace(REPSIM if kind is KINDS[0] else OUTPUT, **changes), context)
        checked(method)
        return method

    return build


def run(method, top_k=100, queries=QUERIES):
    size = method.index()
    return size, list(method.search(queries, top_k))


def indexes(tmp_path, kind="repsim"):
    return sorted((tmp_path / "cache" / "index" / kind).iterdir())


def set_aside(tmp_path):
    """Move the index away, so that the next method does not use it."""
    (only,) = indexes(tmp_path)
    only.rename(tmp_path / f"set-aside-{len(list(tmp_path.iterdir()))}")


def similarity(a, b, normalize):
    """The similarity of two vectors, slow and plain; 0 for a text that has no direction."""
    scale = np.linalg.norm(a) * np.linalg.norm(b) if normalize else 1.0
    return float(a @ b / scale) if scale else 0.0


def assert_ranked(rankings, passages, asked, normalize):
    for ranking, query, vector in zip(rankings, QUERIES, asked, strict=True):
        line = np.array([similarity(passage, vector, normalize) for passage in passages])
        assert ranking.query_id == query.query_id
        assert ranking.rows.tolist() == np.argsort(-line, kind="stable").tolist()
        np.testing.assert_allclose(ranking.scores, line[ranking.rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2"])
@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize(
    ("normalize", "part"), [(True, QueryPart.prompt_and_target), (False, QueryPart.prompt)]
)
def test_equals_one_text_at_a_time(make, tmp_path, architecture, layer, pooling, normalize, part):
    place = make_model(tmp_path / "model", architecture)
    module = load(place).module.double()  # the whole model, head included

    def vector(ids):
        if not ids:
            return np.zeros(32)
        with torch.no_grad():
            states = module(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
        return (states.sum(0) / len(ids) if pooling is Pooling.mean else states[-1]).numpy()

    model = load(place)
    method = make(model=model, layer=layer, pooling=pooling, normalize=normalize, query=part)
    _, rankings = run(method)
    asked = [
        model.tokenizer(q.prompt)["input_ids"]
        + (model.tokenizer(f" {q.target}")["input_ids"] if part is not QueryPart.prompt else [])
        for q in QUERIES
    ]
    passages = [vector(model.passage_tokens(text).ids) for text in PASSAGES]
    assert_ranked(rankings, passages, list(map(vector, asked)), normalize)


@pytest.mark.parametrize("kind", KINDS)
def test_of_several_answers_the_most_probable_stands_for_the_query(make, folder, kind):
    several = [replace(one, target="a band", accepted=("Oslo", one.target)) for one in QUERIES]
    model, method = load(folder), make(kind)
    likely = [model.query_tokens(one) for one in several]
    names = [model.tokenizer.decode(one.ids[one.loss_from :]).strip() for one in likely]
    told = [replace(one, target=name) for one, name in zip(QUERIES, names, strict=True)]
    summed = [replace(one, summed=True) for one in several]
    assert names != ["a band"] * len(QUERIES)
    want = run(method, queries=told)[1]
    for found, one in zip(run(method, queries=summed)[1], want, strict=True):
        assert found.rows.tolist() == one.rows.tolist()
        assert np.array_equal(found.scores, one.scores)


@pytest.mark.parametrize("normalize", [True, False])
def test_output_embeddings_equal_one_token_at_a_time(make, folder, normalize):
    model = load(folder)
    weight = model.module.get_output_embeddings().weight.double().numpy()

    def vector(ids):
        return sum((weight[i] for i in ids), np.zeros(32)) / max(1, len(ids))

    passages = [vector(model.passage_tokens(text).ids) for text in PASSAGES]
    asked = [vector(model.tokenizer(f" {q.target}")["input_ids"]) for q in QUERIES]
    _, rankings = run(make(OutputEmbedding, normalize=normalize))
    assert_ranked(rankings, passages, asked, normalize)


@pytest.mark.parametrize("pooling", list(Pooling))
def test_neither_batches_nor_chunks_change_a_bit(make, tmp_path, monkeypatch, pooling):
    rng = np.random.default_rng(0)
    words = " ".join(TEXTS).split()
    texts = [" ".join(rng.choice(words, size=rng.integers(0, 15))) for _ in range(120)]
    lists = []
    cases = ((1, 4096, 8192), (7, 50, 8192), (128, 4096, 8192), (128, 50, 40))
    for batch_size, chunk, tokens in cases:
        monkeypatch.setattr(embedding_index, "CHUNK", chunk)
        monkeypatch.setattr(representation, "_TOKENS_AT_ONCE", tokens)
        _, found = run(make(texts=texts, batch_size=batch_size, pooling=pooling), top_k=60)
        lists.append([(r.rows.tolist(), r.scores.tolist()) for r in found])
        set_aside(tmp_path)
    assert lists[0] == lists[1] == lists[2] == lists[3]


def test_long_texts_go_by_few(make, monkeypatch):
    shapes = []

    def noted(model):
        states = hidden_states(model)
        return lambda ids: (shapes.append(tuple(ids.shape)), states(ids))[1]

    monkeypatch.setattr(representation, "hidden_states", noted)
    monkeypatch.setattr(representation, "_TOKENS_AT_ONCE", 24)
    run(make(batch_size=128))
    assert max(rows for rows, _ in shapes) > 1
    assert all(rows == 1 or rows * width <= 24 for rows, width in shapes)


def test_equal_texts_tie_also_in_single_precision(make, folder):
    texts = [TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[0], *TEXTS[3:], TEXTS[0]]
    model = load(folder, torch.float32)
    query = Query("q", "The instrument played by Al Grey is", "the trombone.")
    _, (ranking,) = run(make(texts=texts, model=model, batch_size=2), top_k=3, queries=[query])
    assert ranking.rows.tolist() == [1, 3, 7]
    assert len(set(ranking.scores.tolist())) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_texts_without_tokens_and_cut_ones(make, kind):
    for _ in range(2):  # embedded, then used again
        method = make(kind)
        size, rankings = run(method)
        assert method.context.counts == {"passages_truncated": 1, "passages_without_tokens": 1}
        assert size.bytes == len(PASSAGES) * 32 * 4
        for ranking in rankings:
            assert ranking.scores[ranking.rows.tolist().index(6)] == 0
    _, rankings = run(make(kind, texts=["", ""]))
    assert [r.rows.tolist() for r in rankings] == [[0, 1], [0, 1]]


def test_a_copy_of_the_query_is_first(make):
    texts = [*PASSAGES, "Al Grey plays the trombone"]
    for pooling in Pooling:
        _, (ranking, _) = run(make(texts=texts, pooling=pooling))
        assert ranking.rows[0] == len(PASSAGES)
        assert ranking.scores[0] == pytest.approx(1, abs=1e-6)
    _, (ranking, _) = run(make(OutputEmbedding, texts=[*TEXTS, " trombone"]))
    assert ranking.rows[0] == len(TEXTS)
    assert ranking.scores[0] == pytest.approx(1, abs=1e-6)


# ------------------------------------------------------------------ the index


@pytest.mark.parametrize("kind", KINDS)
def test_the_vectors_are_used_again(make, kind, monkeypatch):
    _, first = run(make(kind))
    embedded = []
    embed = kind._embed_passages
    monkeypatch.setattr(
        kind, "_embed_passages", lambda self, texts: embedded.extend(texts) or embed(self, texts)
    )
    _, second = run(make(kind))
    assert embedded == []
    for one, other in zip(first, second, strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        assert one.scores.tolist() == other.scores.tolist()


def test_a_layer_has_one_index_however_it_is_counted(make, tmp_path):
    for layer in (-1, 3):
        run(make(layer=layer))
    run(make(batch_size=2, query=QueryPart.prompt))
    assert len(indexes(tmp_path)) == 1


def test_whatever_moves_a_vector_makes_another_index(make, tmp_path, folder):
    run(make())
    run(make(layer=1))
    run(make(pooling=Pooling.last))
    run(make(normalize=False))
    run(make(texts=TEXTS))
    run(make(model=load(folder, torch.float32)))
    run(make(model=load(make_model(tmp_path / "other", seed=1))))
    ending = load(folder)
    ending.append_eos = True
    run(make(model=ending))
    assert len(indexes(tmp_path)) == 8


def truncate(index):
    (index / "embeddings.npy").write_bytes((index / "embeddings.npy").read_bytes()[:-4])


def flip(index):
    data = bytearray((index / "embeddings.npy").read_bytes())
    data[-3] ^= 1
    (index / "embeddings.npy").write_bytes(data)


def lose_counts(index):
    sidecar = json.loads((index / "manifest.json").read_text())
    del sidecar["facts"]["counts"]
    (index / "manifest.json").write_text(json.dumps(sidecar))


@pytest.mark.parametrize(
    "fault",
    [
        truncate,
        flip,
        lose_counts,
        lambda index: (index / "manifest.json").unlink(),
        lambda index: (index / "manifest.json").write_text("{"),
        lambda index: (index / "manifest.json").write_text("[]"),
        lambda index: (index / "embeddings.npy").write_bytes(b"\x93NUMPY"),
        lambda index: (index / "embeddings.npy").unlink(),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_index_is_refused(make, tmp_path, kind, fault):
    run(make(kind))
    (only,) = indexes(tmp_path, kind.name)
    fault(only)
    with pytest.raises(UserError, match="damaged index of embeddings; delete this folder") as error:
        run(make(kind))
    assert error.value.where == str(only)


def test_a_run_that_dies_leaves_its_chunks_and_no_index(make, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_index, "CHUNK", 4)
    method = make()
    embed, calls = method._embed_passages, []

    def die(texts):
        calls.append(texts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return embed(texts)

    monkeypatch.setattr(method, "_embed_passages", die)
    with pytest.raises(KeyboardInterrupt):
        method.index()
    (chunks,) = indexes(tmp_path)
    assert [path.name for path in chunks.glob("rows-*")] == ["rows-0-4.safetensors"]
    calls.append([])  # nobody dies this time
    monkeypatch.setattr(method, "_embed_passages", die)
    method.index()
    assert calls[1][:1] == calls[3][:1], "the first chunk is not embedded again"
    assert not chunks.exists()


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"batch_size": 0}, "method.batch_size", "expected at least 1, found 0"),
        ({"layer": 4}, "method.layer", "the model has 3 layers, found 4"),
        ({"layer": -5}, "method.layer", "-4 to -1"),
    ],
)
def test_settings_that_cannot_work(make, changes, where, message):
    with pytest.raises(UserError, match=message) as error:
        make(**changes)
    assert error.value.where == where


def test_a_model_without_output_embeddings(make, folder, monkeypatch):
    model = load(folder)
    monkeypatch.setattr(model.module, "get_output_embeddings", lambda: None)
    with pytest.raises(UserError, match="no output embeddings") as error:
        make(OutputEmbedding, model=model)
    assert error.value.where == "model toy"


@pytest.mark.parametrize("kind", KINDS)
def test_search_without_an_index(make, kind):
    with pytest.raises(ValueError, match="index"):
        list(make(kind).search(QUERIES, 3))


def test_the_model_is_left_as_it_was(make, folder):
    model = load(folder)
    run(make(model=model))
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert not model.module.training


@pytest.mark.parametrize(("name", "expected"), [("repsim", REPSIM), ("output_embedding", OUTPUT)])
def test_the_configuration_file_fits_the_schema(name, expected):
    loaded = method_settings(name)
    schema = OmegaConf.structured(type(expected))
    assert OmegaConf.to_object(OmegaConf.merge(schema, loaded)) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_that_of_a_model_loaded_so(tmp_path, dtype):
    """Fault: a cast here rounded the frequencies of rotary positions, too."""
    folder = make_model(tmp_path / "rotary", "llama", layers=2)
    cast = load(folder, dtype)
    loaded = load_directory("m", folder, device="cpu", dtype=dtype, gradient_dtype=dtype)
    ids = torch.tensor([cast.passage_tokens(TEXTS[-1]).ids])
    for one, other in zip(hidden_states(cast)(ids), hidden_states(loaded)(ids), strict=True):
        assert torch.equal(one, other)
