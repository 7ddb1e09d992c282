"""BM25 scores from an inverted index, without scoring every passage.

A query's words are read heaviest first. Words bound what a passage that holds none of those read
so far could still score; as soon as that is less than the k-th best score can be, no other passage
can enter the list (MaxScore: Turtle & Flood 1995). That score is no less than the k-th largest
weight of any one word, nor than the k-th best sum so far. What is left of the common words, whose
lists are the long ones, is then looked up for the few passages that are still in question. All this
is done in float32, with a margin for its rounding; scores are sums in float64.
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
# Sums in float32, of which only those that may be among the best are made again in float64: how far
# a word's weight, or adding one, may be off, as a share of the largest sum.
_ROUNDING = 2 * float(np.finfo(np.float32).eps)


class Variant(Enum):
    """Formula of idf and of the word's weight in a passage.

    ``atire_robertson``: the formula at the head of ``methods/bm25.py``. ``lucene``: without the
    factor k1 + 1, and with idf = log(1 + (N - df + 0.5) / (df + 0.5)), which is never 0.
    """

    atire_robertson = "atire_robertson"
    lucene = "lucene"


@dataclass(frozen=True)
class _Term:
    """A word of a query.

    Attributes:
        repeats: how often the query has it.
        bound: the most that it can add to a score.
        kth: what it adds to the score of the k-th of the passages that it is heaviest in.
    """

    word: int
    repeats: int
    bound: float
    kth: float


class InvertedIndexScorer:
    """Scores from postings; weights are computed when asked, so one index serves every setting.

    Attributes:
        index: the postings.
    """

    def __init__(self, index: WordIndex, variant: Variant, k1: float, b: float) -> None:
        self.index, self._variant, self._k1 = index, variant, k1
        lengths = index.lengths
        self._saturation = k1 * (1 - b + b * lengths / lengths.mean())  # one a passage
        self._rough_saturation = self._saturation.astype(np.float32)
        # Largest and k-th largest weight of each word asked for so far, by word and k: kept, since
        # templates repeat their words.
        self._heaviest: dict[tuple[int, int], tuple[float, float]] = {}
        self._sums = np.zeros(len(lengths), dtype=np.float32)  # all 0 between two queries

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
        known = [self.index.numbers[word] for word in words if word in self.index.numbers]
        return [word for word in known if self._idf(word) > 0]

    def _candidates(self, asked: Sequence[int], k: int) -> np.ndarray:
        """Rows among which the ``k`` best are; all rows that match, if fewer than ``k`` do.

        Returns:
            int64, ascending.
        """
        terms = [self._term(word, repeats, k) for word, repeats in Counter(asked).items()]
        terms.sort(key=lambda term: -term.bound)
        # What the words from each place on can add to a score, and what rounding can move it by.
        bounds = np.cumsum([0.0, *(term.bound for term in reversed(terms))])[::-1]
        margin = _ROUNDING * (len(terms) + 4) * bounds[0] + 10.0**-DECIMALS
        rests = (bounds + margin).tolist()
        rows, sums, n_read, least = self._read(terms, rests, k)
        for place in range(n_read, len(terms) + 1):
            if len(rows) > k:
                least = max(least, _kth_best(sums, k))
                reachable = sums >= least - rests[place]
                rows, sums = rows[reachable], sums[reachable]
            if place < len(terms):
                term = terms[place]
                sums += (term.repeats * self._weights_in(term.word, rows)).astype(np.float32)
        return rows.astype(np.int64)

    def _read(
        self, terms: Sequence[_Term], rests: Sequence[float], k: int
    ) -> tuple[np.ndarray, np.ndarray, int, float]:
        """Read the postings of the first words, until passages without them cannot enter the list.

        Args:
            rests: what the words from each place on can add to a score, at most.

        Returns:
            rows that hold one of those words and may enter the list, ascending int32 ``[rows]``;
            their sums so far, float32 ``[rows]``; the number of words read; what the k-th best
            score is no less than.
        """
        # k passages have it from one word alone.
        least = max((term.kth for term in terms), default=0.0)
        seen, n_seen, n_read = [self.index.rows[:0]], 0, 0
        for n_read, term in enumerate(terms, start=1):
            rows, frequencies = self.index.postings(term.word)
            before = self._sums.take(rows)
            seen.append(rows[before == 0])
            self._sums[rows] = before + self._rough_weights(term, rows, frequencies)
            n_seen += len(seen[-1])
            # The best sums so far tell more, but cost as much as another list.
            if least <= rests[n_read] < rests[0] - rests[n_read] and n_seen >= k:
                least = max(least, _kth_best(self._sums.take(np.concatenate(seen)), k))
            if least > rests[n_read]:
                break
        rows = np.sort(np.concatenate(seen))
        sums = self._sums.take(rows)
        self._sums[rows] = 0
        reachable = sums >= least - rests[n_read]
        return rows[reachable], sums[reachable], n_read, least

    def _rough_weights(self, term: _Term, rows: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
        """What a word adds to the scores of passages that hold it: float32 ``[rows]``."""
        tf = frequencies.astype(np.float32)
        weights = tf * np.float32(term.repeats * self._factor(term.word))
        tf += self._rough_saturation.take(rows)
        weights /= tf
        return weights

    def _sum(self, asked: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """Rounded scores of ``rows``, added up in the query's order: float64 ``[rows]``."""
        weights = {word: self._weights_in(word, rows) for word in set(asked)}
        scores = np.zeros(len(rows))
        for word in asked:
            scores += weights[word]
        return scores.round(DECIMALS)

    def _weights_in(self, word: int, rows: np.ndarray) -> np.ndarray:
        """A word's weight in each of ``rows``, 0 where it is not: float64 ``[rows]``."""
        holding, frequencies = self.index.postings(word)
        wanted = rows.astype(holding.dtype)  # of another dtype, the list would be copied
        places = np.minimum(np.searchsorted(holding, wanted), len(holding) - 1)
        held = holding[places] == wanted
        weights = np.zeros(len(rows))
        weights[held] = self._weights(word, wanted[held], frequencies[places[held]])
        return weights

    def _weights(self, word: int, rows: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
        tf = frequencies.astype(np.float64)
        saturated = tf + self._saturation.take(rows)
        if self._variant is Variant.atire_robertson:
            tf *= self._k1 + 1
        return self._idf(word) * (tf / saturated)

    def _factor(self, word: int) -> float:
        """What a word's weight is in a passage that is full of it."""
        return self._idf(word) * (self._k1 + 1 if self._variant is Variant.atire_robertson else 1)

    def _idf(self, word: int) -> float:
        held = int(self.index.starts[word + 1] - self.index.starts[word])
        odds = (len(self._sums) - held + 0.5) / (held + 0.5)
        return math.log(1 + odds if self._variant is Variant.lucene else max(1.0, odds))

    def _term(self, word: int, repeats: int, k: int) -> _Term:
        if (word, k) not in self._heaviest:
            weights = self._weights(word, *self.index.postings(word))
            kth = _kth_best(weights, k) if len(weights) >= k else 0.0
            self._heaviest[word, k] = float(weights.max()), kth
        bound, kth = self._heaviest[word, k]
        return _Term(word, repeats, repeats * bound, repeats * kth)


def _kth_best(scores: np.ndarray, k: int) -> float:
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])
