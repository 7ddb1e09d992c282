"""What a plan says of training a model and of measuring lists, beside what is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import bench.plan.planning
from bench.plan.measuring import retrained_models
from bench.plan.model import Speed
from bench.plan.planning import Plan, make_plan, plan_settings
from bench.plan.sweep import costs
from bench.tasks.base import Query
from metrics.retraining import RetrainingTruth
from metrics.settings import RetrainingConfig

GIVEN = ("plan.passages=1000", "plan.queries=300", "plan.tokens_per_passage=20")


@pytest.fixture(autouse=True)
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.plan.planning, "calibrate", lambda *_, **__: Speed(1e9, "a stub"))


def planned(*words: str) -> Plan:
    return make_plan(*plan_settings(words))


def named(plan: Plan, start: str) -> list:
    return [step for step in plan.passes if step.name.startswith(start)]


def test_a_model_that_is_trained_here_is_trained_once_in_a_sweep() -> None:
    words = ("model=tiny", *GIVEN, "model.epochs=3")
    (train,) = named(planned(*words, "method=grad_cos"), "train the model")
    assert train.rows == 3000
    assert not named(planned("model=quickstart", *GIVEN, "method=grad_cos"), "train the model")
    cells = [plan_settings([*words, f"method={name}"]) for name in ("grad_cos", "grad_dot")]
    first, second = costs(["a", "b"], cells)
    assert [step.name for step in first.passes].count("train the model") == 1
    assert "train the model" not in [step.name for step in second.passes]


def test_tail_patch_steps_on_the_first_proponents_of_the_asked_queries() -> None:
    words = ("model=quickstart", "method=grad_cos", *GIVEN)
    (patch,) = named(planned(*words), "tail-patch")
    assert patch.rows == 200 * 10  # of conf/metric/default.yaml
    assert patch.spread
    more = ("metric.tail_patch.top=3", "metric.tail_patch.n_queries=null")
    (patch,) = named(planned(*words, *more, "metric.tail_patch.opponents=true"), "tail-patch")
    assert patch.rows == 300 * 3 * 2
    assert not named(planned(*words, "metric=attribution"), "tail-patch")


@pytest.mark.parametrize(
    ("removal", "group", "qld", "subsets", "seeds"),
    [(4, 2, 0, 3, 1), (5, 2, 3, 0, 2), (0, 1, 2, 4, 1)],
)
def test_retrained_models_are_those_that_retraining_asks_for(
    removal: int, group: int, qld: int, subsets: int, seeds: int
) -> None:
    config = RetrainingConfig(
        seeds=seeds, removal_queries=removal, removal_group=group, removal_top=2,
        lds_subsets=subsets, lds_share=0.5, qld_queries=qld, qld_share=0.1,
    )  # fmt: skip
    queries = [Query(f"q{number}", "p", "t") for number in range(6)]
    asked: set = set()

    def retrain(removals):
        asked.update(removals)
        return np.zeros((len(removals), len(queries)))

    truth = RetrainingTruth(config, queries, [1] * 6, 40, 10, 0, retrain)
    ranked = {
        query.query_id: (np.arange(number * 6, number * 6 + 6), np.linspace(1, 0, 6))
        for number, query in enumerate(queries)
    }
    ids = list(ranked)
    truth.measure(ranked, {"removal": ids[:removal], "qld": ids[:qld]})
    assert len(asked) == retrained_models(config)
    assert retrained_models(replace(config, seeds=seeds + 1)) > retrained_models(config)


def test_retraining_takes_as_many_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("model=tiny", "method=grad_cos", *GIVEN, "model.epochs=3", "metric=retraining")
    plan = planned(*words)
    (again,), (once,) = named(plan, "train ")[1:], named(plan, "train the model")
    models = retrained_models(plan_settings(words)[0].metric.retraining)
    assert again.name == f"train {models:,} models again"
    assert again.flops == pytest.approx(models * once.flops)
