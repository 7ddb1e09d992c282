"""A lexical judge: the passage names both the subject and the answer. It knows no meaning.

"Oslo" is not in "Oslofjord", case and accents do not matter, and aliases count where the task has
them. A passage that denies the fact, or names both in passing, is taken for correct: distant
supervision, which T-REx's own annotation is, too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bench.errors import UserError
from metrics.judges.base import THRESHOLD, Claim, Judge, Pair, identity_of

# Letters that Unicode does not decompose into a base letter and an accent.
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"}
)
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "–": "-", "‐": "-", "‑": "-"})
# Scripts written without spaces: Thai to Lao, Burmese, Khmer, kana, Han. No boundary can be asked.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)


@dataclass
class LexicalConfig:
    """Settings; reasons in ``conf/metric/lexical.yaml``."""

    require_subject: bool = True
    threshold: float = THRESHOLD


class Lexical(Judge):
    """Score 1 where a name of the answer, and one of the subject, stand in the passage; else 0.

    With ``require_subject``, a claim of which the task knows no subject's name is not judged (NaN).
    """

    Config = LexicalConfig
    name = "lexical"

    def check(self, claims: Sequence[Claim]) -> None:
        """Refuse claims of which none has a subject's name, if it is required."""
        if self.config.require_subject and not any(claim.subjects for claim in claims):
            raise UserError(
                "no query says what its subject is called, so nothing can be matched",
                where="metric.judge.require_subject",
                fix="give each query entity0 (and entity0_alias), or set it to false to look for "
                "the answer alone",
            )

    def identity(self) -> str:
        """See ``Judge.identity``."""
        return identity_of(self)

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """See ``Judge.score``."""
        return np.array([self._score(pair) for pair in pairs], dtype=np.float64)

    def _score(self, pair: Pair) -> float:
        claim = pair.claim
        if self.config.require_subject and not claim.subjects:
            return float("nan")
        text = fold(pair.passage)
        if not any_stands_in(claim.answers, text):
            return 0.0
        return float(not self.config.require_subject or any_stands_in(claim.subjects, text))


def fold(text: str) -> str:
    """Lower case without accents: ``"Bodø  ÉCOLE"`` → ``"bodo  ecole"``."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES)).casefold()
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    return unicodedata.normalize("NFC", bare).translate(_LETTERS)


def stands_in(name: str, passage: str) -> bool:
    """Whether ``name`` stands in ``passage`` as whole words."""
    return any_stands_in([name], fold(passage))


def any_stands_in(names: Iterable[str], folded: str) -> bool:
    """Whether one of ``names`` stands in a text that ``fold`` has made, as whole words."""
    patterns = (_pattern(name) for name in names)
    return any(pattern is not None and pattern.search(folded) for pattern in patterns)


@lru_cache(maxsize=1 << 16)
def _pattern(name: str) -> re.Pattern[str] | None:
    """None for a name of which folding leaves nothing: it would match everywhere."""
    words = fold(name).split()
    if not words:
        return None
    first, last = words[0][0], words[-1][-1]
    before = "" if _UNSPACED.match(first) else r"(?<!\w)"
    after = "" if _UNSPACED.match(last) else r"(?!\w)"
    return re.compile(before + r"\s+".join(map(re.escape, words)) + after)
