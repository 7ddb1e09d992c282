"""Where a name stands in a text: case, accents and kinds of white space aside, as whole words.

The case of short acronyms is not put aside: see ``fold``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

# Letters that Unicode does not decompose into a base letter and an accent.
_LETTERS = {
    "ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"
}  # fmt: skip
_APOSTROPHES = {"’": "'", "‘": "'", "ʼ": "'", "–": "-", "‐": "-", "‑": "-"}
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")  # all that folding looks at: a corpus is mostly ASCII
# Scripts written without spaces: Thai to Lao, Burmese, Khmer, kana, Han. No boundary can be asked.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)


# "US" is a country and "us" is not: many short names are, in lower case, words of every text.
_ACRONYM = re.compile(r"(?<!\w)([A-Z]{2,3})(?!\w)")
_LONGER_WORD = re.compile(r"\w{4}")


def fold(text: str) -> str:
    """Lower case without accents: ``"Bodø  ÉCOLE"`` → ``"bodo  ecole"``.

    Words of two or three capitals stay as they are, unless the whole text is in capitals.
    """
    if text.isupper() and _LONGER_WORD.search(text):
        return _folded(text)
    parts = _ACRONYM.split(text)  # the acronyms are every second part
    return "".join(part if n % 2 else _folded(part) for n, part in enumerate(parts))


def _folded(text: str) -> str:
    straight = _NOT_ASCII.sub(lambda found: _APOSTROPHES.get(found[0], found[0]), text)
    decomposed = unicodedata.normalize("NFKD", straight).casefold()
    bare = _NOT_ASCII.sub(_without_accent, decomposed)
    return _NOT_ASCII.sub(
        lambda found: _LETTERS.get(found[0], found[0]), unicodedata.normalize("NFC", bare)
    )


def _without_accent(found: re.Match[str]) -> str:
    return "" if unicodedata.combining(found[0]) else found[0]


def stands_in(name: str, passage: str) -> bool:
    """Whether ``name`` stands in ``passage`` as whole words."""
    return any_stands_in([name], fold(passage))


def any_stands_in(names: Iterable[str], folded: str) -> bool:
    """Whether one of ``names`` stands in a text that ``fold`` has made, as whole words."""
    patterns = (_pattern(name) for name in names)
    return any(pattern is not None and pattern.search(folded) for pattern in patterns)


def begins_with(names: Iterable[str], folded: str) -> bool:
    """Whether a text that ``fold`` has made begins with one of ``names``, as whole words."""
    patterns = (_pattern(name) for name in names)
    return any(pattern is not None and pattern.match(folded) for pattern in patterns)


def is_spaced(letter: str) -> bool:
    """Whether words that begin or end with ``letter`` are set apart, so that it can be asked."""
    return _UNSPACED.match(letter) is None


@lru_cache(maxsize=1 << 16)
def _pattern(name: str) -> re.Pattern[str] | None:
    """None for a name of which folding leaves nothing: it would match everywhere."""
    words = fold(name).split()
    if not words:
        return None
    before = r"(?<!\w)" if is_spaced(words[0][0]) else ""
    after = r"(?!\w)" if is_spaced(words[-1][-1]) else ""
    return re.compile(before + r"\s+".join(map(re.escape, words)) + after)
