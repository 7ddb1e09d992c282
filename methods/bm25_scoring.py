"""Scores of BM25, and the best of them without scoring every passage.

A query's words are read heaviest first. Words bound what a passage that holds none of those read
so far could still score; as soon as that is less than the k-th best sum so far, no other passage
can enter the list (MaxScore: Turtle & Flood 1995). What is left of the common words, whose lists
are the long ones, is then looked up for the few passages that are still in question.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from methods.topk import TopK
from methods.word_index import WordIndex

# Sums of the same terms in another order differ in their last bits; rounded, such ties are ties,
# and every engine breaks them by row.
DECIMALS = 9
# More than rounding and the order of a sum can move a score: what is nearer than this is not told
# apart before the scores are summed in the query's order.
_MARGIN = 1e-8


class Variant(Enum):
    """Formula of idf and of the word's weight in a passage."""

    atire_robertson = "atire_robertson"  # the docstring of methods/bm25.py
    lucene = "lucene"  # idf = log(1 + (N - df + 0.5) / (df + 0.5)), never 0; no factor k1 + 1


@dataclass(frozen=True)
class _Term:
    """A word of a query, and the most that it adds to a passage, however often it is repeated."""

    word: int
    repeats: int
    bound: float


class InvertedIndexScorer:
    """Scores from postings. Weights are computed on the way: one index serves every setting."""

    def __init__(self, index: WordIndex, variant: Variant, k1: float, b: float) -> None:
        self._index, self._variant, self._k1 = index, variant, k1
        lengths = index.lengths
        self._saturation = k1 * (1 - b + b * lengths / lengths.mean())  # of each passage
        self._bounds: dict[int, float] = {}  # of the words asked for so far
        self._sums = np.zeros(len(lengths))  # all 0 between two queries

    def search(self, words: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best of the passages that match a query of these words.

        Returns:
            rows int64 and scores float64, at most ``k`` of each: highest first, ties by row.
        """
        asked = self._numbers(words)
        rows = self._candidates(asked, k)
        best = TopK(1, k)
        best.push(self._sum(asked, rows)[np.newaxis], rows)
        return next(best.matches())

    def scores(self, words: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Scores of passages, in any order: float64 ``[rows]``."""
        return self._sum(self._numbers(words), rows)

    def _numbers(self, words: Sequence[str]) -> list[int]:
        """Words that count, in the query's order, as often as they are there."""
        known = [self._index.numbers[word] for word in words if word in self._index.numbers]
        return [word for word in known if self._idf(word) > 0]

    def _candidates(self, asked: Sequence[int], k: int) -> np.ndarray:
        """Rows that hold the ``k`` best, and few others; all that match where they are fewer."""
        terms = [_Term(word, n, n * self._bound(word)) for word, n in Counter(asked).items()]
        terms.sort(key=lambda term: -term.bound)
        rows, sums, n_read = self._read(terms, k)
        for place in range(n_read, len(terms) + 1):
            if len(rows) > k:
                least = _kth_best(sums, k)
                rest = sum(term.bound for term in terms[place:])
                reachable = sums + rest + _MARGIN >= least
                rows, sums = rows[reachable], sums[reachable]
            if place < len(terms):
                sums += terms[place].repeats * self._weights_in(terms[place].word, rows)
        return rows

    def _read(self, terms: Sequence[_Term], k: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Read the lists of the first words, until the other words alone cannot enter the list.

        Returns:
            rows that hold one of those words, ascending int64 ``[rows]``; their sums so far,
            float64; how many words were read.
        """
        sums, found, n_read = self._sums, [np.empty(0, dtype=np.int32)], 0
        for n_read, term in enumerate(terms, start=1):
            rows, frequencies = self._index.postings(term.word)
            before = sums[rows]
            found.append(rows[before == 0])
            sums[rows] = before + term.repeats * self._weights(term.word, rows, frequencies)
            rest = sum(term.bound for term in terms[n_read:])
            if sum(map(len, found)) >= k and sum(t.bound for t in terms[:n_read]) > rest:
                least = _kth_best(sums[np.concatenate(found)], k)
                if least > rest + _MARGIN:
                    break
        rows = np.sort(np.concatenate(found)).astype(np.int64)
        read = sums[rows]
        sums[rows] = 0
        return rows, read, n_read

    def _sum(self, asked: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """Rounded scores of ``rows``, added up in the query's order: float64 ``[rows]``."""
        weights = {word: self._weights_in(word, rows) for word in set(asked)}
        scores = np.zeros(len(rows))
        for word in asked:
            scores += weights[word]
        return scores.round(DECIMALS)

    def _weights_in(self, word: int, rows: np.ndarray) -> np.ndarray:
        """A word's weight in each of ``rows``, 0 where it is not: float64 ``[rows]``."""
        holding, frequencies = self._index.postings(word)
        wanted = rows.astype(holding.dtype)  # or the search would copy the whole list
        places = np.minimum(np.searchsorted(holding, wanted), len(holding) - 1)
        held = holding[places] == wanted
        weights = np.zeros(len(rows))
        weights[held] = self._weights(word, wanted[held], frequencies[places[held]])
        return weights

    def _weights(self, word: int, rows: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
        tf = frequencies.astype(np.float64)
        saturated = tf + self._saturation[rows]
        if self._variant is Variant.atire_robertson:
            tf *= self._k1 + 1
        return self._idf(word) * (tf / saturated)

    def _idf(self, word: int) -> float:
        held = int(self._index.starts[word + 1] - self._index.starts[word])
        odds = (len(self._sums) - held + 0.5) / (held + 0.5)
        return math.log(1 + odds if self._variant is Variant.lucene else max(1.0, odds))

    def _bound(self, word: int) -> float:
        """The word's largest weight in any passage; the words of a template are asked for often."""
        if word not in self._bounds:
            self._bounds[word] = float(self._weights(word, *self._index.postings(word)).max())
        return self._bounds[word]


def _kth_best(scores: np.ndarray, k: int) -> float:
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])
