"""What a viewer opens on, against every pair tried in plain Python."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from bench.report.viewer.opening import opening
from bench.report.viewer.sources import RankingSource
from bench.report.write import report
from tests.fixtures.cells import write_cell
from tests.fixtures.viewer_data import Data


def sources(*controls: bool) -> list[RankingSource]:
    return [RankingSource("x", Path("x"), is_control=one) for one in controls]


def test_the_pair_that_complements_each_other_at_the_clearest_win_of_the_first() -> None:
    gold, winner = np.ones(4), np.array([1.0, 1.0, 1.0, 0.5])
    one, other = np.array([1.0, 0.0, 0.5, 0.1]), np.array([0.2, 1.0, 0.5, 0.1])
    values = [gold, winner, one, other]
    assert opening(sources(True, False, False, False), values) == (2, 3, 0)


@pytest.mark.parametrize("seed", range(5))
def test_against_every_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = 1 / rng.integers(1, 9, (4, 12))
    values[rng.random(values.shape) < 0.1] = np.nan
    first, second, query = opening(sources(*[False] * 4), list(values))
    worths = {}
    for a, b in combinations(range(4), 2):
        pairs = [(x, y) for x, y in zip(values[a], values[b], strict=True) if x == x and y == y]
        n = len(pairs)
        best = max(sum(x for x, _ in pairs), sum(y for _, y in pairs)) / n
        gain = sum(max(pair) for pair in pairs) / n - best
        worths[a, b] = gain + 0.001 * sum(abs(x - y) for x, y in pairs) / n
    assert second is not None
    assert query is not None
    assert worths[first, second] == pytest.approx(max(worths.values()))
    gains = values[first] - values[second]
    assert gains[query] == np.nanmax(gains)


def test_nothing_to_compare() -> None:
    assert opening(sources(True), [np.ones(2)]) == (0, None, None)
    assert opening(sources(True, False), [np.ones(2), np.zeros(2)]) == (1, None, None)
    assert opening(sources(False, False), [np.ones(2), np.ones(2)]) == (0, None, None)
    unjudged = [np.full(2, np.nan), np.full(2, np.nan)]
    assert opening(sources(False, False), unjudged) == (0, None, None)


def test_a_report_opens_on_no_control(tmp_path: Path) -> None:
    """Fault: the viewer opened on ``gold`` against nothing."""
    for method, strength in (("gold", 9.0), ("bm25", 0.9), ("trackstar", 0.5)):
        write_cell(tmp_path, method, strength=strength)
    viewer = report(tmp_path, quiet=True).viewer
    assert viewer is not None
    (group,) = Data(viewer.parent).groups
    one, other, query = group["opening"]
    assert {group["methods"][place]["label"] for place in (one, other)} == {"bm25", "trackstar"}
    data = Data(viewer.parent)
    first = [data.measures(place)["first"][query] for place in (one, other)]
    assert first[0] != first[1]
