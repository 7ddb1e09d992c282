"""All twelve cells of {V} × {R} × {norm} against brute force, and what no setting may change."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.models.language_model import LanguageModel
from methods.gradient import hessian
from methods.gradient import index as index_module
from methods.gradient import queries as queries_module
from methods.gradient.checkpoints import FeatureLayout
from methods.gradient.finish import Finish
from methods.gradient.parts import Handed
from methods.gradient.settings import Hessian, HessianForm
from methods.gradient.whitening import full
from tests.fixtures.gradient_methods import QUERIES, make, many_texts, ranked, toy_model
from tests.fixtures.helpers import checked, make_task
from tests.fixtures.models import TEXTS, load, make_model
from tests.oracles.brute_force_trackstar import features, gradients, scores


@pytest.fixture
def model(tmp_path) -> LanguageModel:
    return toy_model(tmp_path)


@pytest.mark.parametrize(
    ("correction", "hessian", "norm"),
    itertools.product([False, True], list(Hessian), [False, True]),
)
def test_equals_brute_force(tmp_path, model, correction, hessian, norm):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    method = make(
        task, model, tmp_path, optimizer_correction=correction, hessian=hessian, unit_norm=norm,
        projection_dim=None,
    )  # fmt: skip
    names = [
        "gpt_neox.layers.0.attention.query_key_value.weight",
        "gpt_neox.layers.0.attention.dense.weight",
        "gpt_neox.layers.0.mlp.dense_h_to_4h.weight",
        "gpt_neox.layers.0.mlp.dense_4h_to_h.weight",
    ]
    module = load(tmp_path / "model").module.double().requires_grad_(True)
    tokens = [(model.passage_tokens(text).ids, 1) for text in TEXTS]
    asked = [model.query_tokens(q) for q in QUERIES]
    moments = [
        (model.second_moments[n].row.double().numpy(), model.second_moments[n].col.double().numpy())
        for n in names
    ]
    blocks, v = [[0, 1], [2, 3]], moments if correction else None
    expected = scores(
        features(gradients(module, tokens, names), blocks, v),
        features(gradients(module, [(t.ids, t.loss_from) for t in asked], names), blocks, v),
        hessian.value, 0.9, 1e-2, norm,
    )  # fmt: skip
    for ranking, row in zip(ranked(method), expected, strict=True):
        np.testing.assert_allclose(ranking.scores, row[ranking.rows], rtol=2e-4, atol=1e-6)
        assert ranking.rows.tolist() == np.argsort(-row, kind="stable").tolist()


def test_same_ranking_at_any_batch_size(tmp_path, model):
    texts = [*many_texts(), *TEXTS, *many_texts()[:5]]  # with exact duplicates: ties
    task = make_task(tmp_path / "task", texts, QUERIES)
    found = []
    for batch_size in (1, 7, 32):
        cache = tmp_path / str(batch_size)
        found.append(ranked(make(task, model, cache, batch_size=batch_size)))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert a.rows.tolist() == b.rows.tolist()


def test_same_numbers_run_twice(tmp_path, model):
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    first = ranked(make(task, model, tmp_path / "a"))
    second = ranked(make(task, model, tmp_path / "b"))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.rows, b.rows)
        assert np.array_equal(a.scores, b.scores)


def test_shards_change_nothing(tmp_path, model, monkeypatch):
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    whole = ranked(make(task, model, tmp_path / "a"), top_k=7)
    monkeypatch.setattr(index_module, "SHARD_ROWS", 11)
    parts = ranked(make(task, model, tmp_path / "b"), top_k=7)
    for a, b in zip(whole, parts, strict=True):
        assert a.rows.tolist() == b.rows.tolist()


def test_repeated_text_ranks_by_row(tmp_path, model):
    task = make_task(tmp_path / "task", [TEXTS[1], TEXTS[0], TEXTS[0]], QUERIES[:1])
    rows = ranked(make(task, model, tmp_path))[0].rows.tolist()
    assert rows.index(1) == rows.index(2) - 1


@pytest.mark.parametrize("hessian_of", [Hessian.none, Hessian.mixed])
def test_a_query_is_encoded_once_however_many_shards(tmp_path, model, monkeypatch, hessian_of):
    """Fault in the field: gradients of the queries are made anew for each batch of passages."""
    monkeypatch.setattr(index_module, "SHARD_ROWS", 10)
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    gradient = make(task, model, tmp_path, hessian=hessian_of)
    gradient.check()
    gradient.index()
    asked = []
    encode_all = queries_module.encode_all

    def encode(encoder, tokens, *batches):
        asked.extend(tuple(one.ids) for one in tokens)
        return encode_all(encoder, tokens, *batches)

    monkeypatch.setattr(queries_module, "encode_all", encode)
    assert len(list(gradient.search(task.queries, 5))) == len(QUERIES)
    assert asked == [tuple(model.query_tokens(query).ids) for query in QUERIES]


def test_unit_norm_alone_makes_length_count_for_nothing(tmp_path, model):
    """Scores are divided by the norms of the passages' own gradients, and by nothing else."""
    task = make_task(tmp_path / "task", TEXTS, QUERIES[:1])
    plain, unit = (
        ranked(make(task, model, tmp_path, hessian=Hessian.none, unit_norm=norm))[0]
        for norm in (False, True)
    )
    encoder = make(task, model, tmp_path, hessian=Hessian.none)
    encoder.index()
    norms = encoder._encoded.rows(np.arange(len(TEXTS))).double().norm(dim=1).numpy()
    asked = encoder.encode_queries(QUERIES[:1]).double().norm().item()
    cosines = dict(zip(unit.rows, unit.scores, strict=True))
    for row, score in zip(plain.rows, plain.scores, strict=True):
        assert cosines[row] == pytest.approx(score / norms[row] / asked, rel=1e-5)


def test_what_r_is_made_of_is_recorded(tmp_path, model, capsys):
    """λ, and ranks, traces and leverage of each block, against numpy over the raw features."""
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    method = make(task, model, tmp_path, mixing="auto")
    ranked(method)
    passages = method._encoded.rows(np.arange(60)).double().numpy()
    queries = method.encode_queries(QUERIES).double().numpy()
    sides = [np.split(side, 2, axis=1) for side in (passages, queries)]
    of_train, of_eval = (
        np.sort([np.linalg.svd(p, compute_uv=False)[i] ** 2 / len(p) for p in side for i in (0, 1)])
        for side in sides
    )
    mixing = of_train[-2] / (of_eval[-2] + of_train[-2])  # k is 2 of 128 dimensions
    facts = json.loads(json.dumps(method.context.facts))
    assert facts["mixing"] == pytest.approx(mixing, rel=1e-6)
    assert (facts["hessian_passages"], facts["hessian_queries"]) == (60, 3)
    blocks = facts["hessian_blocks"]
    assert blocks["dims"] == [64, 64]
    assert blocks["damping"] == [0.01, 0.01]
    for number, (train, evaluation) in enumerate(zip(*sides, strict=True)):
        r_train, r_eval = train.T @ train / 60, evaluation.T @ evaluation / 3
        r = mixing * r_eval + (1 - mixing) * r_train
        inverse = np.linalg.inv(r + 0.01 * np.trace(r) / 64 * np.eye(64))
        own = [mixing / 3 * query @ inverse @ query for query in evaluation]
        assert blocks["leverage"][number] == pytest.approx(np.mean(own), rel=1e-4)
        assert blocks["train_trace"][number] == pytest.approx(np.trace(r_train), rel=1e-5)
        assert blocks["eval_trace"][number] == pytest.approx(np.trace(r_eval), rel=1e-5)
        assert blocks["eval_rank"][number] == 3
        assert 3 < blocks["train_rank"][number] <= blocks["rank"][number] < 64
    said = capsys.readouterr().err
    assert "has 64 dimensions and is from 60 passages and 3 queries, which are fewer" in said


@pytest.mark.parametrize("form", list(HessianForm))
def test_automatic_damping_goes_by_the_passages_that_r_is_from(tmp_path, model, form):
    task = make_task(tmp_path / "task", many_texts(100), QUERIES)

    def run(**settings):
        method = make(task, model, tmp_path, hessian_form=form, **settings)
        return ranked(method), method.context.facts["hessian_blocks"]["damping"]

    for sample, damping in ((None, 0.64), (80, 0.8), (10, 1.0)):
        automatic, recorded = run(damping="auto", hessian_sample=sample)
        assert recorded == [damping, damping]
        by_hand, _ = run(damping=damping, hessian_sample=sample)
        for one, other in zip(automatic, by_hand, strict=True):
            np.testing.assert_array_equal(one.scores, other.scores)


def test_few_texts_are_said_before_r_is_decomposed(tmp_path, model, capsys, monkeypatch):
    said = []

    def decompose(*_):
        said.append(capsys.readouterr().err)
        raise RuntimeError

    monkeypatch.setattr(torch.linalg, "eigvalsh", decompose)
    task = make_task(tmp_path / "task", many_texts(70), QUERIES)
    with pytest.raises(RuntimeError):
        ranked(make(task, model, tmp_path))
    assert "has 64 dimensions and is from 3 queries, which are fewer" in said[0]


def test_too_few_queries_for_an_automatic_mixing_are_refused_before_encoding(tmp_path, model):
    task = make_task(tmp_path / "task", TEXTS, QUERIES[:1])
    method = make(task, model, tmp_path, mixing="auto", projection_dim=None)
    method.check()
    with pytest.raises(UserError, match=r"method\.mixing: .* 1 queries has at most 2"):
        method.index()
    assert not (tmp_path / "cache").exists()


def test_no_second_moments_is_an_error_before_work(tmp_path):
    model = load(make_model(tmp_path / "model", layers=1))
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    with pytest.raises(UserError, match=r"model\.optimizer_state=FILE"):
        make(task, model, tmp_path).check()
    make(task, model, tmp_path, optimizer_correction=False).check()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mixing", "always"),
        ("mixing", 1.5),
        ("projection_dim", 0),
        ("damping", -1.0),
        ("damping", "always"),
        ("damping", float("nan")),
        ("damping", float("inf")),
        ("hessian_sample", 0),
        ("rerank", 0),
        ("memory_mib", 0),
        ("opponents", -1),
    ],
)
def test_wrong_values_are_named(tmp_path, model, key, value):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    with pytest.raises(UserError, match=f"method.{key}"):
        checked(make(task, model, tmp_path, **{key: value}))


def test_automatic_mixing_needs_whole_spectra(tmp_path, model):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    form = HessianForm.diagonal
    with pytest.raises(UserError, match="hessian_form=full"):
        checked(make(task, model, tmp_path, mixing="auto", hessian_form=form))


def test_a_block_too_large_for_r_is_refused_without_a_model(tmp_path):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    with pytest.raises(UserError, match=r"projection_dim: a Hessian block of 8,281 dimensions"):
        checked(make(task, None, tmp_path, projection_dim=91))
    for allowed in ({"hessian": Hessian.none}, {"hessian_form": HessianForm.diagonal}):
        method = make(task, None, tmp_path, projection_dim=91, **allowed)
        method.check_settings(method.config)


def test_unit_norm_comes_after_the_hessian():
    """Fault in the field: norms before R^(-1/2). A passage's score with itself must be 1."""
    raw = torch.randn(4, 12, dtype=torch.float64)
    whitening, _ = full(hessian.Outer([12]).mean([raw * torch.arange(12)]), [1e-3])
    layout = FeatureLayout(blocks=[12], parts=[12], weights=[1.0], weighted=False)
    done = Finish(layout, Handed(whitening), True, torch.float64, raw.device)(raw)
    assert torch.allclose(done.norm(dim=1), torch.ones(4, dtype=torch.float64))
