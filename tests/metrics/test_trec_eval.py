"""Our numbers equal those of trec_eval, query by query, by way of ``ir_measures``."""

from __future__ import annotations

import platform
import sys

import numpy as np
import pytest

from metrics.attribution import Judged, NoGold, parse_metric, score_rankings

if sys.platform == "linux" and platform.machine() != "x86_64":
    # pyproject.toml does not ask for it there either.
    pytest.skip("pytrec-eval-terrier has no wheel for this machine", allow_module_level=True)

import ir_measures
from ir_measures import AP, RR, P, R, Success, nDCG

TREC = {
    "mrr": RR,
    "map": AP,
    **{f"hit@{k}": Success @ k for k in (1, 10)},
    **{f"recall@{k}": R @ k for k in (1, 10, 100)},
    **{f"precision@{k}": P @ k for k in (1, 10, 100)},
    **{f"map@{k}": AP @ k for k in (1, 10, 100)},
    **{f"ndcg@{k}": nDCG @ k for k in (1, 10, 100)},
}
N_PASSAGES = 300


def doc_id(row: int) -> str:
    """trec_eval puts the *greater* id first where scores are equal; here the smaller row is first.

    Ids that fall as rows rise make the two orders one.
    """
    return f"d{N_PASSAGES - row:04d}"


def ranked(scores: dict[int, float]) -> list[int]:
    """Rows by (score descending, row ascending): the rule of ``methods/topk.py``."""
    return sorted(scores, key=lambda row: (-scores[row], row))


def random_run(rng: np.random.Generator) -> tuple[dict[int, float], set[int]]:
    """One list of 0 to 120 passages and the gold rows, listed or not.

    Scores are small integers half of the time, so that most of a list is tied; lists are shorter
    than the cut-offs as often as longer, and gold may be missing from them altogether.
    """
    n_listed = int(rng.integers(0, 121))
    rows = rng.permutation(N_PASSAGES)[:n_listed].tolist()
    coarse = rng.random() < 0.5
    # float32, as trec_eval keeps scores: two float64 scores that differ in the last bits tie there.
    scores = rng.integers(0, 4, n_listed) if coarse else rng.normal(size=n_listed)
    gold = rng.permutation(N_PASSAGES)[: int(rng.integers(1, 40))].tolist()
    if rng.random() < 0.2:
        gold = [row for row in gold if row not in rows] or [
            next(row for row in range(N_PASSAGES) if row not in rows)
        ]
    as_stored = np.asarray(scores, dtype=np.float32).tolist()
    return dict(zip(rows, as_stored, strict=True)), set(gold)


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_equals_trec_evals_on_each_query(seed: int) -> None:
    rng = np.random.default_rng(seed)
    runs = {f"q{i}": random_run(rng) for i in range(60)}
    judged = [
        Judged(query, np.isin(ranked(scores), list(gold)), len(gold))
        for query, (scores, gold) in runs.items()
    ]
    frame = score_rankings(judged, [parse_metric(name) for name in TREC], NoGold.skip)
    ours = frame.set_index("query_id")
    qrels = {q: {doc_id(row): 1 for row in gold} for q, (_, gold) in runs.items()}
    run = {q: {doc_id(row): s for row, s in scores.items()} for q, (scores, _) in runs.items()}
    names = {measure: name for name, measure in TREC.items()}
    compared = 0
    for value in ir_measures.pytrec_eval.iter_calc(list(names), qrels, run):
        name = names[value.measure]
        found = ours.loc[value.query_id, name]
        assert found == pytest.approx(value.value, abs=1e-12), (value.query_id, name)
        compared += 1
    # A query with an empty list may be left out by trec_eval; ours scores it 0.
    assert compared >= len(TREC) * sum(bool(scores) for scores, _ in runs.values())
    empty = [query for query, (scores, _) in runs.items() if not scores]
    assert (ours.loc[empty, list(TREC)] == 0).all(axis=None)


def test_the_runs_have_what_could_tell_the_two_apart() -> None:
    rng = np.random.default_rng(0)
    runs = [random_run(rng) for _ in range(300)]
    tied = [len(set(scores.values())) < len(scores) for scores, _ in runs]
    without = [not gold.intersection(scores) for scores, gold in runs]
    part = [0 < len(gold.intersection(scores)) < len(gold) for scores, gold in runs]
    short = [len(scores) < 10 for scores, _ in runs]
    assert min(map(sum, (tied, without, part, short))) > 15


def test_the_tie_rule_matters() -> None:
    """With ids that rise with the rows, trec_eval would put the other passage of a tie first."""
    qrels = {"q": {"d0": 1}}
    (value,) = ir_measures.pytrec_eval.iter_calc([RR], qrels, {"q": {"d0": 1.0, "d1": 1.0}})
    assert value.value == 0.5
    assert ranked({0: 1.0, 1: 1.0}) == [0, 1]
