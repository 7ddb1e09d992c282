"""Keys of content: what they ignore, and what they see."""

from __future__ import annotations

import hashlib
import os

from hypothesis import given
from hypothesis import strategies as st

from bench.storage.keys import content_key

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(list(value))}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(), JSON, min_size=2, max_size=4))
def test_key_ignores_the_order_of_dictionaries(value):
    assert content_key(value) == content_key(reversed_keys(value))


def test_key_sees_the_order_of_lists_types_and_length():
    different = [[1, 2], [2, 1], ["1", 2], [1, 2.5], {"1": 2}, [[1], 2], [True, 2], [None, 2]]
    assert len({content_key(value) for value in different}) == len(different)
    assert len(content_key(1, length=64)) == 64
    assert content_key(1, length=64).startswith(content_key(1))
    assert content_key({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()[:16]


def test_key_of_a_file_name_that_is_no_utf8():
    assert content_key(os.fsdecode(b"x\xff")) != content_key("x")
