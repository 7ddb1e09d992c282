"""Re-ranking and fusion against their formulas, on top of real and of stand-in parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.core.typed import typed
from bench.tasks.base import Query
from methods import bm25, combined
from methods.base import Context, IndexSize, Method, Ranking
from methods.combined import Fusion, FusionConfig, Hybrid, HybridConfig
from methods.gradient.method import Gradient
from methods.gradient.search import MemoryPlan
from methods.gradient.settings import GradientConfig, Storage
from tests.fixtures.composing import composed
from tests.fixtures.gradient_methods import DEFAULTS, QUERIES, make, many_texts, ranked, toy_model
from tests.fixtures.helpers import checked, make_task
from tests.fixtures.models import TEXTS

BM25 = {
    "name": "bm25", "variant": "atire_robertson", "k1": 1.5, "b": 0.75, "tokenizer": "words",
    "query": "prompt_and_target", "engine": "inverted_index",
}  # fmt: skip


def gradient_settings(**changes) -> dict:
    settings = {"name": "trackstar", **DEFAULTS, **changes}
    return {k: getattr(v, "value", v) for k, v in settings.items()}


@pytest.fixture
def model(tmp_path):
    return toy_model(tmp_path)


@pytest.fixture
def context(tmp_path, model):
    task = make_task(tmp_path / "task", [*TEXTS, *many_texts(30)], QUERIES)
    return Context(task, tmp_path / "cache", load_model=lambda: model)


def run(method: Method, top_k: int = 10) -> list[Ranking]:
    checked(method)
    method.index()
    return list(method.search(QUERIES, top_k))


def hybrid(context, **changes) -> Hybrid:
    settings = {
        "first": BM25, "second": gradient_settings(storage="none"), "depth": 12, "first_share": 0.0,
    }  # fmt: skip
    return Hybrid(HybridConfig(**{**settings, **changes}), context)


@pytest.mark.parametrize("storage", ["none", "fp32"])
def test_hybrid_orders_the_first_ones_candidates_by_the_second_ones_scores(
    tmp_path, model, context, storage
):
    everything = len(context.task.passages)
    second = gradient_settings(storage=storage)
    alone = ranked(make(context.task, model, tmp_path / "alone"), top_k=everything)
    candidates = run(Hybrid(HybridConfig(BM25, second, 12, 1.0), context), top_k=12)
    found = run(hybrid(context, second=second))
    for ranking, whole, first in zip(found, alone, candidates, strict=True):
        expected = [row for row in whole.rows.tolist() if row in set(first.rows.tolist())][:10]
        assert ranking.rows.tolist() == expected


def test_a_share_of_one_is_the_first_method(context):
    both = run(hybrid(context, first_share=1.0), top_k=12)
    for ranking in both:
        assert ranking.scores[0] == 1
        assert ranking.scores[-1] == 0


def test_a_share_blends_scores_over_the_candidates(context):
    one, other, half = (run(hybrid(context, first_share=s), top_k=12) for s in (1.0, 0.0, 0.5))
    for a, b, mixed in zip(one, other, half, strict=True):
        of = [dict(zip(r.rows.tolist(), r.scores.tolist(), strict=True)) for r in (a, b)]
        expected = {row: (of[0][row] + of[1][row]) / 2 for row in of[0]}
        for row, score in zip(mixed.rows.tolist(), mixed.scores.tolist(), strict=True):
            assert score == pytest.approx(expected[row])


def test_bm25_scores_what_another_found(context):
    """It puts the passages of the first method in its own order."""
    gradient = Gradient(GradientConfig(**DEFAULTS), context)
    first = {r.query_id: set(r.rows) for r in run(gradient, top_k=12)}
    config = typed(bm25.BM25.Config, BM25, "method", ("name",))
    everything = run(bm25.BM25(config, context), top_k=len(context.task.passages))
    reverse = run(hybrid(context, first=gradient_settings(), second=BM25), top_k=12)
    for found, whole in zip(reverse, everything, strict=True):
        expected = [row for row in whole.rows if row in first[found.query_id]]
        assert found.rows.tolist() == expected


def test_what_the_deciding_method_does_not_match_is_not_listed(context):
    """In another order than by the file's rows, which would be no order of its own."""
    for share, listed in ((0.0, False), (0.5, True)):
        method = hybrid(context, first=gradient_settings(), second=BM25, first_share=share)
        method.check()
        method.index()
        query = Query("q", QUERIES[0].prompt, QUERIES[0].target)
        (candidates,) = method._parts["first"].search([query], 12)
        (scores,) = method._parts["second"].rescore([query], candidates.rows[np.newaxis])
        assert 0 < np.count_nonzero(scores) < 12
        (ranking,) = method.search([query], 12)
        matched = candidates.rows if listed else candidates.rows[scores > 0]
        assert sorted(ranking.rows.tolist()) == sorted(matched.tolist())


def test_many_queries_need_no_single_pass_to_rerank(context, monkeypatch):
    """Fault: it was refused as if the corpus were streamed for each group of queries."""
    expected = [ranking.rows.tolist() for ranking in run(hybrid(context))]
    monkeypatch.setattr(MemoryPlan, "of", staticmethod(lambda *_: MemoryPlan(1, 7, 7)))
    assert [ranking.rows.tolist() for ranking in run(hybrid(context))] == expected


def test_facts_and_counts_are_kept_by_part(context):
    run(hybrid(context))
    assert 0 < context.facts["second.mixing"] < 1
    assert "hessian_passages" not in context.facts


def test_the_identity_of_a_combination_holds_that_of_each_part(context):
    one = hybrid(context)
    parts = {"first": bm25.BM25.version, "second": Gradient.version}
    assert one.identity() == [Hybrid.version, parts]


def test_errors_of_a_part_name_the_part(context):
    with pytest.raises(UserError, match=r"method\.first\.k1"):
        checked(hybrid(context, first={**BM25, "k1": -1.0}))
    with pytest.raises(UserError, match=r"unknown key method\.second\.dampin"):
        hybrid(context, second=gradient_settings(dampin=1))
    with pytest.raises(UserError, match=r"method\.second"):
        checked(hybrid(context, second={"name": "random", "seed": 0}))
    with pytest.raises(UserError, match=r"method\.first_share"):
        checked(hybrid(context, first_share=1.5))


@dataclass
class FixedConfig:
    lists: list[list[int]]


class Fixed(Method):
    """A method that gives the lists of its settings."""

    Config = FixedConfig

    def index(self) -> IndexSize:
        return IndexSize()

    def search(self, queries, top_k):
        for query, rows in zip(queries, self.config.lists, strict=True):
            yield Ranking(query.query_id, np.array(rows), -np.arange(len(rows), dtype=float))


def test_fusion_is_its_formula(tmp_path, context, monkeypatch):
    lists = {"a": [[5, 3, 1], [2], []], "b": [[3, 9], [2, 4], [7, 0]]}
    monkeypatch.setattr(
        combined, "chosen", lambda settings, _: (Fixed, FixedConfig(settings["lists"]))
    )
    members = {name: {"name": name, "lists": rows} for name, rows in lists.items()}
    found = run(Fusion(FusionConfig(members, 100, 60.0), context))
    for number, ranking in enumerate(found):
        expected: Counter[int] = Counter()
        for one in lists.values():
            for rank, row in enumerate(one[number], start=1):
                expected[row] += 1 / (60 + rank)
        assert dict(zip(ranking.rows.tolist(), ranking.scores, strict=True)) == pytest.approx(
            dict(expected)
        )
        assert ranking.rows.tolist() == sorted(expected, key=lambda row: (-expected[row], row))


def test_fusion_of_one_is_refused(context):
    with pytest.raises(UserError, match="at least two"):
        checked(Fusion(FusionConfig({"a": BM25}, 100, 60.0), context))


def test_parts_load_the_model_once(tmp_path, model):
    loads = []
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    context = Context(task, tmp_path / "cache", load_model=lambda: loads.append(1) or model)
    run(hybrid(context, first=gradient_settings(), second=gradient_settings(storage="none")))
    assert len(loads) == 1


def test_files_choose_parts_and_change_their_settings():
    method = composed("method=hybrid", "method@method.first=dense", "method.second.mixing=0.5")
    settings = method.method
    assert settings.first.name == "dense"
    assert settings.second.name == "trackstar"
    assert settings.second.storage == "none"
    assert settings.second.mixing == 0.5
    assert Storage(settings.second.storage) is Storage.none
    fusion = composed("method=fusion", "+method@method.members.verbatim=verbatim").method
    assert set(fusion.members) == {"bm25", "dense", "trackstar", "verbatim"}


def test_queries_without_candidates_get_an_empty_list(context, monkeypatch):
    monkeypatch.setattr(
        type(hybrid(context)._parts["first"]),
        "search",
        lambda self, queries, _: (
            Ranking(q.query_id, np.arange(n, dtype=np.int64), -np.arange(n, dtype=float))
            for n, q in enumerate(queries)
        ),
    )
    assert [len(ranking.rows) for ranking in run(hybrid(context))] == [0, 1, 2]
    assert isinstance(QUERIES[0], Query)
