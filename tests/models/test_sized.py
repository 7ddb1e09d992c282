"""Models of a given geometry: trained by a command of their own, then used by any run."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core.errors import UserError
from bench.models.language_model import LanguageModel
from bench.models.settings import Geometry
from bench.models.sized import Sized
from bench.models.tuning_settings import SizedConfig
from bench.tasks.base import Query, Task
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, finetuned_source, make_model

QUERIES = (Query("q0", "Al Grey plays the", "trombone"), Query("q1", "Marla Venn", "was born"))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "task", TEXTS, QUERIES)


def sized_source(**settings: Any) -> Sized:
    train = copy.deepcopy(finetuned_source(Path()).config.train)
    train = replace(train, batch_size=None, batch_tokens=96, accumulate=2, precision="bfloat16")
    of_training = {key: settings.pop(key) for key in list(settings) if hasattr(train, key)}
    config = SizedConfig(
        train=replace(train, **of_training), append_eos=True, context_length=None, checkpoint=None,
        gradient_dtype="float32", projection_dim=4, seed=0, tokenizer=None, dtype="float32",
        geometry=Geometry("llama", 16, 2, 2, 32, 300, 64),
    )  # fmt: skip
    return Sized("toy", replace(config, **settings))


def trained(task: Task, cache: str = "a", **settings: Any) -> LanguageModel:
    source, folder = sized_source(**settings), task.passages.folder / cache
    source.train(task, folder, "cpu")
    return source.load(task, folder, "cpu")


def weights(model: LanguageModel) -> list[torch.Tensor]:
    return [value.detach() for value in model.module.parameters()]


def test_it_is_of_the_geometry_and_learns(task: Task) -> None:
    model = trained(task, epochs=6, learning_rate=1e-2)
    config: Any = model.module.config
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (16, 2, 300)
    assert model.context_length == 64
    assert model.passage_tokens("Oslo").ids[-1] == model.tokenizer.eos_token_id
    losses = [epoch["loss"] for epoch in model.training["epochs"]]
    assert losses[-1] < losses[0] - 0.3
    assert set(model.second_moments.by_name) == {n for n, _ in model.module.named_parameters()}
    assert len(model.checkpoints) == 5
    assert all(value.dtype == torch.float32 for value in weights(model))
    half = sized_source(epochs=6, learning_rate=1e-2, dtype="bfloat16")
    loaded = half.load(task, task.passages.folder / "a", "cpu")
    assert loaded.module.dtype == torch.bfloat16
    assert half.identity(task) != sized_source(epochs=6, learning_rate=1e-2).identity(task)


def test_a_run_does_not_begin_its_training(task: Task, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model toy: is not trained on this task's passages yet"):
        sized_source().load(task, tmp_path, "cpu")
    assert not list(tmp_path.glob("models/*"))


def test_what_is_computed_again_is_the_same(task: Task) -> None:
    once, again = trained(task, "a"), trained(task, "b", recompute=True)
    assert all(map(torch.equal, weights(once), weights(again)))
    assert sized_source().identity(task) == sized_source(recompute=True).identity(task)


def test_seeds_make_other_models(task: Task) -> None:
    first, same, other = trained(task, "a"), trained(task, "b"), trained(task, "c", seed=1)
    assert first.sha256 == same.sha256 != other.sha256


def test_queries_matter_only_where_they_are_read(task: Task, tmp_path: Path) -> None:
    fewer = make_task(tmp_path / "fewer", TEXTS, QUERIES[:1])
    assert sized_source().identity(task) == sized_source().identity(fewer)
    for change in ({"until": 0.5}, {"statements": 1.0}):
        assert sized_source(**change).identity(task) != sized_source(**change).identity(fewer)
    changes = ({"seed": 1}, {"geometry": Geometry("llama", 16, 3, 2, 32, 300, 64)})
    assert all(sized_source(**c).identity(task) != sized_source().identity(task) for c in changes)


def test_a_tokenizer_that_is_given(task: Task, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "other", layers=1)
    model = trained(task, tokenizer=str(folder), epochs=1)
    assert len(model.tokenizer) == 300
    assert sized_source(tokenizer=str(folder)).identity(task) != sized_source().identity(task)
    small = Geometry("llama", 16, 2, 2, 32, 200, 64)
    with pytest.raises(UserError, match="its tokenizer has 300 ids and its embedding 200 rows"):
        trained(task, "b", tokenizer=str(folder), geometry=small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_length": 65}, r"model\.context_length=65: the model reads 64 tokens at most"),
        ({"tokenizer": "/none"}, r"model\.tokenizer=/none: no such directory"),
        ({"dtype": "float23"}, r"model\.dtype: unknown dtype 'float23'"),
        (
            {"geometry": Geometry("llama", 15, 2, 2, 32, 300, 64)},
            r"model\.geometry\.num_heads: hidden_size 15 is not a multiple",
        ),
    ],
)
def test_a_wrong_setting_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sized_source(**change).check()


def test_random_weights_take_no_adapter(task: Task) -> None:
    source = sized_source()
    source.config.train.lora.rank = 4
    with pytest.raises(UserError, match=r"model\.train\.lora\.rank: random weights are no base"):
        source.check()
