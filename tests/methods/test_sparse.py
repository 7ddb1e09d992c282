"""Sparse-neural retrieval with a small SPLADE model of random weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from bench.core.errors import UserError
from methods import embedding_index, sparse
from methods.base import Context
from methods.encoders import EncoderConfig
from methods.query_text import QueryPart
from methods.sparse import Sparse
from methods.sparse_vectors import SparseRows
from tests.fixtures.composing import method_settings
from tests.fixtures.helpers import checked, make_task
from tests.fixtures.sentence_encoders import QUERIES, TEXTS, WORDS, save_sparse_encoders

DEFAULT = EncoderConfig(
    model=None,
    batch_size=32,
    query_prompt=None,
    passage_prompt=None,
    query=QueryPart.prompt_and_target,
    max_length=None,
)


@pytest.fixture(scope="module")
def splade(tmp_path_factory):
    return save_sparse_encoders(tmp_path_factory.mktemp("splade"))


@pytest.fixture
def make(tmp_path, splade):
    """A function that builds the method on a corpus; all share one cache."""

    def build(texts=TEXTS, **changes):
        folder = tmp_path / f"task-{len(list(tmp_path.iterdir()))}"
        context = Context(make_task(folder, texts, QUERIES), tmp_path / "cache")
        method = Sparse(replace(DEFAULT, **{"model": str(splade / "splade"), **changes}), context)
        checked(method)
        return method

    return build


def run(method, top_k=6):
    size = method.index()
    return size, list(method.search(QUERIES, top_k))


@pytest.mark.parametrize("kind", ["splade", "masked"])
def test_scores_are_dot_products_of_the_librarys_embeddings(make, splade, kind):
    from sentence_transformers import SparseEncoder

    size, rankings = run(make(model=str(splade / kind)))
    reference = SparseEncoder(str(splade / "splade"), device="cpu")
    passages = reference.encode(TEXTS).to_dense().double().numpy()
    entries = np.count_nonzero(passages)
    assert 0 < entries < passages.size  # sparse, and not empty
    assert size.bytes == 8 * (len(TEXTS) + 1) + 8 * entries
    for query, ranking in zip(QUERIES, rankings, strict=True):
        asked = reference.encode(f"{query.prompt} {query.target}").to_dense().double().numpy()
        expected = passages @ asked
        assert ranking.query_id == query.query_id
        ranked = np.argsort(-expected, kind="stable").tolist()
        assert ranking.rows.tolist() == [row for row in ranked if expected[row] > 0]
        np.testing.assert_allclose(ranking.scores, expected[ranking.rows], rtol=1e-5)


def test_passages_without_a_shared_dimension_are_not_listed(make, monkeypatch):
    """Each word is a dimension of its own: what shares no word has nothing in common."""

    def one_hot(self, texts, prompt, role):
        dims = [sorted({WORDS.index(word) for word in text.split()}) for text in texts]
        starts = np.cumsum([0, *map(len, dims)])
        flat = np.array([dim for one in dims for dim in one], dtype=np.int32)
        return SparseRows(starts, flat, np.ones(len(flat), dtype=np.float32))

    monkeypatch.setattr(Sparse, "_embed", one_hot)
    _, rankings = run(make(query=QueryPart.prompt))
    for query, ranking in zip(QUERIES, rankings, strict=True):
        asked = set(query.prompt.split())
        shared = [len(asked & set(text.split())) for text in TEXTS]
        ranked = sorted(range(len(TEXTS)), key=lambda row: (-shared[row], row))
        assert ranking.rows.tolist() == [row for row in ranked if shared[row]]
    assert 0 < len(rankings[1].rows) < len(TEXTS)
    _, nothing = run(make(["query", "query query"], query=QueryPart.prompt))
    assert [len(ranking.rows) for ranking in nothing] == [0, 0]


def test_blocks_groups_and_chunks_change_no_ranking(make, monkeypatch, tmp_path):
    _, expected = run(make())
    monkeypatch.setattr(sparse, "_QUERIES_AT_ONCE", 1)
    monkeypatch.setattr(sparse, "_PASSAGES_AT_ONCE", 4)
    monkeypatch.setattr(embedding_index, "CHUNK", 2)
    (index,) = (tmp_path / "cache" / "index" / "sparse").iterdir()
    index.rename(tmp_path / "old")
    _, found = run(make())
    for one, other in zip(expected, found, strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)


def test_rescoring_is_searching(make):
    method = make()
    with pytest.raises(ValueError, match="call index"):
        next(method.search(QUERIES, 3))
    _, found = run(method)
    rows = np.stack([ranking.rows[::-1] for ranking in found])
    for ranking, scores in zip(found, method.rescore(QUERIES, rows), strict=True):
        np.testing.assert_allclose(scores, ranking.scores[::-1], rtol=1e-12)


def test_equal_passages_go_by_row(make):
    _, rankings = run(make(["paris", "the trombone", "paris", "the trombone", "paris"]))
    for ranking in rankings:
        for same in ({0, 2, 4}, {1, 3}):
            rows = [row for row in ranking.rows.tolist() if row in same]
            assert rows == sorted(rows)


def test_query_options_count_and_passages_are_embedded_once(make, monkeypatch, tmp_path):
    _, expected = run(make())
    monkeypatch.setattr(Sparse, "_embed_passages", None)
    _, again = run(make())
    _, prompted = run(make(query_prompt="query "))
    _, shorter = run(make(query=QueryPart.prompt))
    assert len(list((tmp_path / "cache" / "index" / "sparse").iterdir())) == 1
    for one, same, two, three in zip(expected, again, prompted, shorter, strict=True):
        assert one.scores.tolist() == same.scores.tolist()
        assert one.scores[0] != two.scores[0]
        assert one.scores[0] != three.scores[0]


def test_cut_passages_are_counted(make):
    method = make(max_length=8)
    method.index()
    assert method.context.counts["passages_truncated"] == 2


@pytest.mark.parametrize(
    ("name", "place"), [("weights.bin", -1), ("dims.bin", 0), ("starts.npy", 12)]
)
def test_a_damaged_index_is_refused(make, tmp_path, name, place):
    run(make())
    (index,) = (tmp_path / "cache" / "index" / "sparse").iterdir()
    content = bytearray((index / name).read_bytes())
    content[place] ^= 1
    (index / name).write_bytes(content)
    with pytest.raises(UserError, match="damaged index of embeddings"):
        make().index()


def test_settings_that_cannot_work(make, splade):
    with pytest.raises(UserError, match="needs a model") as error:
        make(model=None)
    assert error.value.where == "method.model"
    for dense in ("encoder", "inner"):
        with pytest.raises(UserError, match="is no sparse encoder") as error:
            make(model=str(splade / dense))
        assert "method=dense" in str(error.value)
    with pytest.raises(UserError, match="expected at least 1"):
        make(batch_size=0)


def test_the_configuration_file_fits_the_schema():
    loaded = method_settings("sparse")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EncoderConfig), loaded))
    assert config == replace(DEFAULT, batch_size=128)
