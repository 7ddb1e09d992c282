"""A model whose layers are on two devices, which are simulated, beside the same model on one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.models.devices import let_rest
from bench.models.language_model import LanguageModel
from bench.models.loading import load_directory
from bench.models.moments_estimate import estimate
from bench.models.predictions import predictions
from methods.base import Context
from methods.gradient.ekfac import Ekfac
from methods.gradient.encoder import GradientEncoder
from methods.gradient.settings import EkfacConfig, Labels
from methods.query_text import QueryPart
from methods.representation import Pooling, RepresentationConfig, RepresentationSimilarity
from metrics.optimizer_step import OptimizerStep
from tests.fixtures.gradient_methods import INFLUENCE_DEFAULTS, QUERIES, make, ranked
from tests.fixtures.helpers import make_task
from tests.fixtures.labelled_devices import FIRST, SECOND, labels, on_labelled
from tests.fixtures.models import TEXTS, make_model, with_moments
from tests.fixtures.switches import switches

# Where each part is: the two layers apart, and the last products on another device than the tokens.
PLACES = {
    "llama": {
        "model.embed_tokens": FIRST, "model.rotary_emb": FIRST, "model.layers.0": FIRST,
        "model.layers.1": SECOND, "model.norm": SECOND, "lm_head": SECOND,
    },
    "gpt_neox": {
        "gpt_neox.embed_in": FIRST, "gpt_neox.emb_dropout": FIRST, "gpt_neox.rotary_emb": FIRST,
        "gpt_neox.layers.0": FIRST, "gpt_neox.layers.1": SECOND,
        "gpt_neox.final_layer_norm": SECOND, "lm_head": SECOND,
    },
}  # fmt: skip
CLOSE = 1e-10  # relative, of float64: sums over layers of both devices have another order


@pytest.fixture(scope="module", params=list(PLACES))
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / request.param
    return make_model(path, request.param, layers=2, hidden=16)


@pytest.fixture
def two_devices() -> Iterator[None]:
    with labels():
        yield


def opened(folder: Path, place: Path, kind: str = "adafactor") -> LanguageModel:
    double = torch.float64
    model = load_directory("toy", folder, device="cpu", dtype=double, gradient_dtype=double)
    return with_moments(model, place, kind)


def on_both(folder: Path, place: Path, ask: Callable[[LanguageModel], Any], kind: str) -> list[Any]:
    """What a function says of the model on one device, and spread over two."""
    whole, model = opened(folder, place, kind), opened(folder, place, kind)
    on_labelled(model.module, PLACES[folder.name])
    assert {one.device for one in model.module.parameters()} == {FIRST, SECOND}
    assert model.device == FIRST
    return [ask(whole), ask(model)]


def assert_close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(
        one.cpu(), other.cpu(), rtol=CLOSE, atol=CLOSE * float(one.abs().max())
    )


@pytest.mark.usefixtures("two_devices")
def test_the_simulation_refuses_what_gpus_refuse():
    one, other = torch.ones(3, device=FIRST), torch.ones(3).to(SECOND)
    with pytest.raises(RuntimeError, match=r"lazy:0.*lazy:1"):
        one + other
    with pytest.raises(RuntimeError, match=r"cpu.*lazy:0"):
        one + torch.ones(3)
    assert (one + other.to(FIRST)).device == FIRST
    assert (one + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]


@pytest.mark.usefixtures("two_devices")
@pytest.mark.parametrize("kind", ["adafactor", "adam"])
@pytest.mark.parametrize("dim", [4, None])
def test_features_and_shares(folder, tmp_path, kind, dim):
    settings = switches(projection_dim=dim, layer_blocks=1)  # a block has layers of both devices

    def encoded(model: LanguageModel) -> list[Tensor]:
        encoder = GradientEncoder(model, settings, model.second_moments)
        texts = [model.passage_tokens(text) for text in TEXTS]
        features = encoder.encode(texts)
        return [features, encoder.shares(texts[0], encoder.sharing(features[1]))]

    one, other = on_both(folder, tmp_path, encoded, kind)
    assert other[0].device == FIRST
    for first, second in zip(one, other, strict=True):
        assert_close(first, second)


@pytest.mark.slow
@pytest.mark.usefixtures("two_devices")
def test_rankings(folder, tmp_path):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    places = iter("ab")

    def lists(model: LanguageModel) -> list[Any]:
        place = tmp_path / next(places)
        context = Context(task, place, lambda: model)
        repsim = RepresentationConfig(1, Pooling.mean, True, QueryPart.prompt_and_target, 4)
        ekfac = EkfacConfig(**INFLUENCE_DEFAULTS, labels=Labels.sampled)
        return [
            *ranked(make(task, model, place, projection_dim=4)),
            *ranked(RepresentationSimilarity(repsim, context)),
            *ranked(Ekfac(ekfac, context)),
        ]

    for one, other in zip(*on_both(folder, tmp_path, lists, "adafactor"), strict=True):
        assert np.array_equal(one.rows, other.rows)
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)


@pytest.mark.usefixtures("two_devices")
@pytest.mark.parametrize("kind", ["adafactor", "adam"])
def test_steps(folder, tmp_path, kind):
    def stepped(model: LanguageModel) -> list[Any]:
        before = [one.clone() for one in model.module.parameters()]
        step = OptimizerStep(model, 1e-3, model.second_moments, 1.0, 512)
        passage, query = model.passage_tokens(TEXTS[0]), model.query_tokens(QUERIES[0])
        (after,) = step.after([passage], [[query]])
        assert all(map(torch.equal, before, model.module.parameters()))
        return [*after.log_probs, *step.log_probs([query]), after.clipped, after.rms]

    one, other = on_both(folder, tmp_path, stepped, kind)
    assert one == pytest.approx(other, rel=1e-9)
    assert one[0] != one[1]


@pytest.mark.slow
@pytest.mark.usefixtures("two_devices")
def test_predictions_and_estimates(folder, tmp_path):
    def asked(model: LanguageModel) -> list[Any]:
        answers = [(one.answer, one.right) for one in predictions(model, QUERIES, 4)]
        state, _ = estimate(model, iter([[model.passage_tokens(text) for text in TEXTS]]))
        return [answers, state]

    (answers, state), (others, estimated) = on_both(folder, tmp_path, asked, "adam")
    assert answers == others
    for name, fields in state.items():
        for field, value in fields.items():
            torch.testing.assert_close(value, estimated[name][field].cpu(), rtol=1e-5, atol=1e-20)


@pytest.mark.usefixtures("two_devices")
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_weights_rest_in_cpu_memory_and_are_used_on_the_first_device(family, tmp_path):
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    options = experts if family == "mixtral" else {}
    folder = make_model(tmp_path / family, family, layers=2, hidden=16, **options)
    whole, model = opened(folder, tmp_path), opened(folder, tmp_path)
    resting = {"model.layers.0": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    on_labelled(model.module, {**PLACES["llama"], **resting})
    let_rest(model.module)
    names = [name for name, one in model.module.named_parameters() if one.is_meta]
    assert {name.rpartition(".layers.0.")[0] for name in names} == {"", "model"}

    def made(one: LanguageModel) -> list[Tensor]:
        encoder = GradientEncoder(one, switches(projection_dim=4), one.second_moments)
        passage, query = one.passage_tokens(TEXTS[0]), one.query_tokens(QUERIES[0])
        features = encoder.encode([passage])
        step = OptimizerStep(one, 1e-3, one.second_moments, 1.0, 0)
        (after,) = step.after([passage], [[query]])
        shares = encoder.shares(passage, encoder.sharing(features[0]))
        return [features, shares, torch.tensor([*after.log_probs, after.clipped, after.rms])]

    for first, second in zip(made(whole), made(model), strict=True):
        assert_close(first, second)
    assert [name for name, one in model.module.named_parameters() if one.is_meta] == names
