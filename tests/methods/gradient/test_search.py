"""Storage, rerank, single pass, opponents, memory bound: what they change, and what they do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.models.language_model import LanguageModel
from methods.gradient.search import MemoryPlan
from methods.gradient.settings import Hessian, HessianForm, Storage
from tests.fixtures.gradient_methods import QUERIES, make, many_texts, ranked, toy_model
from tests.fixtures.helpers import make_task


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LanguageModel:
    return toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def task(tmp_path):
    return make_task(tmp_path / "task", [*many_texts(), *many_texts(3)], QUERIES)  # with ties


def same(found, expected, exact: bool = True) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.query_id == b.query_id
        assert a.rows.tolist() == b.rows.tolist()
        assert a.opponent_rows.tolist() == b.opponent_rows.tolist()
        if exact:
            assert np.array_equal(a.scores, b.scores)
        else:
            np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5, atol=1e-9)


# With R, bf16 and int8 differ in R itself, which is that of the stored features.
EXACT_AFTER_RERANK = [
    *((storage, Hessian.none) for storage in Storage),
    *((storage, Hessian.mixed) for storage in (Storage.fp32, Storage.sign, Storage.none)),
]


@pytest.mark.parametrize(("storage", "hessian"), EXACT_AFTER_RERANK)
def test_reranking_everything_is_full_precision(tmp_path, model, task, storage, hessian):
    """With rerank, the format decides only who is a candidate."""
    settings = {"hessian": hessian, "opponents": 5}
    expected = ranked(make(task, model, tmp_path / "fp32", **settings), top_k=9)
    method = make(task, model, tmp_path, storage=storage, rerank=len(task.passages), **settings)
    same(ranked(method, top_k=9), expected)


def test_a_single_pass_is_the_search_of_an_index_and_stores_nothing(tmp_path, model, task):
    settings = {"opponents": 4}
    expected = ranked(make(task, model, tmp_path / "indexed", **settings), top_k=9)
    method = make(task, model, tmp_path / "single", storage=Storage.none, **settings)
    same(ranked(method, top_k=9), expected, exact=False)
    assert not (tmp_path / "single" / "cache" / "index").exists()
    assert method.context.counts["passages_without_loss"] == 0
    indexed = make(task, model, tmp_path / "indexed", **settings)
    indexed.index()
    assert method.context.counts == indexed.context.counts


@pytest.mark.parametrize("storage", [Storage.bf16, Storage.int8, Storage.sign])
def test_lossy_formats_find_nearly_the_same(tmp_path, model, task, storage):
    expected = ranked(make(task, model, tmp_path, hessian=Hessian.none), top_k=20)
    found = ranked(make(task, model, tmp_path, hessian=Hessian.none, storage=storage), top_k=20)
    shared = [len(set(a.rows) & set(b.rows)) for a, b in zip(found, expected, strict=True)]
    assert np.mean(shared) >= {"bf16": 19, "int8": 19, "sign": 10}[storage.value]


def test_opponents_are_the_lowest_scores_lowest_first(tmp_path, model, task):
    n = len(task.passages)
    for ranking in ranked(make(task, model, tmp_path, opponents=7), top_k=n):
        lowest = np.lexsort((ranking.rows, ranking.scores))[:7]
        assert ranking.opponent_rows.tolist() == ranking.rows[lowest].tolist()
        assert np.array_equal(ranking.opponent_scores, ranking.scores[lowest])


def test_no_opponents_if_none_are_asked_for(tmp_path, model, task):
    assert all(len(r.opponent_rows) == 0 for r in ranked(make(task, model, tmp_path)))


@pytest.mark.parametrize("form", list(HessianForm))
def test_the_memory_bound_changes_no_ranking(tmp_path, model, task, monkeypatch, form):
    settings = {"opponents": 5, "hessian_form": form}
    expected = ranked(make(task, model, tmp_path, **settings), top_k=9)
    for queries, rows, candidates in ((1, 7, 3), (2, 1, 1)):
        plan = MemoryPlan(queries, rows, candidates)
        monkeypatch.setattr(MemoryPlan, "of", lambda *_, plan=plan: plan)
        same(ranked(make(task, model, tmp_path, **settings), top_k=9), expected, exact=False)


def test_the_memory_plan_stays_within_its_bound():
    for mib, n_queries, dim in ((64, 10, 512), (2048, 5400, 65_536), (100, 100_000, 4096)):
        plan = MemoryPlan.of(mib, n_queries, dim, torch.float32)
        queries = plan.queries * dim * 4 * 4
        block = plan.rows * (dim * 4 * 5 + plan.queries * 4 * 2)
        assert queries + block <= mib * 2**20
        second_stage = plan.candidates * dim * (4 + 4 + 4 * 8)
        assert queries + second_stage <= mib * 2**20
        assert plan.queries >= min(n_queries, 100)
    assert MemoryPlan.of(1, 10, 10**7, torch.float32) == MemoryPlan(1, 1, 1), "less is not possible"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what is resident")
def test_both_stages_stay_within_the_memory_bound():
    """Fault: the second stage took as many rows in float64 as the first in float32: 2.2 times."""
    # Freed blocks go back at once, so that what is seen is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.fixtures.search_memory", "128"]
    done = subprocess.run(
        command,
        env=environment,
        cwd=Path(__file__).parents[3],
        check=True,
        capture_output=True,
        text=True,
    )
    for stage, mib in json.loads(done.stdout).items():
        assert mib < 1.1 * 128, stage


def test_a_single_pass_that_would_need_two_is_refused(tmp_path, model, task, monkeypatch):
    monkeypatch.setattr(MemoryPlan, "of", lambda *_: MemoryPlan(2, 10, 10))
    with pytest.raises(UserError, match="single pass"):
        ranked(make(task, model, tmp_path, storage=Storage.none))


def test_a_hessian_sample_depends_on_the_seed_alone(tmp_path, model, task):
    def facts_and_ranking(**settings):
        method = make(task, model, tmp_path, hessian=Hessian.train, **settings)
        return method.context.facts, ranked(method, top_k=9)

    facts, whole = facts_and_ranking()
    assert facts["hessian_passages"] == len(task.passages)
    facts, sampled = facts_and_ranking(hessian_sample=20)
    assert facts["hessian_passages"] == 20
    assert not np.array_equal(whole[0].scores, sampled[0].scores)
    same(facts_and_ranking(hessian_sample=20)[1], sampled)
    # Encoded anew instead of read: the same rows, the same R.
    coarse = {"storage": Storage.sign, "rerank": len(task.passages)}
    same(facts_and_ranking(hessian_sample=20, **coarse)[1], sampled)


def test_a_rank_deficient_hessian_is_said_and_recorded(tmp_path, model, task, capsys):
    method = make(task, model, tmp_path, hessian=Hessian.train, hessian_sample=10)
    ranked(method)
    assert "64 dimensions and is from 10 passages, which are fewer" in capsys.readouterr().err
    assert max(method.context.facts["hessian_blocks"]["rank"]) <= 10
