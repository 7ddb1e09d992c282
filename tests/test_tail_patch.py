"""Tail-patch against a deep copy per pair; restoring, caching and faults."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.models.language_model import LanguageModel, Tokens, target_log_probs
from bench.models.second_moments import Factored, SecondMoments
from bench.tasks.base import Query
from metrics import tail_patch as tail_patch_module
from metrics.optimizer_step import NotFiniteError, OptimizerStep
from metrics.tail_patch import TailPatch, TailPatchConfig
from tests.deep_copy_tail_patch import delta
from tests.helpers import make_task
from tests.models import TEXTS, load, make_model, with_moments

QUERIES = (
    Query("q0", "Al Grey plays the", "trombone"),
    Query("q1", "Marla Venn comes from", "Oslo"),
    Query("q2", "The language of Free Birds is", "English"),
)
PROPONENTS = {"q0": [0, 1, 4], "q1": [3, 0, 5], "q2": [2, 1, 0]}


@pytest.fixture
def model(tmp_path) -> LanguageModel:
    return with_moments(load(make_model(tmp_path / "model")), tmp_path, "adafactor")


def config(**settings) -> TailPatchConfig:
    defaults = {
        "enabled": True, "top": 10, "n_queries": None, "optimizer": "saved", "learning_rate": 3e-3
    }  # fmt: skip
    return TailPatchConfig(**{**defaults, **settings})


def moments_of(model: LanguageModel) -> dict:
    return {
        name: (m.row, m.col) if isinstance(m, Factored) else (m.value,)
        for name, m in model.second_moments.by_name.items()
    }


def expected(model: LanguageModel, learning_rate: float, moments: dict | None, top: int = 10):
    rows = []
    for query in QUERIES:
        tokens = model.query_tokens(query.query_id, query.prompt, query.target)
        prompt, target = tokens.ids[: tokens.loss_from], tokens.ids[tokens.loss_from :]
        pairs = [
            delta(
                model.module, model.passage_tokens(TEXTS[row]).ids, prompt, target,
                learning_rate, moments,
            )
            for row in PROPONENTS[query.query_id][:top]
        ]  # fmt: skip
        rows.append(np.mean(pairs, axis=0))
    return np.array(rows)


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
@pytest.mark.parametrize("optimizer", ["saved", "sgd"])
def test_equals_a_deep_copy_per_pair(tmp_path, architecture, optimizer):
    folder = make_model(tmp_path / "model", architecture)
    model = with_moments(load(folder), tmp_path, "adafactor")
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    measured = (
        TailPatch(config(optimizer=optimizer), model, task, tmp_path / "cache")
        .measure(QUERIES, PROPONENTS)
        .table()
    )
    moments = moments_of(model) if optimizer == "saved" else None
    want = expected(load(folder), 3e-3, moments)
    np.testing.assert_allclose(measured["tail_patch"], want[:, 0], atol=1e-6)
    np.testing.assert_allclose(measured["tail_patch_log"], want[:, 1], rtol=1e-4, atol=1e-5)
    assert np.abs(want[:, 1]).min() > 1e-3, "a step that changes nothing tests nothing"


def test_only_the_first_proponents_count(tmp_path, model):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    measured = (
        TailPatch(config(top=1), model, task, tmp_path / "cache")
        .measure(QUERIES, PROPONENTS)
        .table()
    )
    want = expected(model, 3e-3, moments_of(model), top=1)
    np.testing.assert_allclose(measured["tail_patch_log"], want[:, 1], rtol=1e-4, atol=1e-5)


def test_sign_is_kept():
    """A step on the statement helps its own continuation and hurts a competing one."""
    # On a two-token model: p(1 | 0) rises after a step on "0 1" and falls after one on "0 2".
    module = torch.nn.Module()
    module.table = torch.nn.Parameter(torch.zeros(3, 3))

    class Bigram(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.zeros(3, 3))

        def forward(self, input_ids, use_cache=False):
            return type("Output", (), {"logits": self.table[input_ids]})

    bigram = LanguageModel("bigram", Bigram().requires_grad_(False), None, 8, "")
    step = OptimizerStep(bigram, learning_rate=0.6, second_moments=None)
    query = Tokens([0, 1], loss_from=1)
    base = math.exp(target_log_probs(bigram, [query])[0][0])
    assert base == pytest.approx(1 / 3)
    with step.on(Tokens([0, 1], 1)):
        up = math.exp(target_log_probs(bigram, [query])[0][0])
    with step.on(Tokens([0, 2], 1)):
        down = math.exp(target_log_probs(bigram, [query])[0][0])
    # gradient of -log softmax at zero logits: p - onehot; the step adds lr × (onehot - 1/3)
    weights = np.exp(0.6 * (np.array([0, 1, 0]) - 1 / 3))
    assert up == pytest.approx(weights[1] / weights.sum(), abs=1e-6)
    assert down == pytest.approx(weights[0] / weights.sum(), abs=1e-6)
    assert down < base < up


def test_weights_are_restored_bit_for_bit(tmp_path, model):
    before = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    step = OptimizerStep(model, 0.1, model.second_moments)
    with step.on(model.passage_tokens(TEXTS[0])):
        changed = [
            name for name, p in model.module.named_parameters() if not torch.equal(p, before[name])
        ]
    assert len(changed) == len(before), "every parameter takes part in the step"
    for name, parameter in model.module.named_parameters():
        assert torch.equal(parameter, before[name])
        assert not parameter.requires_grad


def test_weights_are_restored_when_the_block_fails(model):
    before = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    step = OptimizerStep(model, 0.1, model.second_moments)
    with pytest.raises(RuntimeError, match="inside"), step.on(model.passage_tokens(TEXTS[0])):
        raise RuntimeError("inside")
    assert all(torch.equal(p, before[name]) for name, p in model.module.named_parameters())


def test_dropout_stays_off(tmp_path):
    model = load(make_model(tmp_path / "model", "gpt2"))  # dropout 0.1 by default
    step = OptimizerStep(model, 0.1, None)
    query = [model.query_tokens("q", "Al Grey plays the", "trombone")]
    values = []
    for _ in range(2):
        with step.on(model.passage_tokens(TEXTS[0])):
            values.append(target_log_probs(model, query)[0][0])
    assert values[0] == values[1]


def test_long_targets_do_not_underflow(tmp_path, model):
    with torch.no_grad():  # a model so sure of something else that float32 exp gives 0
        model.module.get_output_embeddings().weight.mul_(30)
    target = "trombone Oslo English " * 3
    task = make_task(tmp_path / "task", TEXTS, ())
    query = Query("long", "Al Grey", target.strip())
    frame = (
        TailPatch(config(), model, task, tmp_path / "cache").measure([query], {"long": [0]}).table()
    )
    assert frame["base_log_probability"][0] < -100
    assert np.isfinite(frame["tail_patch_log"][0])
    assert frame["tail_patch_log"][0] != 0


def test_each_passage_is_stepped_once_and_known_pairs_never(tmp_path, model, monkeypatch):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    stepped: list[int] = []
    original = TailPatch._measure_passage

    def counting(self, step, row, queries):
        stepped.append(row)
        return original(self, step, row, queries)

    monkeypatch.setattr(TailPatch, "_measure_passage", counting)
    patch = TailPatch(config(), model, task, tmp_path / "cache")
    first = patch.measure(QUERIES, PROPONENTS).table()
    assert sorted(stepped) == [0, 1, 2, 3, 4, 5]
    stepped.clear()
    again = (
        TailPatch(config(), model, task, tmp_path / "cache").measure(QUERIES, PROPONENTS).table()
    )
    assert not stepped
    assert first.equals(again)
    more = {**PROPONENTS, "q1": [4]}
    TailPatch(config(), model, task, tmp_path / "cache").measure(QUERIES, more).table()
    assert stepped == [4], "only the new pair costs a step"
    TailPatch(config(learning_rate=1e-4), model, task, tmp_path / "cache").measure(
        QUERIES, PROPONENTS
    ).table()
    assert len(stepped) == 7, "another learning rate is another measurement"


def test_a_query_without_proponents_is_not_averaged(tmp_path, model):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    rows = {**PROPONENTS, "q1": []}
    frame = TailPatch(config(), model, task, tmp_path / "cache").measure(QUERIES, rows).table()
    assert frame["tail_patch"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adamw"}, "metric.tail_patch.optimizer"),
        ({"learning_rate": None}, "metric.tail_patch.learning_rate"),
    ],
)
def test_wrong_settings_are_named(tmp_path, model, change, message):
    model.learning_rate = None
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    with pytest.raises(UserError, match=message):
        TailPatch(config(**change), model, task, tmp_path)


def test_no_second_moments_says_what_to_do(tmp_path):
    model = load(make_model(tmp_path / "model"))
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    with pytest.raises(UserError, match="optimizer=sgd"):
        TailPatch(config(), model, task, tmp_path)


def test_a_missing_moment_is_named(model):
    partial = SecondMoments({}, "")
    with pytest.raises(UserError, match=r"no second moment for parameter gpt_neox\.embed_in"):
        OptimizerStep(model, 0.1, partial)


def test_nan_loss_is_an_error(model):
    step = OptimizerStep(model, 0.1, None)
    parameter = next(iter(model.module.parameters()))
    parameter.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN"), step.on(model.passage_tokens(TEXTS[0])):
        pass


def test_version_is_part_of_the_cache(tmp_path, model, monkeypatch):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    first = TailPatch(config(), model, task, tmp_path)._cache_path
    monkeypatch.setattr(tail_patch_module, "STEP_VERSION", 999)
    assert TailPatch(config(), model, task, tmp_path)._cache_path != first


def test_a_passage_without_a_finite_loss_is_named_and_not_averaged(tmp_path, model, monkeypatch):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    bad = PROPONENTS[QUERIES[0].query_id][0]
    gradients = OptimizerStep._gradients

    def failing(self, passage):
        if passage.ids == model.passage_tokens(TEXTS[bad]).ids:
            raise NotFiniteError("the loss of a passage is NaN or infinite")
        return gradients(self, passage)

    sound = TailPatch(config(), model, task, tmp_path / "sound").measure(QUERIES, PROPONENTS)
    assert sound.not_finite == []
    monkeypatch.setattr(OptimizerStep, "_gradients", failing)
    for _ in range(2):  # the second time from the cache, which must not hold what is no number
        patched = TailPatch(config(), model, task, tmp_path / "cache").measure(QUERIES, PROPONENTS)
        assert patched.not_finite == [f"p{bad}"]
        found = patched.table().set_index("query_id")["tail_patch"]
        expected = sound.table().set_index("query_id")["tail_patch"]
        for query in QUERIES:
            if bad in PROPONENTS[query.query_id][:10]:
                assert np.isnan(found[query.query_id])
            else:
                assert found[query.query_id] == expected[query.query_id]
    assert np.isnan(patched.changes()[QUERIES[0].query_id][0])
    assert np.isfinite(patched.changes()[QUERIES[0].query_id][1:]).all()
