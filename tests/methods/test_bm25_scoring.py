"""The best passages without scoring all, beside bm25s, which scores all."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods import bm25_scoring
from methods.bm25_scoring import DECIMALS, InvertedIndexScorer, Variant
from methods.topk import order
from tests.fixtures.helpers import make_task
from tests.fixtures.word_indexes import word_index

BM25S = {Variant.atire_robertson: ("atire", "robertson"), Variant.lucene: ("lucene", "lucene")}


def all_scores(texts, variant=Variant.atire_robertson, k1=1.5, b=0.75):
    """A function from words to the scores of all texts, float64, by another implementation."""
    import bm25s

    method, idf_method = BM25S[variant]
    index = bm25s.BM25(
        k1=k1, b=b, method=method, idf_method=idf_method, dtype="float64", backend="numpy"
    )
    index.index([text.split() for text in texts], create_empty_token=False, show_progress=False)

    def scores(words):
        known = [word for word in words if word in index.vocab_dict]
        found = index.get_scores(known) if known else np.zeros(len(texts))
        return found.round(DECIMALS)

    return scores


def make_scorer(folder, texts, variant=Variant.atire_robertson, k1=1.5, b=0.75):
    task = make_task(Path(folder), texts)
    return InvertedIndexScorer(
        word_index(Path(folder) / "words", task.passages, str.split), variant, k1, b
    )


text = st.lists(st.sampled_from("aaaaabbbbcccddefghij"), max_size=8).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(text, min_size=1, max_size=40).filter(lambda texts: any(texts)),
    queries=st.lists(st.lists(st.sampled_from("abcdefghijz"), max_size=7), max_size=3),
    k=st.integers(1, 50),
    variant=st.sampled_from(list(Variant)),
    k1=st.sampled_from([0.1, 0.9, 1.5, 3.0]),
    b=st.sampled_from([0.0, 0.4, 0.75, 1.0]),
)
def test_lists_equal_those_of_all_scores_bit_for_bit(texts, queries, k, variant, k1, b):
    with tempfile.TemporaryDirectory() as folder:
        scorer = make_scorer(folder, texts, variant, k1, b)
        oracle = all_scores(texts, variant, k1, b)
        for words in queries:  # nothing of one query is left for the next
            expected = oracle(words)
            ranked = order(expected, np.arange(len(texts)))
            best = [row for row in ranked.tolist() if expected[row] > 0][:k]
            rows, scores = scorer.search(words, k)
            assert rows.tolist() == best
            assert scores.tolist() == expected[best].tolist()
            assert scorer.scores(words, ranked[::-1]).tolist() == expected[ranked[::-1]].tolist()


def test_a_larger_corpus_of_common_and_rare_words(tmp_path):
    rng = np.random.default_rng(3)
    chance = 1 / np.arange(1, 3001)
    chance /= chance.sum()
    texts = [" ".join(f"w{n}" for n in rng.choice(3000, size=12, p=chance)) for _ in range(4000)]
    scorer, oracle = make_scorer(tmp_path, texts), all_scores(texts)
    for _ in range(20):
        words = [f"w{n}" for n in rng.choice(3000, size=8, p=chance)]
        expected = oracle(words)
        best = order(expected, np.arange(len(texts)))[:10]
        rows, scores = scorer.search(words, 10)
        assert rows.tolist() == best.tolist()
        assert scores.tolist() == expected[best].tolist()


def test_long_queries_lose_nothing_to_rounding(tmp_path):
    """Sums of hundreds of words in float32, of passages that differ by less than these can tell."""
    rng = np.random.default_rng(4)
    vocabulary = [f"w{n}" for n in range(600)]
    texts = [" ".join(rng.permutation(vocabulary)[:300]) for _ in range(250)]
    texts += [" ".join(rng.permutation(texts[0].split())) for _ in range(20)]
    scorer, oracle = make_scorer(tmp_path, texts), all_scores(texts)
    words = list(rng.choice(vocabulary, size=900))
    expected = oracle(words)
    best = order(expected, np.arange(len(texts)))[:12]
    rows, scores = scorer.search(words, 12)
    assert rows.tolist() == best.tolist()
    assert scores.tolist() == expected[best].tolist()


def test_the_lists_of_common_words_are_not_read(tmp_path, monkeypatch):
    """Ten passages hold the rare words, so no other can be among the best five."""
    texts = ["common rare seldom"] * 10 + ["common other"] * 300 + ["x"] * 400
    scorer = make_scorer(tmp_path, texts)
    scorer.search(["common", "rare", "seldom"], 5)  # after it, the bounds of these words are known
    weighed = []
    for name in ("_weights", "_rough_weights"):
        weights = getattr(InvertedIndexScorer, name)

        def watched(self, word, rows, frequencies, weights=weights):
            weighed.append(len(rows))
            return weights(self, word, rows, frequencies)

        monkeypatch.setattr(bm25_scoring.InvertedIndexScorer, name, watched)
    rows, _ = scorer.search(["common", "rare", "seldom"], 5)
    assert rows.tolist() == [0, 1, 2, 3, 4]
    assert max(weighed) == 10


@pytest.mark.parametrize("words", [[], ["unknown"], ["in_all"]])
def test_a_query_that_matches_nothing_lists_nothing(tmp_path, words):
    rows, scores = make_scorer(tmp_path, ["in_all a", "in_all", "in_all b"]).search(words, 2)
    assert (rows.tolist(), scores.tolist()) == ([], [])
    assert (rows.dtype, scores.dtype) == (np.int64, np.float64)
