"""Values as the viewer's data holds them: short numbers, valid text, JSON without spaces."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_DIGITS = "%.5g"  # significant digits of a score
_SURROGATES = re.compile("[\ud800-\udfff]")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_of(value: Any) -> str:
    """A value as JSON without spaces."""
    return _ENCODER.encode(value)


def rounded(value: Any) -> Any:
    """The value with as many digits as are shown; None for a number that is not finite."""
    if not isinstance(value, float):
        return value
    short = float(_DIGITS % value)
    if not math.isfinite(short):
        return None
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def numbers_json(values: Sequence[Any]) -> str:
    """A list of values as JSON, ``rounded``; quick for the millions that are floats or None."""
    kinds = set(map(type, values))
    if kinds <= {float, type(None)} and 0.0 not in values:  # -0 and 0 are one number
        numbers, form = values, _format(len(values))
        if type(None) in kinds:
            numbers = [value for value in values if value is not None]
            form = ",".join(["null" if value is None else _DIGITS for value in values])
        text = form % tuple(numbers)
        # Finite, also when it is rounded.
        if "nan" not in text and "inf" not in text and "e+308" not in text:
            return f"[{text}]"
    return json_of([rounded(value) for value in values])


@lru_cache(maxsize=8)
def _format(n: int) -> str:
    return ",".join([_DIGITS] * n)


def valid_unicode(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates, which no encoding can carry."""
    return text if text.isascii() else _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
