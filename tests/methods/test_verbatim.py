"""Verbatim matches against all substrings, one passage and query at a time."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from bench.core.errors import UserError
from bench.tasks.base import Query
from methods import verbatim
from methods.base import Context
from methods.query_text import QueryPart
from methods.verbatim import Verbatim, VerbatimConfig
from methods.words import Tokenizer
from tests.fixtures.composing import method_settings
from tests.fixtures.helpers import checked, make_task

DEFAULT = VerbatimConfig(
    tokenizer=Tokenizer.words,
    query=QueryPart.prompt_and_target,
    require_answer=False,
    max_n=64,
)
GREY = [Query("q", "Al Grey plays the", "trombone")]


def search(folder, texts, queries, top_k=100, **changes):
    method = Verbatim(replace(DEFAULT, **changes), Context(make_task(folder, texts), folder))
    checked(method)
    assert method.index().bytes == 0
    return list(method.search(queries, top_k)), method.context


def grams(words, max_n):
    """All n-grams of some words, by one comprehension."""
    return {
        tuple(words[i:j])
        for i in range(len(words))
        for j in range(i + 1, min(len(words), i + max_n) + 1)
    }


def brute_force(text, query, part, require_answer, max_n):
    answer = query.target.split()
    asked = query.prompt.split() + (answer if part is QueryPart.prompt_and_target else [])
    held = text.split()
    shared = grams(asked, max_n) & grams(held, max_n)
    inside = any(held[i : i + len(answer)] == answer for i in range(len(held) + 1))
    if not shared or (require_answer and not inside):
        return 0.0
    return max(map(len, shared)) + 0.5 * len(shared) / (1 + len(shared))


def sentences(longest):
    return st.lists(st.sampled_from("abc"), max_size=longest).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(sentences(9), min_size=1, max_size=12),
    asked=st.lists(st.tuples(sentences(7), sentences(3)), min_size=1, max_size=4),
    part=st.sampled_from(QueryPart),
    require_answer=st.booleans(),
    max_n=st.integers(1, 8),
    top_k=st.integers(1, 14),
    at_once=st.integers(1, 40),
)
def test_equals_brute_force_in_any_blocks(
    texts, asked, part, require_answer, max_n, top_k, at_once
):
    queries = [Query(f"q{i}", *words) for i, words in enumerate(asked)]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(verbatim, "_SCORES_AT_ONCE", at_once)
        found, context = search(
            Path(folder), texts, queries, top_k,
            query=part, require_answer=require_answer, max_n=max_n,
        )  # fmt: skip
    for query, ranking in zip(queries, found, strict=True):
        line = np.array([brute_force(t, query, part, require_answer, max_n) for t in texts])
        ranked = np.lexsort((np.arange(len(texts)), -line)).tolist()
        expected = [row for row in ranked if line[row] > 0][:top_k]
        assert ranking.query_id == query.query_id
        assert ranking.rows.tolist() == expected
        assert ranking.scores.tolist() == line[expected].tolist()
    empty = sum(not query.target for query in queries) if require_answer else 0
    assert context.counts["answers_without_words"] == empty


def test_scores_by_hand(tmp_path):
    texts = ["the trombone", "Grey, al", "AL GREY PLAYS THE trombone.", "nothing", "plays; the!"]
    (ranking,), _ = search(tmp_path, texts, GREY)
    # 3 shared n-grams of up to 2 words, twice; 15 of up to 5; 2 of 1
    assert ranking.rows.tolist() == [2, 0, 4, 1]
    assert ranking.scores.tolist() == [5 + 7.5 / 16, 2.375, 2.375, 1 + 1 / 3]


def test_one_longer_match_is_above_any_number_of_shorter_ones(tmp_path):
    words = [f"w{i}" for i in range(400)]
    query = [Query("q", " ".join(words), "x")]
    alone = " - ".join(words)
    pairs = " - ".join(f"{words[i]} {words[i + 1]}" for i in range(0, 400, 2))
    texts = [alone, "w0 w1", "w5 w6 w7", pairs]
    (ranking,), _ = search(tmp_path, texts, query, tokenizer=Tokenizer.whitespace)
    assert ranking.rows.tolist() == [2, 3, 1, 0]
    assert (np.diff(ranking.scores) < 0).all()


def test_ties_go_by_row_also_at_the_cut(tmp_path):
    texts = ["z", "a trombone", "y", "a trombone", "trombone a", "Trombone!", "x"]
    (ranking,), _ = search(tmp_path, texts, GREY, top_k=3)
    assert ranking.rows.tolist() == [1, 3, 4]
    assert len(set(ranking.scores.tolist())) == 1


def test_passages_without_a_match_are_not_listed(tmp_path):
    (ranking,), _ = search(tmp_path, ["", "x", "the", "..."], GREY)
    assert ranking.rows.tolist() == [2]
    assert ranking.scores.tolist() == [1.25]


def test_a_passage_must_hold_the_answer_if_that_is_asked(tmp_path):
    texts = ["Al Grey plays the piano", "the slide trombone", "slide", "trombone slide"]
    query = [Query("q", "Al Grey plays the", "slide trombone")]
    (free,), _ = search(tmp_path, texts, query)
    assert free.rows.tolist() == [0, 1, 3, 2]
    (bound,), context = search(tmp_path, texts, query, require_answer=True)
    assert bound.rows.tolist() == [1]
    assert bound.scores.tolist() == [free.scores[1]]
    assert context.counts["answers_without_words"] == 0
    # The answer may be longer than any n-gram that counts, and need not be part of the query.
    short = {"require_answer": True, "max_n": 1, "query": QueryPart.prompt}
    (ranking,), _ = search(tmp_path, texts, query, **short)
    assert ranking.rows.tolist() == [1]
    assert ranking.scores.tolist() == [1.25]


def test_an_answer_without_words_requires_nothing(tmp_path):
    (ranking,), context = search(
        tmp_path, ["x", "al grey"], [Query("q", "Al Grey", "?!")], require_answer=True
    )
    assert ranking.rows.tolist() == [1]
    assert context.counts["answers_without_words"] == 1


def test_words_are_unicode_and_lower_case_or_as_they_are(tmp_path):
    texts, query = ["ÉCOLE, 北京大学", "école"], [Query("q", "École", "北京大学?")]
    (words,), _ = search(tmp_path, texts, query)
    assert words.scores.tolist() == [2.375, 1.25]
    (exact,), _ = search(tmp_path, texts, query, tokenizer=Tokenizer.whitespace)
    assert exact.rows.tolist() == []


def test_no_query_and_a_query_without_words(tmp_path):
    assert search(tmp_path, ["a"], [])[0] == []
    (ranking,), _ = search(tmp_path, ["a", "b"], [Query("q", "?", "!")])
    assert (ranking.rows.tolist(), ranking.scores.tolist()) == ([], [])


def test_other_queries_change_no_list(tmp_path):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdef"), size=rng.integers(0, 12))) for _ in range(200)]
    queries = [
        Query(f"q{i}", *(" ".join(rng.choice(list("abcdefg"), size=6)), "a")) for i in range(8)
    ]
    together, _ = search(tmp_path, texts, queries, top_k=40)
    for query, ranking in zip(queries, together, strict=True):
        (alone,), _ = search(tmp_path, texts, [query], top_k=40)
        assert alone.rows.tolist() == ranking.rows.tolist()
        assert alone.scores.tolist() == ranking.scores.tolist()


def test_n_grams_without_a_word_are_refused(tmp_path):
    with pytest.raises(UserError) as error:
        search(tmp_path, ["a"], [], max_n=0)
    assert error.value.where == "method.max_n"


def test_the_configuration_file_fits_the_schema():
    loaded = method_settings("verbatim")
    assert OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(VerbatimConfig), loaded)) == (
        DEFAULT
    )


def test_what_a_search_holds_does_not_grow_with_the_corpus(tmp_path):
    """The peak of the allocations of Python and numpy while searching is the same."""
    peaks = []
    for n in (10_000, 40_000):  # more than two blocks
        texts = [f"al grey w{i:05} plays the x{i:05}" for i in range(n)]
        folder = tmp_path / str(n)
        method = Verbatim(DEFAULT, Context(make_task(folder, texts), folder))
        del texts
        tracemalloc.start()
        list(method.search(GREY, 10))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
