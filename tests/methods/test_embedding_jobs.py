"""Embeddings and their search on every engine: the same index, byte for byte, and lists."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.engines import Engine
from bench.models.language_model import LanguageModel
from methods import embedding_index, embedding_method, embedding_search
from methods.base import Context, Method, Ranking
from methods.dense import Dense
from methods.embedding_index import Embedder
from methods.encoders import EncoderConfig
from methods.query_text import QueryPart
from methods.representation import RepresentationSimilarity
from methods.representation_settings import Pooling, RepresentationConfig
from methods.sparse import Sparse
from tests.fixtures.engine_jobs import engine
from tests.fixtures.helpers import make_task
from tests.fixtures.models import load, make_model
from tests.fixtures.sentence_encoders import QUERIES, WORDS, save_sparse_encoders

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("processes", "ray", "slurm")]
KINDS = ("dense", "sparse", "repsim")


@pytest.fixture(scope="module", autouse=True)
def no_ray_afterwards() -> Iterator[None]:
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_sparse_encoders(tmp_path_factory.mktemp("models"))
    make_model(folder / "causal")
    return folder


@dataclass(frozen=True)
class Causal:
    """Brings the causal model, in any process."""

    folder: Path

    def __call__(self) -> LanguageModel:
        return load(self.folder / "causal")


def texts() -> list[str]:
    rng = np.random.default_rng(0)
    drawn = [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(45)]
    return [*drawn, *drawn[:5]]  # ties


def make(kind: str, folder: Path, models: Path, on: Engine, **changes: Any) -> Method:
    task = make_task(folder / "task", texts(), QUERIES)
    recipe = Causal(models)
    context = Context(task, folder / "cache", recipe, engine=on, model_recipe=recipe)
    query = QueryPart.prompt_and_target
    if kind == "repsim":
        settings = RepresentationConfig(-1, Pooling.mean, True, query, 8)
        return RepresentationSimilarity(settings, context)
    model = str(models / ("encoder" if kind == "dense" else "splade"))
    return {"dense": Dense, "sparse": Sparse}[kind](
        EncoderConfig(model, 8, None, None, query, changes.get("max_length")), context
    )


def ranked(method: Method) -> list[Ranking]:
    method.index()
    return list(method.search(QUERIES, 7))


def files(folder: Path) -> dict[str, bytes]:
    """Name and content of every file of the index but its manifest, which holds seconds."""
    paths = [path for path in folder.glob("cache/index/*/*/*") if path.name != "manifest.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def same(one: list[Ranking], other: list[Ranking]) -> bool:
    return [(r.rows.tolist(), r.scores.tolist()) for r in one] == [
        (r.rows.tolist(), r.scores.tolist()) for r in other
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["serial", "sent", *SLOW])
def test_the_index_and_the_lists_are_those_of_one_process(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.setattr(embedding_index, "CHUNK", 16)
    alone = make(kind, tmp_path / "alone", models, engine("serial"))
    expected = ranked(alone)
    monkeypatch.setattr(embedding_search, "ROWS_A_JOB", 20)
    apart = make(kind, tmp_path / "apart", models, engine(name, tmp_path))
    assert same(ranked(apart), expected)
    assert files(tmp_path / "apart") == files(tmp_path / "alone")
    assert apart.context.counts == alone.context.counts
    left = {path.suffix for path in (tmp_path / "apart" / "cache").glob("index/*/*")}
    assert left == {""}, "the parts are removed"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_ends_early_loses_no_chunk_and_a_damaged_one_is_made_again(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, kind: str, capsys: Any
) -> None:
    monkeypatch.setattr(embedding_index, "CHUNK", 10)
    expected = ranked(make(kind, tmp_path / "whole", models, engine("serial")))
    write, written = Embedder.write, []

    def dying(self: Embedder, path: Path, rows: range) -> None:
        write(self, path, rows)
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Embedder, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        ranked(make(kind, tmp_path / "killed", models, engine("serial")))
    content = bytearray(written[1].read_bytes())
    content[-1] ^= 1
    written[1].write_bytes(content)
    assert same(ranked(make(kind, tmp_path / "killed", models, engine("serial"))), expected)
    names = [path.name for path in written]
    assert [names.count(name) for name in names[:3]] == [1, 2, 1]
    assert "damaged chunk of embeddings" in capsys.readouterr().err
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_search_that_ends_early_goes_on_with_its_groups(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ranked(make("dense", tmp_path, models, engine("serial")))
    monkeypatch.setattr(embedding_search, "ROWS_A_JOB", 20)
    write, written = embedding_search._GroupSearch.write, []

    def dying(self: Any, path: Path, rows: range) -> None:
        write(self, path, rows)
        written.append(rows.start)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(embedding_search._GroupSearch, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        ranked(make("dense", tmp_path, models, engine("serial")))
    assert same(ranked(make("dense", tmp_path, models, engine("serial"))), expected)
    assert written == [0, 20, 40]


def test_another_model_is_refused(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_index, "CHUNK", 16)
    method = make("repsim", tmp_path, models, engine("sent"))
    make_model(tmp_path / "other" / "causal", seed=1)
    method.context.model_recipe = Causal(tmp_path / "other")
    monkeypatch.setattr(embedding_method, "_open", [])  # what this process opened as another one
    with pytest.raises(UserError, match="another process finds another model"):
        method.index()
