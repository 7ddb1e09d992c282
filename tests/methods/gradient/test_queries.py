"""Queries of several answers: the gradient of -log of their summed probability, by autograd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.models.language_model import LanguageModel, Tokens
from bench.tasks.base import Query
from methods.base import Context
from methods.gradient.checkpoints import CheckpointEncoder
from methods.gradient.datainf import DataInf
from methods.gradient.encoder import GradientEncoder
from methods.gradient.queries import encode_queries
from methods.gradient.search import MemoryPlan
from methods.gradient.settings import (
    Adapters,
    Hessian,
    InfluenceConfig,
    Output,
    Unsupported,
)
from tests.fixtures.gradient_methods import QUERIES, make, ranked, toy_model
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, load, make_model
from tests.fixtures.switches import switches
from tests.oracles import summed_answers
from tests.oracles.brute_force_trackstar import features, scores
from tests.oracles.brute_force_trackstar import gradients as gradients_of

SUMMED = (
    replace(QUERIES[0], accepted=("Oslo", "a band"), summed=True),
    QUERIES[1],
    replace(QUERIES[2], accepted=("Virginia",), summed=True),
)
MATRICES = [
    "gpt_neox.layers.0.attention.query_key_value.weight",
    "gpt_neox.layers.0.attention.dense.weight",
    "gpt_neox.layers.0.mlp.dense_h_to_4h.weight",
    "gpt_neox.layers.0.mlp.dense_4h_to_h.weight",
]


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    return toy_model(tmp_path)


def explicit(model: LanguageModel, module, queries=SUMMED) -> list[list[np.ndarray]]:
    """The gradient of each matrix for each query, from texts."""
    rows = []
    for query in queries:
        prompt = model.tokenizer(query.prompt)["input_ids"]
        answers = [
            model.tokenizer(f"{query.prompt} {name}")["input_ids"][len(prompt) :]
            for name in (query.target, *(query.accepted if query.summed else ()))
        ]
        rows.append(summed_answers.gradients(module, prompt, answers, MATRICES))
    return rows


def flat(rows: list[list[np.ndarray]]) -> np.ndarray:
    return np.stack([np.concatenate([part.ravel() for part in row]) for row in rows])


def trainable(folder: Path):
    return load(folder).module.double().requires_grad_(True)


@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize("hessian", [Hessian.none, Hessian.mixed])
def test_scores_are_those_of_the_explicit_function(
    tmp_path: Path, model: LanguageModel, correction: bool, hessian: Hessian
) -> None:
    method = make(
        make_task(tmp_path / "task", TEXTS, SUMMED), model, tmp_path, projection_dim=None,
        optimizer_correction=correction, hessian=hessian,
    )  # fmt: skip
    module, blocks = trainable(tmp_path / "model"), [[0, 1], [2, 3]]
    moments = None
    if correction:
        found = [model.second_moments[name] for name in MATRICES]
        moments = [(one.row.double().numpy(), one.col.double().numpy()) for one in found]
    passages = [(model.passage_tokens(text).ids, 1) for text in TEXTS]
    expected = scores(
        features(gradients_of(module, passages, MATRICES), blocks, moments),
        features(explicit(model, module), blocks, moments), hessian.value, 0.9, 1e-2, True,
    )  # fmt: skip
    for ranking, row in zip(ranked(method), expected, strict=True):
        np.testing.assert_allclose(ranking.scores, row[ranking.rows], rtol=2e-4, atol=1e-6)
        assert ranking.rows.tolist() == np.argsort(-row, kind="stable").tolist()
    best = ranked(make(
        make_task(tmp_path / "best", TEXTS, [replace(one, summed=False) for one in SUMMED]), model,
        tmp_path, projection_dim=None, optimizer_correction=correction, hessian=hessian,
    ))  # fmt: skip
    assert best[0].scores.tolist() != ranked(method)[0].scores.tolist(), "the sum plays a part"


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_each_checkpoint_weighs_by_its_own_probabilities(
    tmp_path: Path, model: LanguageModel, batch_size: int
) -> None:
    """With a passage weight behind the features, which nothing weighs."""
    other = load(make_model(tmp_path / "other", layers=1, hidden=8, seed=7))
    settings = switches(projection_dim=None, passage_weight=True)
    encoder = CheckpointEncoder(
        [GradientEncoder(one, settings) for one in (other, model)], [0.5, 0.5], weighted=True
    )
    answers = [model.query_answers(query) for query in SUMMED]
    assert [len(own) for own in answers] == [3, 1, 2]
    found = encode_queries(encoder, answers, batch_size)
    folders = (tmp_path / "other", tmp_path / "model")
    expected = np.hstack([flat(explicit(model, trainable(folder))) for folder in folders])
    np.testing.assert_allclose(found[:, :-1].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_influence_functions_take_the_same_gradient(tmp_path: Path, model: LanguageModel) -> None:
    config = InfluenceConfig(
        damping=0.1, sample=None, opponents=0, memory_mib=64, batch_size=4, batch_tokens=None,
        layers=None, adapters=Adapters.base, unsupported=Unsupported.refuse, seed=0,
    )  # fmt: skip
    task = make_task(tmp_path / "task", TEXTS, SUMMED)
    method = DataInf(config, Context(task, tmp_path / "cache", load_model=lambda: model))
    method.index()
    found = method._encoded(SUMMED, MemoryPlan(queries=3, rows=4, candidates=4))
    expected = flat(explicit(model, trainable(tmp_path / "model")))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_another_output_has_no_sum(tmp_path: Path, model: LanguageModel) -> None:
    task = make_task(tmp_path / "task", TEXTS, SUMMED)
    for output in (Output.margin, Output.logit):
        with pytest.raises(UserError, match=rf"^method.output={output.value}: task.answers=sum is"):
            make(task, model, tmp_path, output=output).check()
    plain = [Query("q", "Al Grey plays the", "trombone")]
    make(make_task(tmp_path / "p", TEXTS, plain), model, tmp_path, output=Output.margin).check()


def test_only_a_batch_of_answers_is_encoded_at_a_time(model: LanguageModel) -> None:
    encoder = GradientEncoder(model, switches(projection_dim=None))
    sizes = []
    encode = encoder.encode

    def counting(batch: list[Tokens]) -> torch.Tensor:
        sizes.append(len(batch))
        return encode(batch)

    encoder.encode = counting  # type: ignore[method-assign]
    encode_queries(encoder, [model.query_answers(query) for query in SUMMED], 2)
    assert sizes == [2, 2, 2]
