"""From rankings to numbers: who is counted, in which group, and what the table of queries holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.run import evaluation as evaluation_module
from bench.run.evaluation import Evaluation, measure, spread
from bench.tasks.base import Query, Task
from bench.tasks.passages import Passage, PassageStore, write_passages
from methods.base import Context, NoSettings, Ranking
from methods.controls import Gold
from metrics.measures import LENGTH_RATIO, MEASURES
from metrics.settings import Cluster, MetricConfig, NoGold, TailPatchConfig
from tests.fixtures.helpers import make_task
from tests.fixtures.models import load, make_model

TEXTS = [f"Passage number {i} says little." for i in range(8)]
QUERIES = (
    Query("q0", "a", "x", gold_rows=(3,), slices={"relation": "instrument", "source": "web"}),
    Query("q1", "b", "x", slices={"relation": "born in"}),  # nobody states it
    Query("q2", "c", "x", gold_rows=(1, 5), slices={"relation": "instrument"}),
    Query("q3", "d", "x", gold_rows=(0,), slices={"relation": "capital of", "source": "book"}),
)
ROWS = {"q0": [2, 3], "q1": [0, 1], "q2": [5, 1], "q3": [7, 6]}  # mrr 1/2, -, 1, 0


def config(tail_patch: bool = False, **settings: Any) -> MetricConfig:
    patch = TailPatchConfig(
        enabled=tail_patch,
        top=2,
        n_queries=settings.pop("n_queries", None),
        optimizer="sgd",
        learning_rate=0.1,
        clip=1.0,
        opponents=settings.pop("opponents", False),
        memory_mib=512,
    )
    defaults = {
        "attribution": ["mrr", "recall@2"],
        "judge": None,
        "retraining": None,
        "no_gold": NoGold.skip,
        "bootstrap_samples": 50,
        "cluster": Cluster.none,
    }
    return MetricConfig(**{**defaults, **settings}, tail_patch=patch)


def ranking(query_id: str, rows: Sequence[int]) -> Ranking:
    scores = np.arange(len(rows), 0, -1, dtype=np.float64)
    return Ranking(query_id, np.array(rows, dtype=np.int64), scores)


def evaluated(
    task: Task, rows: dict[str, list[int]] = ROWS, settings: MetricConfig | None = None
) -> Evaluation:
    context = Context(task, task.passages.folder / "cache")
    rankings = [ranking(query.query_id, rows[query.query_id]) for query in task.queries]
    return measure(settings or config(), context, rankings, seed=3, top_k=100)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "task", TEXTS, QUERIES)


# ------------------------------------------------------------------ which queries


def test_spread_is_even() -> None:
    assert spread(range(10), None) == range(10)
    assert spread(range(10), 10) == range(10)
    assert spread(range(10), 11) == range(10)
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(10), 1) == [0]
    for n in range(1, 30):
        chosen = spread(range(30), n)
        assert len(set(chosen)) == n
        gaps = np.diff([*chosen, 30 + chosen[0]])
        assert gaps.max() - gaps.min() <= 1


def test_without_gold_skip(task: Task) -> None:
    found = evaluated(task)
    assert found.n_scored == 3
    assert found.metrics["mrr"].value == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found.metrics["recall@2"].value == pytest.approx((1 + 1 + 0) / 3)
    assert found.metrics["mrr"].n == 3
    assert found.per_query["mrr"].isna().tolist() == [False, True, False, False]


def test_without_gold_zero(task: Task) -> None:
    found = evaluated(task, settings=config(no_gold=NoGold.zero))
    assert found.n_scored == 4
    assert found.metrics["mrr"].value == pytest.approx((1 / 2 + 0 + 1 + 0) / 4)
    assert found.per_query["mrr"].tolist() == [0.5, 0, 1, 0]


def test_nobody_has_gold(tmp_path: Path) -> None:
    queries = [dataclasses.replace(query, gold_rows=()) for query in QUERIES]
    found = evaluated(make_task(tmp_path / "task", TEXTS, queries))
    assert (found.n_scored, set(found.metrics)) == (0, {LENGTH_RATIO})
    assert [set(group) for group in found.slices["relation"].values()] == [{LENGTH_RATIO}] * 3


def test_without_annotation_there_is_no_attribution(tmp_path: Path) -> None:
    found = evaluated(make_task(tmp_path / "task", TEXTS, QUERIES, annotated=False))
    assert (found.n_scored, set(found.metrics)) == (0, {LENGTH_RATIO})
    assert "mrr" not in found.per_query
    assert set(found.slices) == {"relation", "source"}
    assert found.per_query["query_id"].tolist() == ["q0", "q1", "q2", "q3"]


# ------------------------------------------------------------------ the table and the groups


def test_the_table_is_in_the_order_of_the_queries(task: Task) -> None:
    table = evaluated(task).per_query
    assert table["query_id"].tolist() == ["q0", "q1", "q2", "q3"]
    assert table["n_gold"].tolist() == [1, 0, 2, 1]
    np.testing.assert_array_equal(table["mrr"], [0.5, np.nan, 1, 0])
    assert table["relation"].tolist() == ["instrument", "born in", "instrument", "capital of"]
    assert list(table.drop(columns=LENGTH_RATIO)) == [
        "query_id", "n_gold", "mrr", "recall@2", "relation", "source"
    ]  # fmt: skip


def test_slices_are_means_of_their_queries(task: Task) -> None:
    slices = evaluated(task).slices
    assert set(slices) == {"relation", "source"}
    relation = slices["relation"]
    assert relation["instrument"]["mrr"].value == 0.75
    assert relation["instrument"]["mrr"].n == 2
    assert relation["capital of"]["mrr"].value == 0
    assert set(relation["born in"]) == {LENGTH_RATIO}, "its only query is not scored"
    assert {k: v["mrr"].value for k, v in slices["source"].items()} == {"book": 0.0, "web": 0.5}


def test_length_ratio_is_that_of_each_querys_first_passages(tmp_path: Path) -> None:
    """A method that favours long passages is seen by their length over that of the corpus."""
    texts = ["ab", "abcd", "abcdef", "abcdefgh"]  # 5 characters on average
    task = make_task(tmp_path / "task", texts, QUERIES[:2])
    found = evaluated(task, {"q0": [3, 2], "q1": [0]})
    assert found.per_query[LENGTH_RATIO].tolist() == [7 / 5, 2 / 5]
    assert found.metrics[LENGTH_RATIO].value == pytest.approx(0.9)


def test_repetitions_are_a_slice_where_there_are_any(tmp_path: Path) -> None:
    """The target's words in the prompt: a method may match words and be right all the same."""
    queries = [dataclasses.replace(q, is_repetition=q.query_id == "q2") for q in QUERIES]
    found = evaluated(make_task(tmp_path / "task", TEXTS, queries))
    assert found.per_query["is_repetition"].tolist() == ["false", "false", "true", "false"]
    groups = found.slices["is_repetition"]
    assert {label: group["mrr"].value for label, group in groups.items()} == {
        "false": 0.25, "true": 1.0
    }  # fmt: skip
    assert set(found.slices) == {"is_repetition", "relation", "source"}


def test_a_seed_makes_the_intervals(task: Task) -> None:
    context = Context(task, task.passages.folder)
    rankings = [ranking(query_id, rows) for query_id, rows in ROWS.items()]
    first, again, other = (
        measure(config(bootstrap_samples=5), context, rankings, seed, top_k=100)
        for seed in (0, 0, 1)
    )
    assert first.metrics == again.metrics
    assert first.metrics["mrr"].ci95 != other.metrics["mrr"].ci95


# ------------------------------------------------------------------ kinds of support


def statement(subject: str, relation: str, of: str, **more: Any) -> dict[str, Any]:
    return {"subject": subject, "relation": relation, "object": of, **more}


@pytest.fixture
def stated(tmp_path: Path) -> Task:
    """Rows 0-3: the fact of q0, its denial, another of its subject, nothing; q1 has no passage."""
    facts = [("al", "plays", "trombone", "plain"), ("al", "plays", "trombone", "denied"),
             ("al", "born in", "oslo", "plain"), None]  # fmt: skip
    statements = [fact and statement(*fact[:3], manner=fact[3]) for fact in facts]
    asked = [statement(*fact, hops=[], near=[]) for fact in (facts[0][:3], ("bo", "plays", "lute"))]
    queries = [
        Query("q0", "a", "x", gold_rows=(0,), statement=asked[0]),
        Query("q1", "b", "x", statement=asked[1]),
    ]
    folder = tmp_path / "stated"
    task = make_task(folder, TEXTS[:4], queries)
    write_passages(
        (Passage(row, f"p{row}", TEXTS[row], (), said) for row, said in enumerate(statements)),
        folder,
    )
    return dataclasses.replace(task, passages=PassageStore(folder))


def shares_of(found: Evaluation) -> dict[str, float]:
    return {kind: v["share"].value for kind, v in found.slices["top10_support"].items()}


def test_support_shares(stated: Task) -> None:
    found = evaluated(stated, {"q0": [3, 1, 2, 0], "q1": [3, 2]})
    # Strongest kind first; q0 has one of each, q1 only what does not speak of it.
    assert list(shares_of(found).items()) == [
        ("entails", 0.125), ("denied", 0.125), ("same_subject", 0.125), ("unrelated", 0.625)
    ]  # fmt: skip
    columns = [name for name in found.per_query if name.startswith("top10_support=")]
    np.testing.assert_allclose(found.per_query[columns].sum(axis=1), 1)
    assert found.per_query["top10_support=unrelated"].tolist() == [0.25, 1.0]


def test_only_the_first_ten_proponents_have_a_share(
    stated: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluation_module._SUPPORT_DEPTH == 10
    monkeypatch.setattr(evaluation_module, "_SUPPORT_DEPTH", 1)
    found = evaluated(stated, {"q0": [0, 3], "q1": [3, 2]})
    assert shares_of(found) == {"entails": 0.5, "unrelated": 0.5}


def test_gold_has_empty_rankings(stated: Task) -> None:
    context = Context(stated, stated.passages.folder)
    rankings = list(Gold(NoSettings(), context).search(stated.queries, 10))
    assert [len(one.rows) for one in rankings] == [1, 0]
    found = measure(config(), context, rankings, seed=0, top_k=100)
    assert shares_of(found) == {"entails": 1.0}, "a query without proponents has no shares"
    assert found.slices["top10_support"]["entails"]["share"].n == 1
    np.testing.assert_array_equal(found.per_query["top10_support=entails"], [1, np.nan])
    assert found.metrics["mrr"].value == 1


def test_all_rankings_empty(stated: Task) -> None:
    found = evaluated(stated, {"q0": [], "q1": []})
    assert found.slices["top10_support"] == {}
    assert found.metrics["mrr"].value == 0
    assert found.per_query["query_id"].tolist() == ["q0", "q1"]


def test_tasks_without_statements_have_no_shares(task: Task) -> None:
    found = evaluated(task)
    assert "top10_support" not in found.slices
    assert not any("support" in name for name in found.per_query)


# ------------------------------------------------------------------ influence


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """With a model, and targets that it can be asked for."""
    queries = [dataclasses.replace(query, target="trombone") for query in QUERIES]
    task = make_task(tmp_path / "task", TEXTS, queries)
    model = load(make_model(tmp_path / "model", layers=1))
    return Context(task, tmp_path / "cache", load_model=lambda: model)


@pytest.fixture
def rankings() -> list[Ranking]:
    return [ranking(query.query_id, ROWS[query.query_id]) for query in QUERIES]


def test_influence_of_the_chosen_queries(context: Context, rankings: list[Ranking]) -> None:
    found = measure(config(tail_patch=True, n_queries=2), context, rankings, seed=0, top_k=100)
    table = found.per_query
    assert table["query_id"].tolist() == ["q0", "q1", "q2", "q3"]
    assert table["tail_patch"].notna().tolist() == [True, False, True, False]
    assert found.metrics["tail_patch"].n == found.metrics["base_probability"].n == 2
    assert found.metrics["tail_patch"].value == pytest.approx(table["tail_patch"].mean())
    assert found.metrics["mrr"].n == found.n_scored == 3, "influence leaves attribution alone"
    assert found.slices["relation"]["instrument"]["tail_patch"].n == 2
    assert "tail_patch" not in found.slices["relation"]["capital of"]
    assert [phase.name for phase in context.phases.records] == ["attribution", "tail_patch"]
    assert "base_log_probability" not in found.metrics


def test_opponents_are_patched_where_asked(context: Context, rankings: list[Ranking]) -> None:
    turned = [  # the same passages as opponents: the same steps
        dataclasses.replace(r, opponent_rows=r.rows, opponent_scores=-r.scores) for r in rankings
    ]
    asked = config(tail_patch=True, n_queries=2, opponents=True)
    found = measure(asked, context, turned, seed=0, top_k=100).per_query
    assert found["tail_patch"].notna().any()
    for name in ("tail_patch", "tail_patch_log"):
        assert found[f"opponent_{name}"].tolist() == pytest.approx(
            found[name].tolist(), nan_ok=True
        )
    without = measure(asked, context, rankings, seed=0, top_k=100)
    assert without.per_query["opponent_tail_patch"].isna().all(), "a method that has none"
    assert "opponent_tail_patch" not in without.metrics
    silent = measure(config(tail_patch=True, n_queries=2), context, turned, seed=0, top_k=100)
    assert not any("opponent" in name for name in silent.per_query)


def test_without_tail_patch_no_model_is_asked_for(task: Task) -> None:
    found = evaluated(task)  # this context has no model: asking for it raises
    assert not set(found.metrics) & {one.name for one in MEASURES if one.needs_model}


def test_the_change_of_each_proponent_is_kept(context: Context, rankings: list[Ranking]) -> None:
    found = measure(config(tail_patch=True, n_queries=2), context, rankings, seed=0, top_k=100)
    means = found.per_query.set_index("query_id")["tail_patch"]
    assert set(found.changes) == {"q0", "q2"}
    for query_id, changes in found.changes.items():
        assert len(changes) == min(2, len(ROWS[query_id]))
        assert np.mean(changes) == pytest.approx(means[query_id], abs=1e-12)
