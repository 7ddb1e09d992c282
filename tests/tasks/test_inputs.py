"""Seeded sampling of rows, and the search for repeated ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.storage.jsonlines import Place
from bench.tasks import inputs


def places(ids):
    return [(Place(Path("x"), line), name) for line, name in enumerate(ids, start=1)]


def check(ids):
    unique = inputs.UniqueIds("fact_id")
    for name in ids:
        unique.add(name)
    unique.check(iter(places(ids)))


def test_every_row_is_as_likely_as_any_other():
    chosen = np.zeros(50)
    for seed in range(2000):
        keys = inputs.SmallestKeys(10)
        for row in range(50):
            keys.add(inputs.row_key(seed, inputs.FACT_ROWS, row))
        bound = keys.values()[-1]
        chosen += [inputs.row_key(seed, inputs.FACT_ROWS, row) <= bound for row in range(50)]
    # Each row is chosen 400 times of 2000 on average, with a standard deviation of 18.
    assert chosen.sum() == 20_000
    assert np.abs(chosen - 400).max() < 5 * 18


def test_rows_seeds_and_streams_have_keys_of_their_own():
    keys = {
        inputs.row_key(seed, stream, row)
        for seed in (-1, 0, 1, 2**40)
        for stream in (inputs.FACT_ROWS, inputs.PASSAGE_ROWS)
        for row in range(2000)
    }
    assert len(keys) == 4 * 2 * 2000
    assert inputs.row_key(0, inputs.FACT_ROWS, 0) == 0x94926C2E801CB6F9, (
        "a change moves every sample"
    )


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=3000), st.integers(0, 50))
def test_smallest_keys(stream, n):
    keys = inputs.SmallestKeys(n)
    for key in stream:
        keys.add(key)
    assert keys.values().tolist() == sorted(stream)[:n]
    assert len(keys._keys) <= 2 * n + 1024, "memory does not grow with the stream"


@given(
    st.dictionaries(st.text(), st.sets(st.integers(0, 2**64 - 1), max_size=20), max_size=5),
    st.integers(0, 60),
)
def test_balanced(groups, n):
    taken: set[int] = set()  # the strata of a task never share a key
    strata = {}
    for name, group in groups.items():
        strata[name] = inputs.SmallestKeys(n)
        for key in group - taken:
            strata[name].add(key)
        taken |= group
    chosen = inputs.balanced(strata, n)
    assert len(chosen) == min(n, len(taken))
    assert chosen >= inputs.balanced(strata, n // 2)
    parts = {name: chosen & set(strata[name].values().tolist()) for name in strata}
    most = max(map(len, parts.values()), default=0)
    for name, part in parts.items():
        available = strata[name].values().tolist()
        assert part == set(available[: len(part)])
        assert len(part) >= most - 1 or len(part) == len(available)


def test_repeated_ids_are_found_and_both_places_named():
    check(["a", "b", "c"])
    with pytest.raises(UserError, match=r"^x:4, field 'fact_id': 'b' is already the id of x:2"):
        check(["a", "b", "c", "b", "a"])


def test_equal_hashes_of_different_ids_are_no_repetition():
    assert hash(-1) == hash(-2)
    check([-1, -2])
    with pytest.raises(UserError, match="x:3"):
        check([-1, -2, -1])
