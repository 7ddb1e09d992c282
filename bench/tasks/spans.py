"""The shares of a passage's tokens in its score, as a line of ``retrievals.jsonl`` holds them.

A span is ``[start, end, share]``: the characters of the passage that a token covers, from ``start``
to before ``end``, and what the token adds to the score. A token that stands around the text covers
none: its span is ``[0, 0, share]``, or has the passage's length twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from bench.storage.jsonlines import Json, Place

Spans = list[list[float]]


def spans_field(
    record: Json, place: Place, field: str, texts: Sequence[str], length_of: Callable[[str], int]
) -> list[Spans | None] | None:
    """The spans of each listed passage, None for a passage without; None if there is no such field.

    Args:
        texts: the passages of the list.
        length_of: characters of a passage.

    Raises:
        UserError: another number of passages, or a span that is none of its passage's, with file,
            line and field.
    """
    given = record.get(field)
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != len(texts):
        raise place.error(
            field,
            f"expected spans or null for each of {len(texts)} passages, found {given!r:.60}",
        )
    for number, (spans, text) in enumerate(zip(given, texts, strict=True)):
        if spans is None:
            continue
        length = length_of(text)
        listed = spans if isinstance(spans, list) else [spans]
        wrong = [one for one in listed if not _is_span(one, length)]
        if wrong:
            raise place.error(
                f"{field}[{number}]",
                f"expected [start, end, share] within {length} characters, found {wrong[0]!r:.60}",
            )
    return given


def _is_span(value: Any, length: int) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    if any(isinstance(one, bool) for one in value):
        return False
    start, end, share = value
    is_place = isinstance(start, int) and isinstance(end, int) and 0 <= start <= end <= length
    # NaN, infinities and integers beyond a float fail the comparison.
    largest = sys.float_info.max
    return is_place and isinstance(share, int | float) and -largest <= share <= largest
