"""BM25 scores from an inverted index, without scoring every passage.

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

# Digits to which scores are rounded. Sums of the same terms in another order differ in their last
# bits; rounded they tie, and every engine breaks ties by row.
DECIMALS = 9
# Safety margin of all comparisons of partial sums: larger than what rounding and the order of a sum
# can move a score by. Scores nearer than this are told apart by the final sums alone.
_MARGIN = 1e-8


class Variant(Enum):
    """Formula of idf and of the word's weight in a passage.

    ``atire_robertson``: the formula at the head of ``methods/bm25.py``. ``lucene``: without the
    factor k1 + 1, and with idf = log(1 + (N - df + 0.5) / (df + 0.5)), which is never 0.
    """

    atire_robertson = "atire_robertson"
    lucene = "lucene"


@dataclass(frozen=True)
class _Term:
    """A word of a query, how often the query has it, and the most that it can add to a score."""

    word: int
    repeats: int
    bound: float


class InvertedIndexScorer:
    """Scores from postings; weights are computed when asked, so one index serves every setting."""

    def __init__(self, index: WordIndex, variant: Variant, k1: float, b: float) -> None:
        self._index, self._variant, self._k1 = index, variant, k1
        lengths = index.lengths
        self._saturation = k1 * (1 - b + b * lengths / lengths.mean())  # one a passage
        self._bounds: dict[int, float] = {}  # largest weight of each word asked for so far
        self._sums = np.zeros(len(lengths))  # one a passage; all 0 between two queries

    def search(self, words: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best of the passages that match a query of these words.

        Returns:
            rows, int64, and scores, float64, at most ``k`` of each: highest score first, ties by
            row.
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
        """Numbers of the query's words that have weight, in the query's order, repeats included."""
        known = [self._index.numbers[word] for word in words if word in self._index.numbers]
        return [word for word in known if self._idf(word) > 0]

    def _candidates(self, asked: Sequence[int], k: int) -> np.ndarray:
        """Rows among which the ``k`` best are; all rows that match, if fewer than ``k`` do."""
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
        """Read the postings of the first words, until passages without them cannot enter the list.

        Returns:
            rows that hold one of those words, ascending int64 ``[rows]``; their sums so far,
            float64 ``[rows]``; the number of words read.
        """
        sums, seen, n_read = self._sums, [np.empty(0, dtype=np.int32)], 0
        for n_read, term in enumerate(terms, start=1):
            rows, frequencies = self._index.postings(term.word)
            before = sums[rows]
            seen.append(rows[before == 0])
            sums[rows] = before + term.repeats * self._weights(term.word, rows, frequencies)
            rest = sum(term.bound for term in terms[n_read:])
            if sum(map(len, seen)) >= k and sum(t.bound for t in terms[:n_read]) > rest:
                least = _kth_best(sums[np.concatenate(seen)], k)
                if least > rest + _MARGIN:
                    break
        rows = np.sort(np.concatenate(seen)).astype(np.int64)
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
        wanted = rows.astype(holding.dtype)  # of another dtype, the list would be copied
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
        """The word's largest weight in any passage; kept, since templates repeat their words."""
        if word not in self._bounds:
            self._bounds[word] = float(self._weights(word, *self._index.postings(word)).max())
        return self._bounds[word]


def _kth_best(scores: np.ndarray, k: int) -> float:
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])
