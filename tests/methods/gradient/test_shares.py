"""Scores taken apart into the shares of tokens, against outer products of hooked factors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.models.language_model import Checkpoint
from bench.tasks.base import Query
from methods.gradient.encoder import GradientEncoder
from methods.gradient.settings import (
    BlockLayout,
    CheckpointWeights,
    Hessian,
    HessianForm,
    Output,
    Storage,
)
from tests.fixtures.gradient_methods import QUERIES, make, many_texts, toy_model
from tests.fixtures.helpers import checked, make_task
from tests.fixtures.models import FAMILIES, FLOAT32_INSIDE, TEXTS, load, make_model, with_moments
from tests.fixtures.switches import switches
from tests.oracles import token_shares as oracle

DIM = 6


@pytest.fixture
def model(tmp_path):
    return toy_model(tmp_path)


@pytest.fixture(scope="module", params=["gpt_neox", "gpt2", "qwen2", "gemma2"])
def family(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return make_model(folder, request.param, layers=2, **FAMILIES[request.param])


def taken_apart(method, top_k: int = 100, depth: int = 10):
    """Rankings and the shares of their tokens."""
    method.context.spans = True
    checked(method)
    method.index()
    queries = method.context.task.queries
    rankings = list(method.search(queries, top_k))
    return rankings, list(method.shares(queries, rankings, depth))


def sum_to_scores(rankings, shares) -> None:
    for ranking, one in zip(rankings, shares, strict=True):
        for scores, listed in (
            (ranking.scores, one.proponents),
            (ranking.opponent_scores, one.opponents),
        ):
            assert len(listed) == len(scores)
            for score, of_tokens in zip(scores, listed, strict=True):
                bound = 1e-5 * np.abs(of_tokens).sum()
                assert of_tokens.sum() == pytest.approx(score, rel=0, abs=bound)


@pytest.mark.parametrize("kind", [None, "adafactor", "adam"])
@pytest.mark.parametrize("dim", [DIM, None])
def test_shares_of_raw_features_equal_the_outer_products(tmp_path, family, kind, dim):
    model = load(family)
    if kind:
        model = with_moments(model, tmp_path, kind)
    encoder = GradientEncoder(model, switches(projection_dim=dim), model.second_moments)
    query = torch.randn(encoder.dim, generator=torch.Generator().manual_seed(3)).double()
    collectors = encoder.sharing(query)
    bound = 1e-6 if family.parent.name.startswith(FLOAT32_INSIDE) else 1e-9
    for text in TEXTS[:3]:
        tokens = model.passage_tokens(text)
        expected = oracle.token_features(model, tokens, kind, dim) @ query.numpy()
        found = encoder.shares(tokens, collectors).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound * np.abs(expected).max())
        whole = float(encoder.encode([tokens])[0] @ query)
        assert found.sum() == pytest.approx(whole, rel=1e-6)
        assert found[-1] == 0, "the last token predicts nothing"
        assert (np.abs(found[:-1]) > 0).all()


@pytest.mark.parametrize(
    ("correction", "hessian", "norm"),
    [
        (False, Hessian.none, False),  # grad_dot
        (False, Hessian.none, True),  # grad_cos
        (False, Hessian.train, True),  # cos_hessian
        (True, Hessian.none, True),  # cos_optimizer
        (True, Hessian.train, True),  # cos_optimizer_hessian
        (True, Hessian.mixed, True),  # trackstar
    ],
)
@pytest.mark.parametrize("kind", ["adafactor", "adam"])
def test_shares_of_a_method_equal_the_outer_products(tmp_path, kind, correction, hessian, norm):
    model = load(make_model(tmp_path / "model", layers=1, hidden=8))
    model = with_moments(model, tmp_path, kind)
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    method = make(
        task, model, tmp_path, projection_dim=DIM, opponents=2,
        optimizer_correction=correction, hessian=hessian, unit_norm=norm,
    )  # fmt: skip
    rankings, shares = taken_apart(method)
    sum_to_scores(rankings, shares)
    v = kind if correction else None
    by_token = [oracle.token_features(model, model.passage_tokens(t), v, DIM) for t in TEXTS]
    asked = np.stack(
        [oracle.token_features(model, model.query_tokens(q), v, DIM).sum(0) for q in QUERIES]
    )
    passages = np.stack([rows.sum(0) for rows in by_token])
    mixing = {Hessian.none: None, Hessian.train: 0.0, Hessian.mixed: 0.9}[hessian]
    sizes = [DIM * DIM] * 2
    roots = None if mixing is None else oracle.roots_of(passages, asked, sizes, mixing, 1e-2)
    expected = oracle.shares(by_token, asked, roots, norm)
    for number, (ranking, one) in enumerate(zip(rankings, shares, strict=True)):
        rows = [*ranking.rows, *ranking.opponent_rows]
        for row, found in zip(rows, [*one.proponents, *one.opponents], strict=True):
            right = expected[number][row]
            np.testing.assert_allclose(found, right, rtol=0, atol=2e-5 * np.abs(right).max())


SETTINGS = {
    "low rank": {"hessian_form": HessianForm.low_rank, "hessian_components": 4},
    "diagonal": {"hessian_form": HessianForm.diagonal},
    "no index": {"storage": Storage.none},
    "reranked": {"storage": Storage.int8, "rerank": 20},
    "uncorrected queries": {"correct_queries": False},
    "groups of queries": {"memory_mib": 1, "projection_dim": 96, "hessian": Hessian.none},
    "trak": {
        "checkpoints": 2, "output": Output.margin, "passage_weight": True, "unit_norm": False,
        "optimizer_correction": False, "hessian": Hessian.train,
        "block_layout": BlockLayout.single,
    },
    "less": {
        "checkpoints": 2, "correct_queries": False, "hessian": Hessian.none,
        "checkpoint_weights": CheckpointWeights.learning_rate,
    },
    "logra": {
        "optimizer_correction": False, "hessian": Hessian.train, "unit_norm": False,
        "block_layout": BlockLayout.matrices,
    },
    "logit": {"output": Output.logit},
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_shares_sum_to_the_scores_under_every_switch(tmp_path, model, name):
    earlier = make_model(tmp_path / "earlier", seed=1, layers=1, hidden=8)
    with_moments(load(earlier), tmp_path, "adafactor")
    (tmp_path / "adafactor.safetensors").rename(earlier / "second_moments.safetensors")
    model.checkpoints = [Checkpoint(earlier, 0.3)]
    task = make_task(tmp_path / "task", [*many_texts(30), "", "x"], QUERIES)
    method = make(task, model, tmp_path, opponents=4, **SETTINGS[name])
    rankings, shares = taken_apart(method, depth=3)
    if name == "groups of queries":
        assert method.memory(len(QUERIES)).queries == 1
    assert [len(one.proponents) for one in shares] == [3, 3, 3]
    assert [len(one.opponents) for one in shares] == [3, 3, 3]
    short = [
        replace(
            one, rows=one.rows[:3], scores=one.scores[:3], opponent_rows=one.opponent_rows[:3],
            opponent_scores=one.opponent_scores[:3],
        )
        for one in rankings
    ]  # fmt: skip
    sum_to_scores(short, shares)
    assert all(np.abs(listed).sum() > 0 for one in shares for listed in one.proponents)


def test_a_cut_passage_has_shares_of_what_was_read(tmp_path, model):
    model = replace(model, context_length=32)
    task = make_task(tmp_path / "task", [" ".join(TEXTS), *TEXTS], QUERIES)
    rankings, shares = taken_apart(make(task, model, tmp_path))
    sum_to_scores(rankings, shares)
    cut = rankings[0].rows.tolist().index(0)
    assert len(shares[0].proponents[cut]) == 32
    for text in [" ".join(TEXTS), *TEXTS]:
        places = model.passage_places(text)
        assert len(places) == len(model.passage_tokens(text).ids)


def test_asking_for_shares_moves_no_score(tmp_path, model):
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    plain = make(task, model, tmp_path / "a", opponents=3)
    plain.index()
    before = list(plain.search(QUERIES, 20))
    rankings, _ = taken_apart(make(task, model, tmp_path / "b", opponents=3), 20)
    for one, other in zip(before, rankings, strict=True):
        assert np.array_equal(one.rows, other.rows)
        assert np.array_equal(one.scores, other.scores)
        assert np.array_equal(one.opponent_scores, other.opponent_scores)


@pytest.mark.parametrize("storage", [Storage.bf16, Storage.int8, Storage.sign])
def test_rounded_scores_are_not_taken_apart(tmp_path, model, storage):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    with pytest.raises(UserError, match=r"method\.storage: .*rounds"):
        make(task, model, tmp_path, storage=storage).config.check_spans()
    make(task, model, tmp_path, storage=storage, rerank=100).config.check_spans()


def test_places_are_of_the_characters(tmp_path, model):
    """Byte-level tokens keep the space they begin with, and share a character of many bytes."""
    for text in ("Al Grey plays the trombone.", " naïve 🎺 日本", ""):
        places = model.passage_places(text)
        assert len(places) == len(model.passage_tokens(text).ids)
        assert all(0 <= start <= end <= len(text) for start, end in places)
        assert {at for start, end in places for at in range(start, end)} == set(range(len(text)))
    model.append_eos = True
    assert model.passage_places("Al")[-1] == (2, 2)


def test_a_slow_tokenizer_is_refused_before_any_work(tmp_path, model, monkeypatch):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    method = make(task, model, tmp_path)
    method.context.spans = True
    monkeypatch.setattr(model._reader, "_is_fast", False)
    with pytest.raises(UserError, match=r"tokenizer .*: does not tell where in a text"):
        method.check()
    method.context.spans = False
    method.check()


def test_a_query_without_passages_of_its_own_has_no_shares(tmp_path, model):
    task = make_task(tmp_path / "task", TEXTS, [Query("q", "Al Grey plays the", "trombone")])
    _, shares = taken_apart(make(task, model, tmp_path, hessian=Hessian.none), top_k=1)
    assert len(shares[0].proponents) == 1
    assert shares[0].opponents == []
