"""What ``verify`` says of the shares of tokens: they sum to scores, and lie where they are to."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.results.spans import TOLERANCE, sum_fault
from bench.results.verify import verify
from tests.fixtures.cells import add_spans, edit_config, edit_result, edit_retrievals


def problems_of(cell: Path) -> list[str]:
    return [str(problem) for problem in verify(cell.parents[3])]


@pytest.fixture
def apart(cell: Path) -> Path:
    """A cell with opponents whose scores are taken apart, checked as closely as float32 allows."""

    def oppose(records: list[dict[str, Any]]) -> None:
        for record in records:
            record.update(opponents=["it is not so"], opponent_ids=["o"], opponent_scores=[-0.25])

    edit_retrievals(cell, oppose)
    add_spans(cell)
    edit_result(cell, lambda result: result["method"].update(facts={TOLERANCE: 3e-4}))
    assert problems_of(cell) == []
    return cell


def change(field: str, spans: Callable[[list[Any]], Any], query: int = 2):
    return lambda records: spans(records[query][field])


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (change("proponent_spans", lambda s: s[3][0].__setitem__(2, 9.0)), "proponent 4: the sha"),
        (change("proponent_spans", lambda s: s[9].pop()), "proponent 10: the shares"),
        (change("proponent_spans", lambda s: s[0].clear()), "proponent 1: the shares"),
        (change("opponent_spans", lambda s: s[0].pop(0)), "opponent 1: the shares"),
        (change("proponent_spans", lambda s: s.__setitem__(4, None)), "proponent 5 lacks the sh"),
        (change("proponent_spans", lambda s: s.__setitem__(12, s[0])), "proponent 13 has shares"),
        (lambda records: records[0].pop("proponent_spans"), "proponent 1 lacks the shares"),
        (lambda records: records[0].pop("opponent_spans"), "opponent 1 lacks the shares"),
    ],
)
def test_a_changed_share(apart: Path, edit: Callable[[Any], Any], expected: str) -> None:
    edit_retrievals(apart, edit)
    lines = problems_of(apart)
    assert any(expected in line and "retrievals.jsonl, query q" in line for line in lines)


@pytest.mark.parametrize(
    "spans",
    [
        "all", [["a"]], [[[0, 1]]], [[[0, 1, "x"]]], [[[1, 0, 0.5]]], [[[-1, 1, 0.5]]],
        [[[0, 999, 0.5]]], [[[0.0, 1, 0.5]]], [[[0, True, 0.5]]], [[[0, 1, math.nan]]],
        [[[0, 1, math.inf]]], [[[0, 1, 10**400]]], [[[0, 1, 0.5, 0]]], [7],
    ],
)  # fmt: skip
def test_a_span_is_within_its_passage_and_finite(apart: Path, spans: Any) -> None:
    def spoil(records: list[dict[str, Any]]) -> None:
        n = len(records[1]["proponents"])
        records[1]["proponent_spans"] = spans if spans == "all" else [*spans, *[None] * (n - 1)]

    edit_retrievals(apart, spoil)
    (line,) = problems_of(apart)
    assert "retrievals.jsonl:2, field 'proponent_spans" in line


def test_shares_that_nobody_asked_for(apart: Path) -> None:
    edit_config(apart, lambda settings: settings.update(spans=False))
    assert all("has shares of tokens, by `spans` of config.yaml" in x for x in problems_of(apart))
    assert len(problems_of(apart)) == 2 * 40


def test_a_stated_tolerance_is_bounded(apart: Path) -> None:
    edit_retrievals(apart, change("proponent_spans", lambda s: s[0][0].__setitem__(2, 9.0)))
    for stated in (5.0, math.inf, "loose", None, [1]):
        edit_result(apart, lambda r, x=stated: r["method"].update(facts={TOLERANCE: x}))
        assert any("proponent 1: the shares" in line for line in problems_of(apart))


def test_sums_are_compared_by_the_amounts_of_the_shares() -> None:
    assert sum_fault([[0, 1, 2.0], [1, 2, -1.5]], 0.5, 1e-6) is None
    assert sum_fault([[0, 1, 2.0], [1, 2, -1.5]], 0.5003, 1e-4) is None
    assert sum_fault([[0, 1, 2.0], [1, 2, -1.5]], 0.5004, 1e-4) is not None
    assert sum_fault([], 0.0, 1e-3) is None
    assert sum_fault([], 1e-9, 1e-3) is not None
    assert sum_fault([[0, 1, 1e308], [1, 2, 1e308]], 0.5, 0.1) is not None
