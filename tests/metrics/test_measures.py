"""The records of the metrics, against the modules that compute them."""

from __future__ import annotations

import pandas as pd
import pytest

from bench.core.errors import UserError
from metrics import measures
from metrics.attribution import parse_metric
from metrics.measures import MEASURES, MetricKind, MetricRecord
from metrics.patch_cache import StepOutcome
from metrics.tail_patch import Patched


def test_names_are_of_one_metric_each() -> None:
    names = [measure.name for measure in MEASURES]
    assert len(names) == len(set(names))
    assert all(measure.title and measure.meaning for measure in MEASURES)
    known = {measure.name for measure in MEASURES}
    assert {measure.variant_of for measure in MEASURES} - {""} <= known


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_attribution_metrics_are_those_that_can_be_parsed(measure: MetricRecord) -> None:
    name = measure.name.replace("@k", "@7")
    if measure.kind is MetricKind.attribution:
        assert str(parse_metric(name)) == name
        assert parse_metric(name).depth == (7 if "@" in name else 1)
    else:
        with pytest.raises(UserError, match="unknown metric"):
            parse_metric(name)


def test_every_attribution_metric_has_a_record() -> None:
    with pytest.raises(UserError, match="known: ") as caught:
        parse_metric("xyz")
    for name in caught.value.fix.removeprefix("known: ").split(", "):
        assert measures.of(name).kind is MetricKind.attribution, name


def test_the_columns_of_a_step_have_records() -> None:
    patched = Patched({"q": -1.0}, {"q": [StepOutcome(-0.5, 1.0, 1e-3)]}, [])
    tables = (patched.table(), patched.of_opponents())
    columns = pd.concat(tables, axis=1).columns.drop("query_id")
    assert {measures.of(name).kind for name in columns} <= {
        MetricKind.influence, MetricKind.base, MetricKind.query, MetricKind.diagnostic
    }  # fmt: skip
    assert all(measures.of(name).needs_model for name in columns)


def test_a_member_of_a_family_says_its_cut_off() -> None:
    hit = measures.of("hit@10")
    assert (hit.name, hit.title, hit.depth) == ("hit@10", "hit@10", 10)
    assert "in the top 10" in hit.meaning
    assert measures.of("map@3").of_one == "average precision@3"


@pytest.mark.parametrize(
    "name", ["hit@", "hit@0", "hit@x", "hit@-1", "mrr@3", "nope", "", "@", "hit@²"]
)
def test_other_names_are_unknown_and_shown_as_they_are(name: str) -> None:
    measure = measures.of(name)
    assert (measure.kind, measure.head, measure.scale) == (MetricKind.unknown, name, 1.0)
    assert measure.judges, "somebody's own metric has a column of the leaderboard"


def test_no_cut_off_is_too_long_to_be_a_number() -> None:
    """Fault: a name with 5,000 digits, such as a stranger's results may hold, was a traceback."""
    name = f"hit@{'9' * 5000}"
    assert measures.of(name).kind is MetricKind.unknown
    with pytest.raises(UserError, match="positive integer") as caught:
        parse_metric(name)
    assert len(str(caught.value)) < 300


def test_the_order_is_that_of_the_records_then_of_the_cut_offs_then_of_names() -> None:
    names = [
        "zz",
        "a",
        "qld",
        "tail_patch",
        "ndcg@2",
        "hit@10",
        "hit@2",
        "mrr",
        "hit@2",
        "map@5",
        "map",
    ]
    assert measures.in_order(names) == [
        "mrr", "hit@2", "hit@10", "map", "map@5", "ndcg@2", "tail_patch", "qld", "a", "zz"
    ]  # fmt: skip


def test_units() -> None:
    """The paper prints tail-patch in percentage points; cells hold a difference."""
    patch, log = measures.of("tail_patch"), measures.of("tail_patch_log")
    assert (patch.head, patch.scale, patch.signed) == ("tail-patch (pp)", 100.0, True)
    assert (log.head, log.scale, log.signed) == ("tail-patch (log p)", 1.0, True)
    assert patch.quantity == log.quantity != measures.of("removal_effect").quantity
    assert not measures.of("opponent_tail_patch").higher_is_better
    assert not measures.of("length_ratio").judges
    assert not measures.of("base_probability").judges
