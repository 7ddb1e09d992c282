"""Whether a name stands in a text as whole words; case, accents and white space are put aside.

The case of a name of two or three capitals is not put aside: "US" is a country and "us" is not, and
many such names are, in lower case, words of every text.
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
# Folding looks at these characters alone, as a corpus is mostly ASCII.
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
# Scripts written without spaces (Thai to Lao, Burmese, Khmer, kana, Han) show no word boundaries.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)


def fold(text: str) -> str:
    """``text`` in lower case without accents: ``"Bodø  ÉCOLE"`` → ``"bodo  ecole"``."""
    straight = _NOT_ASCII.sub(lambda match: _APOSTROPHES.get(match[0], match[0]), text)
    decomposed = unicodedata.normalize("NFKD", straight).casefold()
    bare = _NOT_ASCII.sub(_without_accent, decomposed)
    return _NOT_ASCII.sub(
        lambda match: _LETTERS.get(match[0], match[0]), unicodedata.normalize("NFC", bare)
    )


def _without_accent(match: re.Match[str]) -> str:
    return "" if unicodedata.combining(match[0]) else match[0]


_ACRONYM = re.compile(r"(?<!\w)[A-Z]{2,3}(?!\w)")


def fold_passage(text: str) -> str:
    """The form of a text in which names are looked for: folded, its acronyms again at the end."""
    acronyms = _ACRONYM.findall(text)
    return f"{fold(text)}\n{' '.join(acronyms)}" if acronyms else fold(text)


def fold_name(name: str) -> str:
    """The form in which a name is looked for in a folded passage; may be empty."""
    bare = name.strip()
    return bare if _ACRONYM.fullmatch(bare) else _words(name)


def _words(name: str) -> str:
    return " ".join(fold(name).split())


def any_stands_in(names: Iterable[str], folded: str) -> bool:
    """Whether one of ``names`` stands in a text that ``fold_passage`` has made, as whole words."""
    patterns = (_pattern(fold_name(name)) for name in names)
    return any(pattern is not None and pattern.search(folded) for pattern in patterns)


def begins_with(names: Iterable[str], folded: str) -> bool:
    """Whether a text that ``fold`` has made begins with one of ``names``, as whole words."""
    patterns = (_pattern(_words(name)) for name in names)
    return any(pattern is not None and pattern.match(folded) for pattern in patterns)


def is_spaced(letter: str) -> bool:
    """Whether ``letter`` is of a script that sets words apart with spaces."""
    return _UNSPACED.match(letter) is None


@lru_cache(maxsize=1 << 16)
def _pattern(folded: str) -> re.Pattern[str] | None:
    """The pattern of a folded name; None for an empty one, which would match everywhere."""
    if not folded:
        return None
    before = r"(?<!\w)" if is_spaced(folded[0]) else ""
    after = r"(?!\w)" if is_spaced(folded[-1]) else ""
    return re.compile(before + r"\s+".join(map(re.escape, folded.split(" "))) + after)
