from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from omegaconf import OmegaConf

from bench.core.errors import UserError
from bench.tasks.base import Query
from methods.base import Context, NoSettings
from methods.controls import (
    Gold,
    Length,
    Popularity,
    PopularityConfig,
    Random,
    RandomConfig,
)
from methods.words import Tokenizer
from tests.fixtures.composing import method_settings
from tests.fixtures.helpers import checked, make_task

QUERIES = [
    Query("q0", "Al Grey plays the", "trombone", gold_rows=(2, 5)),
    Query("q1", "Paris is the capital of", "France", gold_rows=(0, 3, 4)),
    Query("q2", "nobody states", "this"),
]


@pytest.fixture
def context(tmp_path):
    task = make_task(tmp_path / "task", [f"passage {i}" for i in range(50)], QUERIES)
    return Context(task, tmp_path / "cache")


def search_random(context, seed=0, queries=QUERIES, top_k=10):
    method = Random(RandomConfig(seed=seed), context)
    method.index()
    return {ranking.query_id: ranking for ranking in method.search(queries, top_k)}


def test_random_lists_distinct_rows_with_falling_scores(context):
    for top_k in (1, 10, 50, 1000):
        for ranking in search_random(context, top_k=top_k).values():
            assert len(ranking.rows) == min(top_k, 50)
            assert len(set(ranking.rows.tolist())) == len(ranking.rows)
            assert set(ranking.rows.tolist()) <= set(range(50))
            assert (np.diff(ranking.scores) < 0).all()
            assert ranking.rows.dtype == np.int64


def test_random_depends_on_seed_and_query_but_not_on_order_or_length(context):
    once = search_random(context)
    assert list(search_random(context, queries=QUERIES[::-1])) == ["q2", "q1", "q0"]
    for query_id, again in search_random(context, queries=QUERIES[::-1], top_k=3).items():
        assert again.rows.tolist() == once[query_id].rows[:3].tolist()
        assert again.scores.tolist() == once[query_id].scores[:3].tolist()
    assert once["q0"].rows.tolist() != once["q1"].rows.tolist()
    assert once["q0"].rows.tolist() != search_random(context, seed=1)["q0"].rows.tolist()


def test_random_permutations_are_uniform(tmp_path):
    queries = [Query(f"q{i}", "a", "b") for i in range(6000)]
    context = Context(make_task(tmp_path / "task", ["x", "y", "z"], queries), tmp_path)
    found = search_random(context, queries=queries)
    orders = [tuple(ranking.rows.tolist()) for ranking in found.values()]
    counts = [orders.count(order) for order in itertools.permutations(range(3))]
    assert sum(counts) == 6000
    assert all(850 < count < 1150 for count in counts)  # 1000 ± 5 standard deviations of 29


def test_gold_returns_the_annotated_rows_in_order(context):
    method = Gold(NoSettings(), context)
    checked(method)
    assert method.index().bytes == 0
    rankings = list(method.search(QUERIES, 2))
    assert [ranking.rows.tolist() for ranking in rankings] == [[2, 5], [0, 3], []]
    assert [ranking.scores.tolist() for ranking in rankings] == [[1.0, 1.0], [1.0, 1.0], []]


def test_gold_refuses_a_task_without_annotation(tmp_path):
    task = make_task(tmp_path / "task", ["x"], QUERIES, annotated=False)
    with pytest.raises(UserError, match="toy has no annotated passages"):
        checked(Gold(NoSettings(), Context(task, tmp_path)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("random", RandomConfig(seed=7)),
        ("gold", NoSettings()),
        ("length", NoSettings()),
        ("popularity", PopularityConfig(Tokenizer.words)),
    ],
)
def test_configuration_files_fit_the_schema(name, expected):
    loaded = method_settings(name)
    merged = OmegaConf.merge({"seed": 7}, {"method": loaded})
    values = OmegaConf.to_container(merged, resolve=True)["method"]
    schema = OmegaConf.structured(type(expected))
    assert OmegaConf.to_object(OmegaConf.merge(schema, values)) == expected


# ------------------------------------------------------------------ priors


def search_prior(folder, method_class, config, texts, queries=QUERIES, top_k=100):
    method = method_class(config, Context(make_task(folder, texts), folder))
    checked(method)
    assert method.index().bytes == 0
    return list(method.search(queries, top_k))


TEXTS = ["a b", "", "the cat", "The, the cat!", "b", "école — cat", "the"]


@pytest.mark.parametrize("top_k", [1, 3, 100])
def test_length_is_in_characters_and_ties_go_by_row(tmp_path, top_k):
    found = search_prior(tmp_path, Length, NoSettings(), TEXTS, top_k=top_k)
    assert [ranking.query_id for ranking in found] == ["q0", "q1", "q2"]
    for ranking in found:  # whatever the query
        assert ranking.rows.tolist() == [3, 5, 2, 0, 6, 4, 1][:top_k]
        assert ranking.scores.tolist() == [13, 11, 7, 3, 3, 1, 0][:top_k]


def test_popularity_is_the_mean_document_frequency_of_a_passages_words(tmp_path):
    found = search_prior(tmp_path, Popularity, PopularityConfig(Tokenizer.words), TEXTS)
    types = [set(re.findall(r"\w+", text.lower())) for text in TEXTS]
    frequency = {word: sum(word in held for held in types) / 7 for held in types for word in held}
    slow = np.array([np.mean([frequency[w] for w in held]) if held else 0 for held in types])
    for ranking in found:
        assert ranking.rows.tolist() == [2, 3, 6, 4, 5, 0, 1]
        np.testing.assert_allclose(ranking.scores, slow[ranking.rows], rtol=1e-12)
        assert ranking.scores[0] == ranking.scores[1] == ranking.scores[2] == 3 / 7


def test_equal_popularity_is_equal_to_the_last_bit(tmp_path):
    """Passages of the same words, whose scores could differ if fractions were summed."""
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(30)]
    texts = [" ".join(rng.permutation(words)) for _ in range(20)]
    texts += [" ".join(rng.choice(words, size=5)) for _ in range(57)]
    (ranking, *_) = search_prior(
        tmp_path, Popularity, PopularityConfig(Tokenizer.whitespace), texts
    )
    scores = dict(zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True))
    assert len({scores[row] for row in range(20)}) == 1


def test_popularity_follows_the_tokenizer(tmp_path):
    texts = ["The", "the", "the"]
    (ranking, *_) = search_prior(
        tmp_path, Popularity, PopularityConfig(Tokenizer.whitespace), texts
    )
    assert ranking.rows.tolist() == [1, 2, 0]
    assert ranking.scores.tolist() == [2 / 3, 2 / 3, 1 / 3]
    (ranking, *_) = search_prior(tmp_path, Popularity, PopularityConfig(Tokenizer.words), texts)
    assert ranking.scores.tolist() == [1, 1, 1]


def test_a_prior_is_not_searched_before_it_is_indexed(context):
    with pytest.raises(ValueError, match="index"):
        list(Length(NoSettings(), context).search(QUERIES, 3))
