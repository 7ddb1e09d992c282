"""Okapi BM25 over passages (Robertson & Zaragoza 2009), by either of two engines.

The default variant weighs a word that occurs in df of N passages by
``idf = max(0, log((N - df + 0.5) / (df + 0.5)))`` and sums, over the query's words (a repeated
word as often as it is repeated),

    idf · tf · (k1 + 1) / (tf + k1 · (1 - b + b · length / mean length))

which is ``rank_bm25.BM25Okapi(epsilon=0)`` and ``bm25s(method="atire", idf_method="robertson")``.
The logarithm is negative for a word in more than half of the passages: it would count *against*
a passage, so both engines set it to 0. rank_bm25's own default, ``epsilon=0.25``, is not used: it
gives those words a quarter of the mean idf, which rare words dominate, so that "the" may outweigh
content words.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from bench import progress
from bench.errors import UserError
from bench.tasks.base import Query
from methods.base import Context, IndexSize, Method, Ranking
from methods.query_text import QueryPart, query_text
from methods.topk import TopK
from methods.words import TOKENIZERS, Tokenizer

# Sums of the same terms in another order differ in their last bits; rounded, such ties are ties,
# and both engines break them by row.
_DECIMALS = 9


class Variant(Enum):
    """Formula of idf and of the word's weight in a passage."""

    atire_robertson = "atire_robertson"  # the module's docstring
    lucene = "lucene"  # idf = log(1 + (N - df + 0.5) / (df + 0.5)), never 0; no factor k1 + 1


class Engine(Enum):
    """Which library scores."""

    bm25s = "bm25s"
    rank_bm25 = "rank_bm25"


@dataclass
class BM25Config:
    """See ``conf/method/bm25.yaml``."""

    variant: Variant
    k1: float
    b: float
    tokenizer: Tokenizer
    query: QueryPart
    engine: Engine


class BM25(Method):
    """Lexical match. Every passage has a score; those that share no word with the query have 0."""

    Config = BM25Config
    config: BM25Config

    def __init__(self, config: BM25Config, context: Context) -> None:
        super().__init__(config, context)
        self._tokenize = TOKENIZERS[config.tokenizer]
        self._scorer: _Scorer | None = None

    def check(self) -> None:
        """Refuse constants that BM25 does not define, and a formula that the engine lacks."""
        config = self.config
        if not config.k1 > 0:  # 0 / 0 in rank_bm25
            raise UserError(f"expected more than 0, found {config.k1}", where="method.k1")
        if not 0 <= config.b <= 1:
            raise UserError(f"expected 0 to 1, found {config.b}", where="method.b")
        if config.engine is Engine.rank_bm25 and config.variant is not Variant.atire_robertson:
            raise UserError(
                f"rank_bm25 has no variant {config.variant.name}",
                where="method.engine",
                fix="set method.engine=bm25s or method.variant=atire_robertson",
            )

    def index(self) -> IndexSize:
        """Stream the passages' words into the engine, which keeps its index in memory.

        Raises:
            UserError: no passage holds a word.
        """
        passages = self.context.task.passages
        tracked = progress.track(passages, "index words", len(passages), unit="passages")
        words = (self._tokenize(passage.text) for passage in tracked)
        try:
            self._scorer = _SCORERS[self.config.engine](words, self.config)
        except _NoWordsError as error:
            raise UserError(
                "no passage holds a word to match",
                where=f"task {self.context.task.name}",
                fix="check the passages, or method.tokenizer",
            ) from error
        return IndexSize()

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """One vector of scores at a time, ``[passages]``."""
        if self._scorer is None:
            raise ValueError("call index() before search()")
        rows = np.arange(len(self.context.task.passages))
        for query in progress.track(queries, "search bm25", unit="queries"):
            words = self._tokenize(query_text(query, self.config.query))
            best = TopK(1, top_k)
            best.push(self._scorer.scores(words).round(_DECIMALS)[np.newaxis], rows)
            yield Ranking(query.query_id, best.rows[0], best.scores[0])

    def rescore(self, queries: Sequence[Query], rows: np.ndarray) -> Iterator[np.ndarray]:
        """The scores of ``search``, of some passages: float64 ``[candidates]`` for each query."""
        if self._scorer is None:
            raise ValueError("call index() before rescore()")
        for query, chosen in zip(queries, rows, strict=True):
            words = self._tokenize(query_text(query, self.config.query))
            yield self._scorer.scores(words).round(_DECIMALS)[chosen]


class _NoWordsError(Exception):
    """The corpus has no word at all: its mean length is 0, which BM25 divides by."""


class _Scorer(Protocol):
    def scores(self, words: list[str]) -> np.ndarray:
        """Score of every passage for a query of these words: float64 ``[passages]``."""


class _Bm25s:
    """Sparse matrix of precomputed weights (Lù 2024): a query adds up a few of its columns."""

    def __init__(self, passages: Iterable[list[str]], config: BM25Config) -> None:
        import bm25s

        # It asks for debug messages, which would flood the run's log.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        vocabulary: dict[str, int] = {}
        ids = [
            array("i", [vocabulary.setdefault(word, len(vocabulary)) for word in words])
            for words in passages
        ]
        if not vocabulary:
            raise _NoWordsError
        method, idf_method = {
            Variant.atire_robertson: ("atire", "robertson"),
            Variant.lucene: ("lucene", "lucene"),
        }[config.variant]
        self._n_passages = len(ids)
        self._vocabulary = vocabulary
        # numba would be faster on large corpora, but compiles for seconds and is no dependency.
        self._index = bm25s.BM25(
            k1=config.k1,
            b=config.b,
            method=method,
            idf_method=idf_method,
            dtype="float64",
            backend="numpy",
        )
        self._index.index((ids, vocabulary), create_empty_token=False, show_progress=False)

    def scores(self, words: list[str]) -> np.ndarray:
        known = [self._vocabulary[word] for word in words if word in self._vocabulary]
        return self._index.get_scores(known) if known else np.zeros(self._n_passages)


class _RankBm25:
    """The plain reference: a Python dictionary a passage, every passage visited for every word."""

    def __init__(self, passages: Iterable[list[str]], config: BM25Config) -> None:
        from rank_bm25 import BM25Okapi

        try:
            self._index = BM25Okapi(passages, k1=config.k1, b=config.b, epsilon=0)
        except ZeroDivisionError as error:
            raise _NoWordsError from error

    def scores(self, words: list[str]) -> np.ndarray:
        # With b = 1 it divides 0 by 0 in passages without words, which match nothing.
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(self._index.get_scores(words))


_SCORERS: dict[Engine, Callable[[Iterable[list[str]], BM25Config], _Scorer]] = {
    Engine.bm25s: _Bm25s,
    Engine.rank_bm25: _RankBm25,
}
