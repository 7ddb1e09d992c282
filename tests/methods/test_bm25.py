from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from bench.core.errors import UserError
from bench.tasks.base import Query
from methods import bm25, bm25_jobs
from methods.base import Context
from methods.bm25 import BM25, BM25Config, Scoring, Tokenizer, Variant
from methods.query_text import QueryPart
from methods.words import TOKENIZERS
from tests.fixtures.composing import method_settings
from tests.fixtures.engine_jobs import engine
from tests.fixtures.helpers import checked, make_task

REPO = Path(__file__).parents[2]
DATA = Path(os.environ.get("TDABENCH_DATA", REPO.parent / "shared" / "data"))
DEFAULT = BM25Config(
    variant=Variant.atire_robertson,
    k1=1.5,
    b=0.75,
    tokenizer=Tokenizer.words,
    query=QueryPart.prompt_and_target,
    engine=Scoring.inverted_index,
)


def query_text(query):
    return f"{query.prompt} {query.target}"


def search(folder, texts, queries, top_k=100, **changes):
    method = BM25(replace(DEFAULT, **changes), Context(make_task(folder, texts), folder))
    checked(method)
    method.index()
    return list(method.search(queries, top_k))


def random_texts(rng, n, longest, words=40):
    """Texts of Zipf-distributed words, some in most texts and some in one, with repetitions."""
    chance = 1 / np.arange(1, words + 1)
    chance /= chance.sum()
    lengths = rng.integers(0, longest, size=n)
    return [" ".join(f"w{i}" for i in rng.choice(words, size=k, p=chance)) for k in lengths]


@pytest.mark.parametrize("engine", list(Scoring))
@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (2.0, 1.0)])
def test_scores_equal_okapi_without_epsilon(tmp_path, engine, k1, b):
    from rank_bm25 import BM25Okapi

    rng = np.random.default_rng(0)
    texts = ["w0", *random_texts(rng, 150, 15)]
    asked = random_texts(rng, 30, 8, words=50)  # w40 and later are in no passage
    queries = [Query(f"q{i}", text, "w3 w3 unknown") for i, text in enumerate(asked)]
    reference = BM25Okapi([text.split() for text in texts], k1=k1, b=b, epsilon=0)
    assert 0 in reference.idf.values()  # so that the floor of idf matters
    found = search(tmp_path, texts, queries, top_k=len(texts), engine=engine, k1=k1, b=b)
    for query, ranking in zip(queries, found, strict=True):
        with np.errstate(invalid="ignore"):  # with b = 1, a passage without words is 0 / 0
            expected = np.nan_to_num(reference.get_scores(query_text(query).split()))
        assert sorted(ranking.rows) == np.flatnonzero(expected.round(9)).tolist()
        np.testing.assert_allclose(ranking.scores, expected[ranking.rows], atol=1e-5, rtol=0)


def test_okapis_default_epsilon_is_another_ranking(tmp_path):
    """The reference would not notice the epsilon if no word were in most passages."""
    from rank_bm25 import BM25Okapi

    texts = ["the the the the", "the rare", "the a", "the b"]
    scores = BM25Okapi([text.split() for text in texts]).get_scores(["the", "rare"])
    ranking = search(tmp_path, texts, [Query("q", "the", "rare")])[0]
    assert scores[0] > scores[2] > 0
    assert ranking.rows.tolist() == [1]  # "the" is in every passage: it counts nothing


def test_one_score_by_hand(tmp_path):
    texts = ["al grey plays trombone", "paris is", "rome is", "a b c d"]
    ranking = search(tmp_path, texts, [Query("q", "Al Grey!", "TROMBONE")])[0]
    idf = math.log((4 - 1 + 0.5) / (1 + 0.5))
    expected = 3 * idf * 2.5 / (1 + 1.5 * (0.25 + 0.75 * 4 / 3))
    assert ranking.rows.tolist() == [0], "the others share no word with the query"
    np.testing.assert_allclose(ranking.scores, [expected], atol=1e-8)


def test_lucene_by_hand(tmp_path):
    ranking = search(
        tmp_path, ["x", "x y", "z z z"], [Query("q", "x", "x")], variant=Variant.lucene
    )
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    first, second = (2 * idf / (1 + 1.5 * (0.25 + 0.75 * n / 2)) for n in (1, 2))
    assert ranking[0].rows.tolist() == [0, 1]
    np.testing.assert_allclose(ranking[0].scores, [first, second], atol=1e-8)


def test_every_setting_shares_one_index_on_disk(tmp_path):
    texts = ["al grey plays trombone", "paris is", "rome is", "a b c d"]
    queries = [Query("q", "Al Grey!", "trombone")]
    first = search(tmp_path, texts, queries)[0]
    (index,) = (tmp_path / "index" / "words").iterdir()
    before = (index / "manifest.json").stat().st_mtime_ns
    other = search(tmp_path, texts, queries, k1=0.9, b=0.4, variant=Variant.lucene)[0]
    assert other.scores[0] != first.scores[0]
    assert [path.name for path in index.parent.iterdir()] == [index.name]
    assert (index / "manifest.json").stat().st_mtime_ns == before
    search(tmp_path, texts, queries, tokenizer=Tokenizer.whitespace)
    assert len(list(index.parent.iterdir())) == 2


@pytest.mark.parametrize("engine", list(Scoring))
def test_rescoring_is_searching(tmp_path, engine):
    rng = np.random.default_rng(1)
    texts = random_texts(rng, 60, 12)
    queries = [Query(f"q{i}", text, "w1") for i, text in enumerate(random_texts(rng, 5, 8))]
    method = BM25(replace(DEFAULT, engine=engine), Context(make_task(tmp_path, texts), tmp_path))
    with pytest.raises(ValueError, match="call index"):
        next(method.search(queries, 3))
    method.index()
    found = list(method.search(queries, 60))
    rows = np.tile(np.arange(60)[::-1], (len(queries), 1))
    for ranking, scores in zip(found, method.rescore(queries, rows), strict=True):
        expected = np.zeros(60)  # of what is not listed
        expected[ranking.rows] = ranking.scores
        assert scores.tolist() == expected[::-1].tolist()


@pytest.mark.parametrize("engine", list(Scoring))
def test_ties_go_by_row_also_at_the_cut(tmp_path, engine):
    texts = ["b", "a x", "c", "a y", "a z", "d", "a x", "a", "e", "f", "g", "h", "i", "j", "k"]
    ranking = search(tmp_path, texts, [Query("q", "a", "?")], top_k=4, engine=engine)[0]
    assert ranking.rows.tolist() == [7, 1, 3, 4]
    assert ranking.scores[1] == ranking.scores[2] == ranking.scores[3] > 0


def test_equal_sums_of_terms_in_another_order_are_ties(tmp_path):
    """a1 weighs as much as a2, and so on; in floating point, row 1 is ahead by its last bit."""
    texts = ["c2 b2 a2", "a1 b1 c1", "b1", "b2", "c1", "c1", "c2", "c2", *["z"] * 5]
    ranking = search(tmp_path, texts, [Query("q", "a1 b1 c1", "c2 b2 a2")], top_k=2)[0]
    assert ranking.rows.tolist() == [0, 1]
    assert ranking.scores[0] == ranking.scores[1] > 0


def test_the_answer_is_part_of_the_query_or_not(tmp_path):
    texts = ["he plays trombone", "al grey lives", "z", "y", "x"]
    queries = [Query("q", "Al Grey plays the", "trombone")]
    of = {
        part: dict(zip(r.rows.tolist(), r.scores.tolist(), strict=True))
        for part in QueryPart
        for r in search(tmp_path, texts, queries, query=part)
    }
    assert of[QueryPart.prompt_and_target][0] > of[QueryPart.prompt][0] > 0
    assert of[QueryPart.prompt_and_target][1] == of[QueryPart.prompt][1] > 0


def test_words_are_unicode_and_lower_case(tmp_path):
    texts = ["ÉCOLE, 北京大学", "école", "z", "y", "x", "w"]
    query = [Query("q", "École", "北京大学?")]
    assert (search(tmp_path, texts, query)[0].scores > 0).sum() == 2
    assert (search(tmp_path, texts, query, tokenizer=Tokenizer.whitespace)[0].scores > 0).sum() == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # vowel signs are marks, not letters
        ("Beyonce\u0301's", ["beyoncé", "s"]),  # the accent is typed apart
        ("ภาษาไทย", ["ภาษาไทย"]),
        ("90 km² é", ["90", "km²", "é"]),
        ("don't stop_it 42", ["don", "t", "stop_it", "42"]),
        ("", []),
    ],
)
def test_words_of_any_script_stay_whole(text, words):
    assert TOKENIZERS[Tokenizer.words](text) == words


@pytest.mark.parametrize("engine", list(Scoring))
@pytest.mark.parametrize(
    ("texts", "query"),
    [
        (["a", "", "b"], Query("q", "?", "!")),
        (["a b", "a c", "a"], Query("q", "a", "unknown")),  # the one word that is known is in all
        (  # a sentence without spaces is one word
            ["東京は日本の首都です。", "京都は古い都です。", "大阪は西にあります。", "奈良です。"],
            Query("q", "日本の首都は", "東京", gold_rows=(0,)),
        ),
    ],
)
def test_a_query_that_matches_nothing_lists_nothing(tmp_path, engine, texts, query):
    """In the order of the file, a gold passage at its head would count as found."""
    ranking = search(tmp_path, texts, [query], top_k=2, engine=engine)[0]
    assert (ranking.rows.tolist(), ranking.scores.tolist()) == ([], [])


@pytest.mark.parametrize("engine", list(Scoring))
def test_a_list_ends_where_the_matches_end(tmp_path, engine):
    texts = ["x", "a b", "y", "a", "z", "w"]
    ranking = search(tmp_path, texts, [Query("q", "a", "?")], top_k=5, engine=engine)[0]
    assert ranking.rows.tolist() == [3, 1]
    assert (ranking.scores > 0).all()


@pytest.mark.parametrize("engine", list(Scoring))
def test_a_corpus_without_words_is_refused(tmp_path, engine):
    with pytest.raises(UserError, match="no passage holds a word"):
        search(tmp_path, ["...", "?"], [], engine=engine)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"k1": 0.0}, "method.k1"),
        ({"k1": math.nan}, "method.k1"),
        ({"b": 1.1}, "method.b"),
        ({"engine": Scoring.rank_bm25, "variant": Variant.lucene}, "method.engine"),
    ],
)
def test_settings_that_cannot_work(tmp_path, changes, where):
    with pytest.raises(UserError) as error:
        search(tmp_path, ["a"], [], **changes)
    assert error.value.where == where


def test_the_configuration_file_fits_the_schema():
    loaded = method_settings("bm25")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(BM25Config), loaded))
    assert config == DEFAULT


def test_both_engines_rank_20_000_real_sentences_alike(tmp_path):
    sentences, facts = DATA / "trex" / "trex_sentences.jsonl", DATA / "trex" / "trex_facts.jsonl"
    if not sentences.exists():
        pytest.skip(f"no real sentences in {DATA}: set TDABENCH_DATA")
    with open(sentences, encoding="utf-8") as stream:
        texts = [json.loads(line)["text"] for _, line in zip(range(20_000), stream, strict=False)]
    with open(facts, encoding="utf-8") as stream:
        read = [json.loads(line) for _, line in zip(range(30), stream, strict=False)]
    queries = [Query(fact["fact_id"], fact["prompt0"], fact["entity1"]) for fact in read]
    fast = search(tmp_path / "fast", texts, queries)
    plain = search(tmp_path / "plain", texts, queries, engine=Scoring.rank_bm25)
    for one, other in zip(fast, plain, strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["serial", "sent", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_groups_of_queries_are_jobs_with_the_same_lists(tmp_path, monkeypatch, name):
    rng = np.random.default_rng(5)
    texts = random_texts(rng, 80, 12)
    queries = [Query(f"q{n}", text, "w3") for n, text in enumerate(random_texts(rng, 9, 6))]
    queries.append(Query("none", "unknown", "nothing"))
    expected = search(tmp_path / "alone", texts, queries)
    for module in (bm25, bm25_jobs):
        monkeypatch.setattr(module, "QUERIES_A_JOB", 4)
    task, folder = make_task(tmp_path / "apart", texts), tmp_path / "apart"
    method = BM25(DEFAULT, Context(task, folder, engine=engine(name)))
    method.index()
    write, written = bm25_jobs.ListSearch.write, []

    def dying(self, path, some):
        written.append(path.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(self, path, some)

    if name == "serial":  # a search that is killed goes on with what was finished
        monkeypatch.setattr(bm25_jobs.ListSearch, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            list(method.search(queries, 100))
    found = list(method.search(queries, 100))
    if name == "serial":
        assert [path.split(".")[0] for path in written] == [
            "rows-0-4", "rows-4-8", "rows-4-8", "rows-8-10",
        ]  # fmt: skip
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.query_id, one.rows.tolist()) == (other.query_id, other.rows.tolist())
        assert one.scores.tolist() == other.scores.tolist()
    assert [path.name for path in (folder / "index" / "words").iterdir() if "." in path.name] == []
