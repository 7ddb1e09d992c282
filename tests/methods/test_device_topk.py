"""Lists that stay on a GPU against those of the CPU, on tensors of the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from methods.device_topk import DeviceTopK
from methods.topk import TopK

CPU = torch.device("cpu")
# Few values, so that there are ties; and those that sort in a way of their own.
VALUES = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan, 0.5]
)
BLOCKS = array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
    lambda shape: arrays(np.float32, shape, elements=VALUES.map(np.float32))
)


@settings(deadline=None)
@given(BLOCKS, st.integers(1, 14), st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_lists_are_those_of_the_cpu(scores: np.ndarray, k: int, widths: list[int]) -> None:
    expected, found = TopK(len(scores), k), DeviceTopK(len(scores), k, CPU)
    cuts = [cut for cut in np.cumsum(widths) if cut < scores.shape[1]]
    first_rows = [0, *cuts]
    for number in np.random.default_rng(k).permutation(len(first_rows)):
        start = first_rows[number]
        stop = [*cuts, scores.shape[1]][number]
        expected.push(scores[:, start:stop].copy(), np.arange(start, stop))
        found.push(torch.from_numpy(scores[:, start:stop].copy()), start)
    assert found.rows.tolist() == expected.rows.tolist()
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_rows_near_the_last_that_fits() -> None:
    lists = DeviceTopK(1, 2, CPU)
    lists.push(torch.tensor([[1.0, 1.0]]), 2**32 - 3)
    assert lists.rows.tolist() == [[2**32 - 3, 2**32 - 2]]
    with pytest.raises(ValueError, match="is beyond"):
        lists.push(torch.tensor([[1.0, 1.0]]), 2**32 - 2)


def test_a_list_of_nothing() -> None:
    lists = DeviceTopK(2, 0, CPU)
    assert lists.rows.shape == lists.scores.shape == (2, 0)
