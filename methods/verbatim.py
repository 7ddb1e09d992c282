"""Exact match: the longest n-gram that a passage shares with a query, word for word.

The method is in the spirit of infini-gram (Liu et al. 2024, 2401.17377) and OLMoTrace (Liu et al.
2025, 2504.07096), which find n-grams of any length in a training corpus. A passage's score is

    longest + 0.5 · shared / (1 + shared)

``longest`` is the length in words of the longest n-gram that it has in common with the query, and
``shared`` how many different n-grams of the query it holds, of all lengths. The second term grows
with ``shared`` and stays below 0.5, clear of the next whole number: it orders passages of equal
``longest`` and no others.

The sources index the corpus with a suffix array, to answer any query in milliseconds, and count or
show what matches. Here the queries are known and a ranking is wanted: the queries' n-grams are the
index (a trie), and the corpus streams past it once.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.core import progress
from bench.core.fields import part_of_key
from bench.tasks.base import Query
from methods.base import Context, Method, Ranking
from methods.query_text import QueryPart, query_text
from methods.topk import MATCHES_VERSION, TopK
from methods.words import TOKENIZERS, WORDS_VERSION, Tokenizer

_SCORES_AT_ONCE = 1 << 20  # queries × passages of a block: 8 MiB of scores
_PASSAGES_AT_ONCE = 4096  # passages of a block, at most


@dataclass
class VerbatimConfig:
    """Settings of ``conf/method/verbatim.yaml``."""

    tokenizer: Tokenizer = part_of_key()
    query: QueryPart = part_of_key()
    require_answer: bool = part_of_key()
    max_n: int = part_of_key(at_least=1)


class Verbatim(Method):
    """Longest verbatim match. Listed are passages that share an n-gram with the query."""

    Config = VerbatimConfig
    version = (WORDS_VERSION, MATCHES_VERSION)
    zero_is_no_match = True
    config: VerbatimConfig

    def __init__(self, config: VerbatimConfig, context: Context) -> None:
        super().__init__(config, context)
        self._tokenize = TOKENIZERS[config.tokenizer]

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Score all passages in one pass; memory does not grow with the corpus.

        The count ``answers_without_words`` is of queries whose answer cannot be required.
        """
        grams = self._grams(queries)
        passages = self.context.task.passages
        best = TopK(len(queries), top_k)
        width = min(_PASSAGES_AT_ONCE, max(1, _SCORES_AT_ONCE // max(1, len(queries))))
        starts = range(0, len(passages), width)
        for start in progress.track(starts, "search verbatim", unit=f"times {width} passages"):
            texts = [self._tokenize(p.text) for p in passages.slice(start, start + width)]
            best.push(grams.scores(texts), np.arange(start, start + len(texts)))
        for query, matches in zip(queries, best.matches(), strict=True):
            yield Ranking(query.query_id, *matches)

    def _grams(self, queries: Sequence[Query]) -> _QueryGrams:
        config = self.config
        texts = [self._tokenize(query_text(query, config.query)) for query in queries]
        answers = None
        if config.require_answer:
            answers = [self._tokenize(query.target) for query in queries]
            self.context.counts["answers_without_words"] += sum(not words for words in answers)
        return _QueryGrams(texts, answers, config.max_n)


class _QueryGrams:
    """All n-grams of the queries in one trie: a node is an n-gram, and its children add a word.

    Args:
        answers: words of each query that a passage must hold in a row to have a score; an answer
            without words is in every passage. With None, nothing is required.
        max_n: words of the longest n-gram that counts.
    """

    def __init__(
        self, texts: Sequence[list[str]], answers: Sequence[list[str]] | None, max_n: int
    ) -> None:
        self._n_queries = len(texts)
        self._children: dict[tuple[int, str], int] = {}
        self._lengths = [0]  # number of words of each node's n-gram
        holds = _Pairs()  # n-grams and the queries that hold them
        for query, words in enumerate(texts):
            starts = range(len(words))
            holds.add({n for i in starts for n in self._path(words[i : i + max_n])}, query)
        ends = _Pairs()  # n-grams and the queries whose answer they are
        self._free = np.ones(self._n_queries, dtype=bool)  # whether a query requires no answer
        for query, words in enumerate(answers or ()):
            if words:
                ends.add(self._path(words)[-1:], query)
                self._free[query] = False
        self._holding = holds.grouped(len(self._lengths))
        self._ending = ends.grouped(len(self._lengths))

    def _path(self, words: Sequence[str]) -> list[int]:
        """Nodes of all beginnings of ``words``, shortest first; missing ones are made."""
        node, path = 0, []
        for word in words:
            child = self._children.setdefault((node, word), len(self._lengths))
            if child == len(self._lengths):
                self._lengths.append(self._lengths[node] + 1)
            node = child
            path.append(node)
        return path

    def scores(self, texts: Sequence[list[str]]) -> np.ndarray:
        """Scores of passages, each given as its words: float64 ``[queries, passages]``."""
        shape = (self._n_queries, len(texts))
        longest, shared = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
        allowed = np.repeat(self._free[:, np.newaxis], len(texts), axis=1)
        # One step an n-gram, not a passage: the common n-grams are in all queries.
        for node, columns in self._matches(texts).items():
            if len(queries := self._holding.of(node)):
                cells = np.ix_(queries, np.array(columns))
                longest[cells] = np.maximum(longest[cells], self._lengths[node])
                shared[cells] += 1
            if len(queries := self._ending.of(node)):
                allowed[np.ix_(queries, np.array(columns))] = True
        return np.where(allowed, longest + 0.5 * shared / (1 + shared), 0.0)

    def _matches(self, texts: Sequence[list[str]]) -> dict[int, list[int]]:
        """The passages that hold each n-gram, by node."""
        holders: dict[int, list[int]] = defaultdict(list)
        for column, words in enumerate(texts):
            for node in self._grams_in(words):
                holders[node].append(column)
        return holders

    def _grams_in(self, words: list[str]) -> set[int]:
        """Nodes of the n-grams that a passage holds."""
        children, held = self._children, set()
        for start in range(len(words)):
            node = 0
            for place in range(start, len(words)):
                child = children.get((node, words[place]))
                if child is None:  # no longer n-gram of the queries begins so
                    break
                held.add(child)
                node = child
        return held


class _Pairs:
    """Pairs of a node and a query in the order of ``add``, 8 bytes each."""

    def __init__(self) -> None:
        self._nodes, self._queries = array("i"), array("i")

    def add(self, nodes: set[int] | list[int], query: int) -> None:
        self._nodes.extend(nodes)
        self._queries.extend([query] * len(nodes))

    def grouped(self, n_nodes: int) -> _Groups:
        nodes = np.array(self._nodes, dtype=np.int64)
        ends = np.cumsum(np.bincount(nodes, minlength=n_nodes))
        queries = np.array(self._queries, dtype=np.int64)
        return _Groups(queries[np.argsort(nodes, kind="stable")], np.concatenate([[0], ends]))


@dataclass(frozen=True)
class _Groups:
    """The queries of each node, one node's after the other's."""

    queries: np.ndarray
    bounds: np.ndarray

    def of(self, node: int) -> np.ndarray:
        return self.queries[self.bounds[node] : self.bounds[node + 1]]
