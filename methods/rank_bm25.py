"""BM25 by the package rank_bm25: the reference of our index, and an engine for small corpora."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from methods.bm25_scoring import DECIMALS
from methods.topk import TopK
from methods.word_index import NoWordsError


class RankBm25:
    """A Python dictionary a passage; every passage is visited for every word of a query.

    Raises:
        NoWordsError: no passage holds a word.
    """

    def __init__(self, passages: Iterable[list[str]], k1: float, b: float) -> None:
        from rank_bm25 import BM25Okapi

        try:
            self._index = BM25Okapi(passages, k1=k1, b=b, epsilon=0)
        except ZeroDivisionError as error:
            raise NoWordsError from error
        self._rows = np.arange(self._index.corpus_size)

    def search(self, words: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best rows that match, int64, and their scores, float64, of these words."""
        best = TopK(1, k)
        best.push(self.scores(words, self._rows)[np.newaxis], self._rows)
        return next(best.matches())

    def scores(self, words: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Scores of some passages, float64 ``[rows]``: all are scored, and some looked up."""
        # With b = 1 it divides 0 by 0 in passages without words, which match nothing.
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(self._index.get_scores(words)).round(DECIMALS)[rows]
