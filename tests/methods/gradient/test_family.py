"""TRAK, TracIn, LESS, LoGra and other outputs than the loss, against loops of autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from bench.core.errors import UserError
from bench.models.checkpoints import load_checkpoint, spread_checkpoints
from bench.models.language_model import Checkpoint, LanguageModel
from methods.gradient.parameters import gradient_matrices
from methods.gradient.settings import BlockLayout, CheckpointWeights, Hessian, Output
from tests.fixtures.gradient_methods import QUERIES, make, ranked, toy_model
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, load, make_model, with_moments
from tests.fixtures.switches import switches

RATES = (0.3, 0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LanguageModel:
    """A model with one earlier checkpoint, that of another seed."""
    folder = tmp_path_factory.mktemp("toy")
    model = toy_model(folder)
    earlier = make_model(folder / "earlier", seed=1, layers=1, hidden=8)
    with_moments(load(earlier), folder, "adafactor")
    (folder / "adafactor.safetensors").rename(earlier / "second_moments.safetensors")
    model.checkpoints = [Checkpoint(earlier, RATES[0])]
    model = with_moments(model, folder, "adafactor")
    model.learning_rate = RATES[1]
    return model


@pytest.fixture
def task(tmp_path):
    return make_task(tmp_path / "task", TEXTS, QUERIES)


def gradient(model: LanguageModel, tokens, output: Output, names=None, corrected=False):
    """Gradient of ``-Σ_t output`` for one text, all matrices in one vector, by autograd."""
    module = model.module.double().requires_grad_(True)
    logits = module(input_ids=torch.tensor([tokens.ids])).logits[0]
    total = 0.0
    for t in range(tokens.loss_from, len(tokens.ids)):
        line, right = logits[t - 1], tokens.ids[t]
        p = torch.softmax(line, -1)[right]
        value = {"loss": p.log(), "logit": line[right], "margin": (p / (1 - p)).log()}
        total = total - value[output.value]
    matrices = gradient_matrices(module, switches())
    names = names or [matrix.name for matrix in matrices]
    parameters = dict(module.named_parameters())
    found = torch.autograd.grad(total, [parameters[name] for name in names])
    if corrected:
        moments = model.second_moments
        found = [g * moments[n].inverse_sqrt() for g, n in zip(found, names, strict=True)]
    module.requires_grad_(False)
    return torch.cat([g.flatten() for g in found])


def doubt(model: LanguageModel, tokens) -> float:
    """Mean of 1 - p over the tokens that have a loss."""
    logits = model.module.double()(input_ids=torch.tensor([tokens.ids])).logits[0]
    p = [
        torch.softmax(logits[t - 1], -1)[tokens.ids[t]]
        for t in range(tokens.loss_from, len(tokens.ids))
    ]
    return float(1 - sum(p) / len(p)) if p else 0.0


def both_sides(model, output=Output.loss, corrected=(False, False)):
    passages = [model.passage_tokens(text) for text in TEXTS]
    queries = [model.query_tokens(q) for q in QUERIES]
    return (
        torch.stack([gradient(model, t, output, corrected=corrected[0]) for t in passages]),
        torch.stack([gradient(model, t, output, corrected=corrected[1]) for t in queries]),
    )


def agree(found, expected: torch.Tensor) -> None:
    for ranking, row in zip(found, expected.numpy(), strict=True):
        np.testing.assert_allclose(ranking.scores, row[ranking.rows], rtol=2e-4, atol=1e-7)
        assert ranking.rows.tolist() == np.argsort(-row, kind="stable").tolist()


PLAIN = {
    "optimizer_correction": False, "hessian": Hessian.none, "unit_norm": False,
    "projection_dim": None,
}  # fmt: skip


@pytest.mark.parametrize("output", list(Output))
def test_outputs_are_those_of_autograd(tmp_path, model, task, output):
    method = make(task, model, tmp_path, **PLAIN, output=output)
    passages, queries = both_sides(model, output)
    agree(ranked(method), queries @ passages.T)


def test_the_margin_of_a_certain_token_is_finite(tmp_path):
    """p / (1 - p) overflows long before its gradient does."""
    folder = make_model(tmp_path / "model", layers=1, hidden=8)
    certain = load(folder, torch.float32)
    with torch.no_grad():
        certain.module.get_output_embeddings().weight.mul_(300)
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    found = ranked(make(task, certain, tmp_path, **PLAIN, output=Output.margin))
    assert all(np.isfinite(ranking.scores).all() for ranking in found)


def test_tracin_sums_over_checkpoints_by_learning_rate(tmp_path, model, task):
    method = make(
        task, model, tmp_path, **PLAIN, checkpoints=2,
        checkpoint_weights=CheckpointWeights.learning_rate,
    )  # fmt: skip
    expected = 0.0
    for one, rate in zip((load_checkpoint(model.checkpoints[0], model), model), RATES, strict=True):
        passages, queries = both_sides(one)
        expected = expected + rate / sum(RATES) * queries @ passages.T
    agree(ranked(method), expected)


def test_rates_that_are_all_zero_are_an_error(tmp_path, model, task):
    model = replace(model, checkpoints=[replace(model.checkpoints[0], learning_rate=0.0)])
    model.learning_rate = 0.0
    settings = {"checkpoints": 2, "checkpoint_weights": CheckpointWeights.learning_rate}
    with pytest.raises(UserError, match="checkpoint_learning_rates"):
        ranked(make(task, model, tmp_path, hessian=Hessian.none, **settings))


def test_less_corrects_passages_alone_and_sums_cosines(tmp_path, model, task):
    method = make(
        task, model, tmp_path, **{**PLAIN, "optimizer_correction": True, "unit_norm": True},
        correct_queries=False, checkpoints=2, checkpoint_weights=CheckpointWeights.learning_rate,
    )  # fmt: skip
    expected = 0.0
    for one, rate in zip((load_checkpoint(model.checkpoints[0], model), model), RATES, strict=True):
        passages, queries = both_sides(one, corrected=(True, False))
        cosines = cosine_similarity(queries[:, None], passages[None], dim=2)
        expected = expected + rate / sum(RATES) * cosines
    agree(ranked(method), expected)


def test_trak_is_its_formula(tmp_path, model, task):
    """φ_q (ΦᵀΦ)^(-1) φ_i averaged over checkpoints, times 1 - p averaged over checkpoints."""
    settings = {**PLAIN, "hessian": Hessian.train, "damping": 1e-2, "checkpoints": 2}
    method = make(
        task, model, tmp_path, **settings, output=Output.margin, passage_weight=True,
        block_layout=BlockLayout.single,
    )  # fmt: skip
    scores, weights = [], []
    for one in (load_checkpoint(model.checkpoints[0], model), model):
        passages, queries = both_sides(one, Output.margin)
        r = passages.T @ passages / len(passages)
        r += settings["damping"] * r.trace() / len(r) * torch.eye(len(r))
        scores.append(queries @ torch.linalg.inv(r) @ passages.T)
        weights.append([doubt(one, one.passage_tokens(text)) for text in TEXTS])
    expected = torch.stack(scores).mean(0) * torch.tensor(weights).double().mean(0)
    agree(ranked(method), expected.detach())


def test_logra_has_one_hessian_a_matrix(tmp_path, model, task):
    settings = {**PLAIN, "hessian": Hessian.train, "damping": 0.1}
    method = make(task, model, tmp_path, **settings, block_layout=BlockLayout.matrices)
    expected = 0.0
    for matrix in gradient_matrices(model.module, switches()):
        passages, queries = (
            torch.stack([gradient(model, t, Output.loss, [matrix.name]) for t in tokens])
            for tokens in (
                [model.passage_tokens(text) for text in TEXTS],
                [model.query_tokens(q) for q in QUERIES],
            )
        )
        r = passages.T @ passages / len(passages)
        r += 0.1 * r.trace() / len(r) * torch.eye(len(r))
        expected = expected + queries @ torch.linalg.inv(r) @ passages.T
    agree(ranked(method), expected)


def test_layers_that_count(tmp_path):
    model = load(make_model(tmp_path / "model", layers=3))
    names = [matrix.name for matrix in gradient_matrices(model.module, switches(layers=[-1, 0]))]
    assert {name.split(".")[2] for name in names} == {"0", "2"}
    with pytest.raises(UserError, match="layers 0 to 2"):
        gradient_matrices(model.module, switches(layers=[3]))


def test_checkpoints_are_spread_and_end_with_the_model(model, tmp_path, task):
    model = load(make_model(tmp_path / "model"))
    model.checkpoints = [Checkpoint(tmp_path / str(n), 0.1) for n in range(1, 10)]
    chosen = [one.folder.name for one in spread_checkpoints(model, 5)]
    assert chosen == ["2", "4", "6", "8"], "of ten, every second; the tenth is the model"
    assert not spread_checkpoints(model, 1)
    assert len(spread_checkpoints(model, 10)) == 9
    with pytest.raises(UserError, match="has 10"):
        spread_checkpoints(model, 11)


def test_too_few_checkpoints_are_an_error_before_work(tmp_path, model, task):
    with pytest.raises(UserError, match=r"method\.checkpoints"):
        make(task, model, tmp_path, checkpoints=3).check()
    assert not (tmp_path / "cache").exists()


def test_a_checkpoint_of_another_geometry_is_refused(tmp_path, model, task):
    model = toy_model(tmp_path)
    other = make_model(tmp_path / "other", layers=2, hidden=8)
    model.checkpoints = [Checkpoint(other, 0.1)]
    with pytest.raises(UserError, match="its parameters have other names or shapes"):
        make(task, model, tmp_path, **PLAIN, checkpoints=2).index()
