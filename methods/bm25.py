"""Okapi BM25 (Robertson & Zaragoza 2009), by either of two engines.

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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from bench.core import progress
from bench.core.errors import UserError
from bench.core.fields import part_of_key
from bench.storage.keys import content_key
from bench.tasks.base import Query
from methods.base import IndexSize, Method, Ranking
from methods.bm25_jobs import QUERIES_A_JOB, ListSearch
from methods.bm25_scoring import InvertedIndexScorer, Variant
from methods.query_text import QueryPart, query_text
from methods.rank_bm25 import RankBm25
from methods.topk import MATCHES_VERSION
from methods.word_index import NoWordsError, open_or_build
from methods.words import TOKENIZERS, WORDS_VERSION, Tokenizer


class Scoring(Enum):
    """Which implementation scores: both give the same scores, where both know the formula."""

    inverted_index = "inverted_index"  # our index on disk, which skips hopeless passages
    rank_bm25 = "rank_bm25"


@dataclass
class BM25Config:
    """Settings of ``conf/method/bm25.yaml``."""

    variant: Variant = part_of_key()
    k1: float = part_of_key(above=0, at_most=1e9)  # at 0 rank_bm25 divides 0 by 0
    b: float = part_of_key(at_least=0, at_most=1)
    tokenizer: Tokenizer = part_of_key()
    query: QueryPart = part_of_key()
    engine: Scoring = part_of_key()


class BM25(Method):
    """Lexical match.

    Listed are passages that score above 0: those that share a word with the query which counts. (A
    word that is in more than half of the passages weighs nothing in the default variant.)
    """

    Config = BM25Config
    version = (WORDS_VERSION, MATCHES_VERSION)
    zero_is_no_match = True
    config: BM25Config
    _scorer: _Scorer | None = None

    @classmethod
    def check_settings(cls, config: BM25Config) -> None:
        """Refuse constants that BM25 does not define, and a formula that the engine lacks."""
        super().check_settings(config)
        if config.engine is Scoring.rank_bm25 and config.variant is not Variant.atire_robertson:
            raise UserError(
                f"rank_bm25 has no variant {config.variant.name}",
                where="method.engine",
                fix="set method.engine=inverted_index or method.variant=atire_robertson",
            )

    def index(self) -> IndexSize:
        """Stream the passages' words into an index on disk, or open the one made before.

        Every variant, k1 and b shares one index. rank_bm25 holds its own in memory.

        Raises:
            UserError: no passage holds a word.
        """
        try:
            size, self._scorer = self._indexed()
        except NoWordsError as error:
            raise UserError(
                "no passage holds a word to match",
                where=f"task {self.context.task.name}",
                fix="check the passages, or method.tokenizer",
            ) from error
        return size

    def _indexed(self) -> tuple[IndexSize, _Scorer]:
        config, task = self.config, self.context.task
        tokenize = TOKENIZERS[config.tokenizer]
        if config.engine is Scoring.rank_bm25:
            passages = progress.track(task.passages, "index words", unit="passages")
            words = (tokenize(passage.text) for passage in passages)
            return IndexSize(), RankBm25(words, config.k1, config.b)
        key = content_key(
            {
                "version": WORDS_VERSION,
                "corpus": task.passages.sha256,
                "tokenizer": config.tokenizer.value,
            }
        )
        folder = self.context.cache_dir / "index" / "words" / key
        engine, mirror = self.context.engine, self.context.mirror
        index = open_or_build(folder, task.passages, tokenize, engine, mirror)
        self.context.facts["indexing_seconds"] = index.seconds
        scorer = InvertedIndexScorer(index, config.variant, config.k1, config.b)
        return IndexSize(bytes=index.nbytes, shards=1), scorer

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Rank the passages for one query after the other; many queries are several jobs."""
        scorer, config = self._scorer, self.config
        if scorer is None:
            raise ValueError("call index() before search()")
        lists: Iterator[tuple[np.ndarray, np.ndarray]]
        if isinstance(scorer, InvertedIndexScorer) and len(queries) > QUERIES_A_JOB:
            formula = (config.variant, config.k1, config.b)
            search = ListSearch(scorer.index.folder, *formula, top_k, here=scorer)
            words = [self._words(query) for query in queries]
            lists = search.lists(words, self.context.engine, self.context.mirror)
        else:
            tracked = progress.track(queries, "search bm25", unit="queries")
            lists = (scorer.search(self._words(query), top_k) for query in tracked)
        for query, (rows, scores) in zip(queries, lists, strict=True):
            yield Ranking(query.query_id, rows, scores)

    def rescore(self, queries: Sequence[Query], rows: np.ndarray) -> Iterator[np.ndarray]:
        """Score chosen passages: float64 ``[candidates]`` for each query."""
        if self._scorer is None:
            raise ValueError("call index() before rescore()")
        for query, chosen in zip(queries, rows, strict=True):
            yield self._scorer.scores(self._words(query), chosen)

    def _words(self, query: Query) -> list[str]:
        return TOKENIZERS[self.config.tokenizer](query_text(query, self.config.query))


class _Scorer(Protocol):
    """What either engine offers."""

    def search(self, words: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best rows that match, int64, and their scores, float64, of these words."""

    def scores(self, words: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Scores of some passages: float64 ``[rows]``."""
