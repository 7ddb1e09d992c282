"""A lexical judge: the passage names both the subject and the answer. It knows no meaning.

"Oslo" is not in "Oslofjord", case and accents do not matter (but "us" is not "US"), and aliases
count where the task has them. A passage that denies the fact, or names both in passing, is taken
for correct: distant supervision, which T-REx's own annotation is, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.core.errors import UserError
from bench.core.names import any_stands_in, fold_passage
from metrics.judges.base import THRESHOLD, Claim, Judge, Pair, identity_of


@dataclass
class LexicalConfig:
    """Settings; reasons in ``conf/metric/lexical.yaml``."""

    require_subject: bool = True
    threshold: float = THRESHOLD


class Lexical(Judge):
    """A judge that scores 1 where names of answer and subject stand in the passage, else 0.

    With ``require_subject``, a claim of which the task knows no subject's name is not judged (NaN).
    """

    Config = LexicalConfig
    name = "lexical"
    version = 2

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
        text = fold_passage(pair.passage)
        if not any_stands_in(claim.answers, text):
            return 0.0
        return float(not self.config.require_subject or any_stands_in(claim.subjects, text))
