"""Tail-patch against a deep copy per pair, one at a time and side by side; restoring."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from bench.models.language_model import LanguageModel, Tokens, target_log_probs
from bench.models.second_moments import Factored
from bench.tasks.base import Query
from metrics import optimizer_step as step_module
from metrics.optimizer_step import OptimizerStep
from tests.fixtures.helpers import make_task
from tests.fixtures.models import FAMILIES, FLOAT32_INSIDE, TEXTS, load, make_model, with_moments
from tests.fixtures.tail_patches import PROPONENTS, QUERIES, config, serial_patch
from tests.oracles.deep_copy_tail_patch import delta, patched, step_facts


def log_probs_after(step: OptimizerStep, passages, queries) -> list[list[float]]:
    return [stepped.log_probs for stepped in step.after(passages, queries)]


def moments_of(model: LanguageModel) -> dict:
    return {
        name: (m.row, m.col) if isinstance(m, Factored) else (m.value,)
        for name, m in model.second_moments.by_name.items()
    }


def expected(
    model: LanguageModel,
    learning_rate: float,
    top: int = 10,
    clip: float | None = 1.0,
    epsilon: float = 0.0,
) -> np.ndarray:
    """Means over each query's proponents: Δp, Δ log p, share of tensors clipped, RMS of a step."""
    module = copy.deepcopy(model.module).double()
    moments = moments_of(model) if model.second_moments else None
    rows = []
    for query in QUERIES:
        tokens = model.query_tokens(query)
        prompt, target = tokens.ids[: tokens.loss_from], tokens.ids[tokens.loss_from :]
        pairs = []
        for row in PROPONENTS[query.query_id][:top]:
            passage = model.passage_tokens(TEXTS[row]).ids
            step = (learning_rate, moments, clip, epsilon)
            changes = delta(module, passage, prompt, target, *step)
            pairs.append((*changes, *step_facts(module, passage, *step)))
        rows.append(np.mean(pairs, axis=0))
    return np.array(rows)


COLUMNS = ("tail_patch", "tail_patch_log", "tail_patch_clipped", "tail_patch_step")


@pytest.mark.parametrize(
    ("architecture", "optimizer", "clip"),
    [
        *((family, "adafactor", 1) for family in FAMILIES),
        ("gpt2", "adam", 1),
        ("gpt2", "adam", "none"),
        ("gpt_neox", "adafactor", "none"),
        ("llama", "adafactor", 2.0),  # between the lengths of the updates: some are clipped
        ("gpt_neox", "sgd", 1),
        ("gpt_neox", "sgd", 1e-3),
    ],
)
def test_equals_a_deep_copy_per_pair(tmp_path, architecture, optimizer, clip):
    """In float64, on both sides: in float32 both round to about 1e-4."""
    model = load(make_model(tmp_path / "model", architecture, **FAMILIES[architecture]))
    if optimizer != "sgd":
        model = with_moments(model, tmp_path, optimizer)
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    rate = 1e-4 if clip == "none" else 3e-3
    setting = config(
        optimizer="sgd" if optimizer == "sgd" else "saved", clip=clip, learning_rate=rate
    )
    patch = serial_patch(setting, model, task, tmp_path / "cache")
    measured = patch.measure(QUERIES, PROPONENTS).table()
    epsilon = 1e-8 if optimizer == "adam" else 0.0
    want = expected(model, rate, clip=None if clip == "none" else clip, epsilon=epsilon)
    for column, of_all, error in zip(COLUMNS, want.T, (1e-6, 1e-5, 1e-9, 1e-9), strict=True):
        np.testing.assert_allclose(measured[column], of_all, atol=error)
    if optimizer != "sgd":
        assert np.abs(want[:, 1]).max() > 1e-3, "a step that changes nothing tests nothing"
    if clip == 2.0:
        assert (want[:, 2] > 0).all()
        assert (want[:, 2] < 1).all()
    assert patch.settings["optimizer"] == optimizer


def test_a_step_whose_every_tensor_is_clipped_is_as_long_as_the_learning_rate(tmp_path, model):
    """Nothing of the gradient's length is then left: passages differ in direction alone."""
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    for clip in (1e-6, 2e-6):
        setting = config(clip=clip, learning_rate=0.5)
        table = serial_patch(setting, model, task, tmp_path).measure(QUERIES, PROPONENTS).table()
        assert table["tail_patch_clipped"].tolist() == [1, 1, 1]
        np.testing.assert_allclose(table["tail_patch_step"], 0.5 * clip, rtol=1e-7)


def test_only_the_first_proponents_count(tmp_path, model):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    measured = (
        serial_patch(config(top=1), model, task, tmp_path / "cache")
        .measure(QUERIES, PROPONENTS)
        .table()
    )
    want = expected(model, 3e-3, top=1)
    np.testing.assert_allclose(measured["tail_patch_log"], want[:, 1], atol=1e-5)


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

    three_tokens = range(3)  # in the place of a tokenizer, of which its size alone is asked
    bigram = LanguageModel("bigram", Bigram().requires_grad_(False), three_tokens, 8, "")
    step = OptimizerStep(bigram, learning_rate=0.6, second_moments=None, clip=None)
    query = Tokens([0, 1], loss_from=1)
    base = math.exp(target_log_probs(bigram, [query])[0][0])
    assert base == pytest.approx(1 / 3)
    passages = [Tokens([0, 1], 1), Tokens([0, 2], 1)]
    [[up], [down]] = np.exp(log_probs_after(step, passages, [[query], [query]]))
    # gradient of -log softmax at zero logits: p - onehot; the step adds lr × (onehot - 1/3)
    weights = np.exp(0.6 * (np.array([0, 1, 0]) - 1 / 3))
    assert up == pytest.approx(weights[1] / weights.sum(), abs=1e-6)
    assert down == pytest.approx(weights[0] / weights.sum(), abs=1e-6)
    assert down < base < up


def test_no_model_is_copied(tmp_path, model, monkeypatch):
    """Fault in the field: a deep copy of the model for each proponent."""

    def copied(value, *_):
        pytest.fail(f"copies {type(value).__name__}")

    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    patch = serial_patch(config(), model, task, tmp_path / "cache")
    monkeypatch.setattr(torch.nn.Module, "__deepcopy__", copied, raising=False)
    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", copied)
    with pytest.raises(pytest.fail.Exception, match="copies "):
        copy.deepcopy(model.module)
    assert patch.measure(QUERIES, PROPONENTS).table()["tail_patch"].notna().any()


@pytest.mark.parametrize("passages", [1, 2])
def test_the_models_own_weights_stay_bit_for_bit(model, passages):
    before = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    places = {name: p.data_ptr() for name, p in model.module.named_parameters()}
    step = OptimizerStep(model, 0.1, model.second_moments, clip=1.0)
    stepped, *_ = step._stepped([model.passage_tokens(text) for text in TEXTS[:passages]])
    step.after(
        [model.passage_tokens(text) for text in TEXTS[:passages]],
        [[model.query_tokens(Query("q", "Al Grey plays the", "trombone"))]] * passages,
    )
    for name, weight in before.items():
        assert stepped[name].shape == (passages, *weight.shape)
        for one in stepped[name]:
            assert not torch.equal(one, weight.to(one.dtype)), (
                "every parameter takes part in the step"
            )
    for name, parameter in model.module.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.data_ptr() == places[name]
        assert not parameter.requires_grad
        assert parameter.grad is None


@pytest.mark.parametrize("passages", [1, 2])
def test_parameters_that_share_a_gradient_each_step_by_it(tmp_path, passages):
    """Autograd gives both terms of a sum one tensor, in which nothing may be written twice."""
    model = load(make_model(tmp_path / "model", "gpt_neox", **FAMILIES["gpt_neox"]))

    class Shifted(type(model.module)):
        def forward(self, **inputs):
            out = super().forward(**inputs)
            out.logits = out.logits + (self.one_shift + self.other_shift)
            return out

    model.module.__class__ = Shifted
    for place, name in enumerate(("one_shift", "other_shift")):
        shift = torch.full((model.module.config.vocab_size,), 0.1 * place)
        model.module.register_parameter(name, torch.nn.Parameter(shift, requires_grad=False))
    texts = [model.passage_tokens(text) for text in TEXTS[:passages]]
    stepped, *_ = OptimizerStep(model, 0.1, None, clip=1.0)._stepped(texts)
    module = copy.deepcopy(model.module).double()
    for number, text in enumerate(texts):
        want = dict(patched(module, text.ids, 0.1, None).named_parameters())
        assert (want["one_shift"] != module.one_shift).any()
        for name, weight in want.items():
            torch.testing.assert_close(stepped[name][number], weight.detach())


@pytest.mark.parametrize("architecture", list(FAMILIES))
@pytest.mark.parametrize("optimizer", ["adafactor", "adam", None])
def test_side_by_side_equals_one_at_a_time(tmp_path, architecture, optimizer):
    """Unequal passages, unequal numbers of queries, tied weights; in float64, so to rounding."""
    options = FAMILIES[architecture]
    model = load(make_model(tmp_path / "model", architecture, layers=2, **options))
    if optimizer:
        model = with_moments(model, tmp_path, optimizer)
    step = OptimizerStep(model, 6e-3 if optimizer else 0.1, model.second_moments, clip=1.0)
    passages = [model.passage_tokens(text) for text in TEXTS]
    tokens = [model.query_tokens(q) for q in QUERIES]
    asked = [tokens, tokens[:1], tokens[1:], tokens[2:], tokens[:2], tokens[:1]]
    together = log_probs_after(step, passages, asked)
    base = target_log_probs(model, tokens)[0]
    for passage, queries, values in zip(passages, asked, together, strict=True):
        [alone] = log_probs_after(step, [passage], [queries])
        np.testing.assert_allclose(
            values, alone, rtol=1e-5 if architecture in FLOAT32_INSIDE else 1e-9
        )
        assert np.abs(np.array(values) - [base[tokens.index(q)] for q in queries]).max() > 1e-3


def test_more_queries_than_go_at_once(model, monkeypatch):
    monkeypatch.setattr(step_module, "QUERIES_AT_ONCE", 2)
    step = OptimizerStep(model, 0.1, None, clip=None)
    tokens = [model.query_tokens(q) for q in QUERIES]
    passages = [model.passage_tokens(text) for text in TEXTS[:2]]
    whole, part = log_probs_after(step, passages, [tokens, tokens[:1]])
    assert [len(whole), len(part)] == [3, 1]
    for query, value in zip(tokens, whole, strict=True):
        assert log_probs_after(step, passages[:1], [[query]])[0][0] == pytest.approx(
            value, rel=1e-4
        )


def test_a_model_that_cannot_run_side_by_side_goes_one_at_a_time(tmp_path, model, capsys):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    want = serial_patch(config(), model, task, tmp_path / "want").measure(QUERIES, PROPONENTS)
    forward = model.module.forward

    def branching(input_ids, **rest):
        if input_ids.sum().item() < 0:  # what vmap refuses: a branch on a value
            raise AssertionError
        return forward(input_ids=input_ids, **rest)

    model.module.forward = branching
    found = serial_patch(config(), model, task, tmp_path / "found").measure(QUERIES, PROPONENTS)
    assert capsys.readouterr().err.count("one passage at a time from here on") == 1
    for query_id, outcomes in want.after.items():
        np.testing.assert_allclose(found.after[query_id], outcomes, atol=1e-4)


def test_memory_decides_how_many_go_side_by_side(model):
    size = 2 * sum(p.nbytes for p in model.module.parameters())  # of float64
    config = model.module.config
    token = 8 * (4 * config.vocab_size + 20 * config.hidden_size * config.num_hidden_layers)
    for mib, tokens, most in [(0, 1, 1), (7 * size / 2**20, 0, 3), (2**20, 9, 32)]:
        step = OptimizerStep(model, 0.1, None, None, mib)
        assert [step.has_room_for(n, tokens) for n in (most, most + 1)] == [True, False]
    step = OptimizerStep(model, 0.1, None, None, 2 * (2 * size + 10 * token) / 2**20)
    assert step.has_room_for(2, 10)
    assert not step.has_room_for(2, 11)


def test_what_goes_side_by_side_moves_no_digit(tmp_path, model):
    """In float64; a run that goes on after a kill steps on other passages together."""
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    alone = serial_patch(config(memory_mib=0), model, task, tmp_path / "a").measure(
        QUERIES, PROPONENTS
    )
    serial_patch(config(), model, task, tmp_path / "b").measure(QUERIES[:1], PROPONENTS)
    resumed = serial_patch(config(), model, task, tmp_path / "b").measure(QUERIES, PROPONENTS)
    assert resumed == alone


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_a_step_of_nothing_changes_nothing(tmp_path, kind):
    """Before and after are of one dtype, whatever that of the weights."""
    model = load(make_model(tmp_path / "model"), torch.float32)
    model.module.to(kind)
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    nothing = config(optimizer="sgd", learning_rate=1e-30)
    frame = serial_patch(nothing, model, task, tmp_path / "c").measure(QUERIES, PROPONENTS).table()
    # A few units in the last place of a float32 log-probability near 10: how kernels sum up differs
    # between kinds of processors. In half precisions a difference of dtypes would show as 1e-3.
    np.testing.assert_allclose(frame["tail_patch_log"], 0, atol=1e-5)


@pytest.mark.parametrize("memory_mib", [0, 512])
@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
def test_an_empty_passage_changes_nothing(tmp_path, architecture, memory_mib):
    model = load(make_model(tmp_path / "model", architecture))
    texts = ["", TEXTS[0], "", TEXTS[1]]
    task = make_task(tmp_path / "task", texts, QUERIES[:1])
    setting = config(optimizer="sgd", memory_mib=memory_mib)
    for rows in ([0, 2], [0, 1, 2, 3]):
        patched = serial_patch(setting, model, task, tmp_path / "c").measure(
            QUERIES[:1], {"q0": rows}
        )
        changes = dict(zip(rows, patched.changes()["q0"], strict=True))
        assert changes[0] == pytest.approx(0, abs=1e-9)
        assert changes[2] == pytest.approx(0, abs=1e-9)
    assert abs(changes[1]) > 1e-9


def test_dropout_stays_off(tmp_path):
    model = load(make_model(tmp_path / "model", "gpt2"))  # dropout 0.1 by default
    model.module.train()  # as somebody may have left it
    step = OptimizerStep(model, 0.1, None, clip=None)
    query = [model.query_tokens(Query("q", "Al Grey plays the", "trombone"))]
    passage = model.passage_tokens(TEXTS[0])
    assert log_probs_after(step, [passage], [query]) == log_probs_after(step, [passage], [query])


def test_long_targets_do_not_underflow(tmp_path, model):
    with torch.no_grad():  # a model so sure of something else that float32 exp gives 0
        model.module.get_output_embeddings().weight.mul_(30)
    target = "trombone Oslo English " * 3
    task = make_task(tmp_path / "task", TEXTS, ())
    query = Query("long", "Al Grey", target.strip())
    frame = (
        serial_patch(config(), model, task, tmp_path / "cache")
        .measure([query], {"long": [0]})
        .table()
    )
    assert frame["base_log_probability"][0] < -100
    assert np.isfinite(frame["tail_patch_log"][0])
    assert frame["tail_patch_log"][0] != 0


def test_a_query_without_proponents_is_not_averaged(tmp_path, model):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    rows = {**PROPONENTS, "q1": []}
    frame = serial_patch(config(), model, task, tmp_path / "cache").measure(QUERIES, rows).table()
    assert frame["tail_patch"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize("passages", [1, 2])
def test_without_a_finite_loss_there_is_no_number(model, passages):
    next(iter(model.module.parameters())).fill_(float("nan"))
    step = OptimizerStep(model, 0.1, None, clip=None)
    query = model.query_tokens(Query("q", "Al Grey plays the", "trombone"))
    texts = [model.passage_tokens(text) for text in TEXTS[:passages]]
    assert np.isnan(log_probs_after(step, texts, [[query]] * passages)).all()
