"""A small model and gradient methods on lists of texts, for tests of methods, index and search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.models import second_moments
from bench.models.language_model import LanguageModel
from bench.tasks.base import Query
from methods.base import Context
from methods.gradient.codecs import Storage
from methods.gradient.estimate import Hessian
from methods.gradient.features import CheckpointWeights
from methods.gradient.loss import Output
from methods.gradient.method import Gradient, GradientConfig
from methods.gradient.parameters import Adapters, BlockLayout, Unsupported
from methods.gradient.whitening import HessianForm
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
    "output": Output.loss, "passage_weight": False, "correct_queries": True, "checkpoints": 1,
    "checkpoint_weights": CheckpointWeights.equal, "block_layout": BlockLayout.groups,
    "layers": None, "adapters": Adapters.base, "unsupported": Unsupported.refuse, "seed": 0,
}  # fmt: skip


def toy_model(folder) -> LanguageModel:
    """One layer of width 8, with Adafactor's second moments."""
    return with_moments(load(make_model(folder / "model", layers=1, hidden=8)), folder, "adafactor")


@dataclass(frozen=True)
class ToyRecipe:
    """Brings what ``toy_model`` made in ``folder``, in any process."""

    folder: Path

    def __call__(self) -> LanguageModel:
        model = load(self.folder / "model")
        model.second_moments = second_moments.load(
            self.folder / "adafactor.safetensors", model.module
        )
        return model


def make(task, model, tmp_path, *, engine=None, recipe=None, **settings) -> Gradient:
    """A method; with an engine, ``recipe`` brings the model to other processes."""
    context = Context(task, tmp_path / "cache", load_model=lambda: model)
    if engine is not None:
        context = replace(context, engine=engine, model_recipe=recipe)
    return Gradient(GradientConfig(**{**DEFAULTS, **settings}), context)


def ranked(method: Gradient, top_k: int = 100):
    method.check()
    method.index()
    return list(method.search(method.context.task.queries, top_k))


def many_texts(n: int = 60) -> list[str]:
    rng = np.random.default_rng(0)
    words = " ".join(TEXTS).split()
    return [" ".join(rng.choice(words, rng.integers(3, 14))) for _ in range(n)]
