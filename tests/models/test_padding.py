"""Parts of texts that a forward pass holds."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bench.models.padding import LOGITS_BYTES, most_tokens, parts_of

LENGTHS = st.lists(st.integers(1, 20), max_size=40)


@given(LENGTHS, st.integers(1, 60), st.none() | st.integers(1, 5))
def test_parts_are_all_texts_in_order_and_as_many_as_fit(
    lengths: list[int], tokens: int, texts: int | None
) -> None:
    def fits(part: slice) -> bool:
        own = lengths[part]
        return len(own) * max(own) <= tokens and (texts is None or len(own) <= texts)

    parts = list(parts_of(lengths, tokens, texts))
    places = [place for part in parts for place in range(part.start, part.stop)]
    assert places == list(range(len(lengths)))
    assert all(fits(part) or part.stop - part.start == 1 for part in parts)
    assert not any(fits(slice(one.start, two.start + 1)) for one, two in pairwise(parts))


def test_logits_within_the_bound() -> None:
    assert most_tokens(50_000) * 50_000 * 4 <= LOGITS_BYTES < (most_tokens(50_000) + 1) * 200_000
    assert most_tokens(10**12) == 1
