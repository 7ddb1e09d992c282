"""The length diagnostic: do the first proponents run longer than the corpus?"""

from __future__ import annotations

import math

from metrics.length import length_ratio


def test_ratio_of_means_over_the_first_ten() -> None:
    assert length_ratio([2, 4], 2.0) == 1.5
    assert length_ratio([1] * 10 + [1000], 1.0) == 1.0


def test_nothing_to_measure_is_not_a_number() -> None:
    assert math.isnan(length_ratio([], 2.0))
    assert math.isnan(length_ratio([0, 0], 0.0))
