"""Metrics of rankings in memory: those of a cell with the same lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tdabench

TASK = {"name": "factworld", "n_passages": 400, "n_facts": 40}
GOLD = [
    {"query_id": "a", "prompt": "A is", "target": "x", "gold": ["1", "2"]},
    {"query_id": "b", "prompt": "B is", "target": "y", "gold": ["3"]},
    {"query_id": "c", "prompt": "C is", "target": "z"},
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tdabench.Results:
    folder = tmp_path_factory.mktemp("cells")
    return tdabench.run(
        task=TASK, method="bm25", metric="attribution", quiet=True,
        results_dir=folder / "runs", cache_dir=folder / "cache",
    )  # fmt: skip


def lists_of(results: tdabench.Results) -> dict[str, list[str]]:
    queries = results.per_query().query_id.unique()
    return {query: results.rankings(query).passage_id.tolist() for query in queries}


def values(frame: Any) -> dict[str, tuple[float, float, float, int]]:
    return {row.metric: (row.value, row.low, row.high, row.n) for row in frame.itertuples()}


def test_numbers_are_those_of_the_cell(results: tdabench.Results, tmp_path: Path) -> None:
    metrics = ("recall@10", "mrr", "hit@1")
    frame = tdabench.evaluate(lists_of(results), TASK, metrics, cache_dir=tmp_path)
    estimates = results.cells[0].result.metrics
    assert list(frame.metric) == list(metrics)
    assert values(frame) == {
        name: (estimates[name].value, *estimates[name].ci95, estimates[name].n) for name in metrics
    }


def test_queries_with_gold_need_no_corpus() -> None:
    """c has no gold and is not scored; of a, one of two is listed, behind a wrong one."""
    lists = {"a": ["9", "2", "8"], "b": ["3", "9", "1"], "c": ["1", "2", "3"]}
    frame = tdabench.evaluate(lists, GOLD, ("mrr", "hit@1", "recall@2", "precision@3"))
    assert frame.value.tolist() == [0.75, 0.5, 0.75, 1 / 3]
    assert frame.n.tolist() == [2] * 4
    assert (frame.low <= frame.value).all()
    assert (frame.value <= frame.high).all()


def test_a_cell_and_its_gold_alone_have_the_same_numbers(results: tdabench.Results) -> None:
    from bench.api.words import words_of
    from bench.run.composing import composed
    from bench.run.parts import Parts
    from bench.run.settings import settings_from

    cache = results.cells[0].config["cache_dir"]
    task = Parts(settings_from(composed(words_of({"task": TASK, "cache_dir": cache}), "x"))).task
    queries = [
        {
            "query_id": query.query_id, "prompt": query.prompt, "target": query.target,
            "relation": query.relation,
            "gold": [task.passages[row].passage_id for row in query.gold_rows],
        }
        for query in task.queries
    ]  # fmt: skip
    lists = lists_of(results)
    with_corpus = tdabench.evaluate(lists, TASK, cache_dir=cache)
    assert values(tdabench.evaluate(lists, queries)) == values(with_corpus)


def test_what_attribute_returns_is_taken() -> None:
    ranked = tdabench.RankedPassages(
        "b", "B is", "y", np.array([3, 9]), ["9", "3"], ["", ""], np.array([2.0, 1.0]),
        np.array([]), np.array([]),
    )  # fmt: skip
    given = tdabench.Attribution({"name": "bm25"}, [ranked], {}, {})
    frame = tdabench.evaluate(given, GOLD[1:2], "mrr")
    assert values(frame)["mrr"][0] == 0.5


def test_what_is_missing() -> None:
    lists = {"b": ["3"]}
    with pytest.raises(tdabench.UserError, match="does not rank 2 of the task's 3 queries"):
        tdabench.evaluate(lists, GOLD, ["mrr"])
    assert tdabench.evaluate(lists, GOLD, ["mrr"], missing="skip").value.item() == 1
    assert tdabench.evaluate(lists, GOLD, ["mrr"], missing="empty").value.item() == 0.5


def test_nobody_scored() -> None:
    frame = tdabench.evaluate({"c": ["1"]}, GOLD, ["mrr"], missing="skip")
    assert frame.value.isna().all()
    assert frame.n.tolist() == [0]


@pytest.mark.parametrize(
    ("rankings", "task", "metrics", "message"),
    [
        ({"a": "12"}, GOLD[:1], "mrr", "rankings['a']: expected a list of passage ids, found '12'"),
        ({"a": [1, 2]}, GOLD[:1], "mrr", "rankings['a']: expected a list of passage ids"),
        ({}, GOLD, "mrr", "rankings: expected lists of passage ids by query id, found {}"),
        ({"a": ["1", "1"]}, GOLD[:1], "mrr", "rankings:1, field 'passage_id[1]': passage '1' is"),
        ({"q": ["1"]}, GOLD, "mrr", "rankings:1, field 'query_id': no query of the task has the"),
        ({"a": ["1"]}, GOLD[:1], "hit@10", "metric hit@10 needs lists of 10, but top_k is 1"),
        ({"a": ["1"]}, GOLD[:1], "hits@10", "unknown metric 'hits@10'; did you mean hit@10"),
        ({"a": ["1"]}, [{**GOLD[0], "gold": None}], "mrr", "task: nobody has annotated which"),
        ({"a": ["1"]}, "factwrld", "mrr", "unknown task 'factwrld'; did you mean factworld?"),
        ({"a": ["1"]}, ["a"], "mrr", "queries[0]: expected a pair"),
        ({"a": ["1"]}, GOLD[:1], (), "metrics: expected names, found ()"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_mistakes_are_said_in_one_line(
    rankings: Any, task: Any, metrics: Any, message: str
) -> None:
    with pytest.raises(tdabench.UserError) as error:
        tdabench.evaluate(rankings, task, metrics)
    assert str(error.value).startswith(message)


def test_a_passage_that_the_corpus_lacks(results: tdabench.Results, tmp_path: Path) -> None:
    lists = lists_of(results)
    next(iter(lists.values()))[0] = "nobody's"
    with pytest.raises(tdabench.UserError, match="no passage of the task has the id"):
        tdabench.evaluate(lists, TASK, ["mrr"], cache_dir=tmp_path)
