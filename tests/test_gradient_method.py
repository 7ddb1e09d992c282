"""All twelve cells of {V} × {R} × {norm} against brute force, and the index underneath."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.models.language_model import LanguageModel
from bench.tasks.base import Query
from methods.base import Context
from methods.gradient import hessian
from methods.gradient import index as index_module
from methods.gradient.codecs import Storage
from methods.gradient.estimate import Hessian
from methods.gradient.method import Gradient, GradientConfig
from methods.gradient.parameters import Adapters, Unsupported
from methods.gradient.search import Finish
from methods.gradient.whitening import HessianForm, full
from tests.brute_force_trackstar import features, gradients, scores
from tests.helpers import make_task
from tests.models import TEXTS, load, make_model, with_moments

QUERIES = (
    Query("q0", "Al Grey plays the", "trombone", gold_rows=(0, 1)),
    Query("q1", "Marla Venn comes from", "Oslo", gold_rows=(3,)),
    Query("q2", "The language of Free Birds is", "English", gold_rows=(2,)),
)
DEFAULTS = {
    "optimizer_correction": True, "hessian": Hessian.mixed, "mixing": 0.9, "unit_norm": True,
    "projection_dim": 8, "layer_blocks": 8, "damping": 1e-2, "batch_size": 4, "batch_tokens": None,
    "hessian_form": HessianForm.full, "hessian_components": 8, "hessian_sample": None,
    "storage": Storage.fp32, "rerank": None, "opponents": 0, "memory_mib": 64,
    "adapters": Adapters.base, "unsupported": Unsupported.refuse, "seed": 0,
}  # fmt: skip


@pytest.fixture
def model(tmp_path) -> LanguageModel:
    return with_moments(
        load(make_model(tmp_path / "model", layers=1, hidden=8)), tmp_path, "adafactor"
    )


def make(task, model, tmp_path, **settings) -> Gradient:
    context = Context(task, tmp_path / "cache", load_model=lambda: model)
    return Gradient(GradientConfig(**{**DEFAULTS, **settings}), context)


def ranked(method: Gradient, top_k: int = 100):
    method.check()
    method.index()
    return list(method.search(method.context.task.queries, top_k))


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
    asked = [model.query_tokens(q.query_id, q.prompt, q.target) for q in QUERIES]
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


def many_texts(n: int = 60) -> list[str]:
    rng = np.random.default_rng(0)
    words = " ".join(TEXTS).split()
    return [" ".join(rng.choice(words, rng.integers(3, 14))) for _ in range(n)]


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


def test_repeated_text_ranks_by_row_after_unit_norm_and_longer_wins_without(tmp_path, model):
    task = make_task(tmp_path / "task", [TEXTS[1], TEXTS[0], TEXTS[0]], QUERIES[:1])
    rows = ranked(make(task, model, tmp_path))[0].rows.tolist()
    assert rows.index(1) == rows.index(2) - 1


def test_mixing_in_use_is_recorded(tmp_path, model, capsys):
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    method = make(task, model, tmp_path, mixing="auto")
    ranked(method)
    assert "is taken at component" in capsys.readouterr().err
    assert 0 < method.context.facts["mixing"] < 1


def test_no_second_moments_is_an_error_before_work(tmp_path):
    model = load(make_model(tmp_path / "model", layers=1))
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    with pytest.raises(UserError, match=r"model\.optimizer_state=FILE"):
        make(task, model, tmp_path).check()
    make(task, model, tmp_path, optimizer_correction=False).check()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("mixing", "always"), ("mixing", 1.5), ("projection_dim", 0), ("damping", -1.0)],
)
def test_wrong_values_are_named(tmp_path, model, key, value):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    with pytest.raises(UserError, match=f"method.{key}"):
        make(task, model, tmp_path, **{key: value}).check()


# ------------------------------------------------------------------ index


def test_methods_of_the_same_features_share_an_index(tmp_path, model, monkeypatch):
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    ranked(make(task, model, tmp_path))
    encoded = []
    original = index_module.IndexBuilder._make
    monkeypatch.setattr(
        index_module.IndexBuilder, "_make", lambda *a: encoded.append(a) or original(*a)
    )
    ranked(make(task, model, tmp_path, hessian=Hessian.none, unit_norm=False))
    assert not encoded
    ranked(make(task, model, tmp_path, optimizer_correction=False))
    assert encoded


def test_a_killed_build_goes_on_and_gives_the_same_bytes(tmp_path, model, monkeypatch):
    """Fault in the field: a step that died half way is taken for done."""
    monkeypatch.setattr(index_module, "SHARD_ROWS", 16)
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    undisturbed = make(task, model, tmp_path / "a")
    ranked(undisturbed)
    original, calls = index_module.IndexBuilder._make, []

    def dies_on_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(index_module.IndexBuilder, "_make", dies_on_third)
    with pytest.raises(KeyboardInterrupt):
        ranked(make(task, model, tmp_path / "b"))
    ranked(make(task, model, tmp_path / "b"))
    assert len(calls) == 3 + 2, "finished shards are not encoded again"
    for path in (tmp_path / "a").rglob("shard-*.npy"):
        twin = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == twin.read_bytes()


@pytest.mark.parametrize("fault", ["flip", "truncate", "foreign"])
def test_damaged_or_foreign_shards_are_refused(tmp_path, model, fault):
    task = make_task(tmp_path / "task", many_texts(), QUERIES)
    ranked(make(task, model, tmp_path))
    (path,) = (tmp_path / "cache").rglob("shard-*.npy")
    if fault == "flip":
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data)
    elif fault == "truncate":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        sidecar = path.with_suffix(".json")
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "key": "another"}))
    with pytest.raises(UserError, match="foreign or damaged"):
        ranked(make(task, model, tmp_path))


def test_unit_norm_comes_after_the_hessian():
    """Fault in the field: norms before R^(-1/2). A passage's score with itself must be 1."""
    raw = torch.randn(4, 12, dtype=torch.float64)
    whitening, _ = full(hessian.autocorrelation([12], [raw * torch.arange(12)]), 1e-3)
    done = Finish(whitening, True, torch.float64, raw.device)(raw)
    assert torch.allclose(done.norm(dim=1), torch.ones(4, dtype=torch.float64))
