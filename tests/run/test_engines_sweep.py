"""A sweep on several engines: the same leaderboard, byte for byte, but for what it cost."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.engines.base import Engine, Job
from methods import bm25, bm25_jobs, embedding_index, embedding_search, word_jobs
from methods.gradient import ekfac, groups
from methods.gradient import index as index_module
from metrics import optimizer_step
from metrics.judges import jobs
from tests.fixtures.engines import LIBRARIES, WORDS
from tests.fixtures.runs import cells, run
from tests.fixtures.sentence_encoders import save_encoder

pytestmark = pytest.mark.slow
METHODS = ("bm25", "repsim", "trackstar", "cos_hessian", "ekfac", "dense")
_OF_THE_RUN = ("date", "seconds", "shared_seconds", "peak_mib")
# The fewest facts that a task has, and the fewest passages that state them.
SMALLEST = (
    "task.n_passages=350", "task.n_facts=40", "model.hidden_size=16", "model.num_layers=1",
    "model.num_heads=2", "model.epochs=1", "model.vocab_size=300", "model.projection_dim=4",
    "metric=retraining", "metric.tail_patch.n_queries=3", "metric.bootstrap_samples=20",
    "metric.judge={name:lexical,require_subject:false,threshold:0.5}", "top_k=20",
    "metric.retraining.removal_queries=2", "metric.retraining.removal_group=2",
    "metric.retraining.lds_subsets=3",
)  # fmt: skip
PHASES = {
    "index words", "search bm25", "embed passages", "search vectors", "encode passages",
    "Hessian", "search", "score candidates in float64", "EK-FAC factors", "EK-FAC eigenvalues",
    "tail-patch", "judge by lexical", "retrain",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def n_jobs() -> Iterator[dict[str, int]]:
    """Several jobs in each phase, however small the sweep: the most of each, by its label."""
    counts: dict[str, int] = {}
    run_jobs = Engine.run

    def counted(engine: Engine, jobs: Sequence[Job], label: str, unit: str) -> None:
        counts[label] = max(len(jobs), counts.get(label, 0))
        run_jobs(engine, jobs, label, unit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "run", counted)
        patch.setattr(word_jobs, "BYTES_A_JOB", 1 << 13)
        for module in (bm25, bm25_jobs):
            patch.setattr(module, "QUERIES_A_JOB", 16)
        patch.setattr(embedding_index, "CHUNK", 128)
        patch.setattr(embedding_search, "ROWS_A_JOB", 150)
        patch.setattr(index_module, "SHARD_ROWS", 60)
        patch.setattr(groups, "LEAST_SHARDS", 2)
        for module, name in ((groups, "LEAST_TEXTS"), (ekfac, "TEXTS_AT_ONCE")):
            patch.setattr(module, name, 120)
        patch.setattr(optimizer_step, "_MOST_PASSAGES", 8)
        patch.setattr(jobs, "PAIRS_A_JOB", 64)
        yield counts
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def swept(folder: Path, encoder: Path, *words: str) -> list[dict[str, str]]:
    """Rows of the leaderboard, without when they were made and what that took."""
    words = (*SMALLEST, *words)
    places = folder / "results", folder / "cache"
    assert run(*places, *words, "-m", f"method={','.join(METHODS[:-1])}", small=False) == 0
    dense = ("method=dense", f"method.model={encoder}")
    assert run(*places, *words, *dense, small=False) == 0
    assert sorted(cells(folder / "results")) == sorted(METHODS)
    assert main(["report", str(folder / "results"), "--no-figures", "--no-viewer"]) == 0
    with open(folder / "results" / "report" / "leaderboard.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) >= len(METHODS)
    return [{key: v for key, v in row.items() if key not in _OF_THE_RUN} for row in rows]


def arrays(cache: Path) -> dict[str, bytes]:
    """Name and content of each file of numbers in the indexes, and of each shard's sidecar."""
    index = cache / "index"
    files = [*index.rglob("*.npy"), *index.rglob("*.safetensors"), *index.rglob("shard-*.json")]
    return {str(path.relative_to(index)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serial")


@pytest.fixture(scope="module")
def encoder(serial: Path) -> Path:
    """A sentence encoder that knows some words of the task."""
    of_task = [word for word in SMALLEST if word.startswith(("task.", "model."))]
    words = (*of_task, "method=random", "metric=attribution")
    assert run(serial / "first", serial / "cache", *words, small=False) == 0
    (passages,) = serial.glob("cache/tasks/*/*/passages.jsonl")
    texts = [json.loads(line)["text"] for line in passages.read_text("utf-8").splitlines()]
    known = sorted({word for text in texts[:200] for word in text.split()})
    return save_encoder(serial, words=known)


@pytest.fixture(scope="module")
def expected(serial: Path, encoder: Path, n_jobs: dict[str, int]) -> list[dict[str, str]]:
    return swept(serial, encoder)


@pytest.mark.parametrize("engine", WORDS)
def test_the_leaderboard_is_that_of_serial(
    tmp_path: Path,
    serial: Path,
    encoder: Path,
    expected: list[dict[str, str]],
    n_jobs: dict[str, int],
    engine: str,
) -> None:
    if engine in LIBRARIES:
        pytest.importorskip(LIBRARIES[engine])
    for part in ("tasks", "models"):  # trained once
        (tmp_path / "cache").mkdir(exist_ok=True)
        (tmp_path / "cache" / part).symlink_to(serial / "cache" / part)
    n_jobs.clear()
    assert swept(tmp_path, encoder, *WORDS[engine]) == expected
    assert n_jobs.keys() >= PHASES
    assert min(n_jobs.values()) > 1, n_jobs
    for name, cell in cells(serial / "results").items():
        other = cells(tmp_path / "results")[name]
        assert other.name == cell.name, "a cell's key does not depend on the engine"
        for file in ("retrievals.jsonl", "per_query.parquet"):
            assert (other / file).read_bytes() == (cell / file).read_bytes()
    assert arrays(tmp_path / "cache") == arrays(serial / "cache")
    for folder in (tmp_path, serial):
        assert not list(folder.glob("cache/**/*.parts/*")), "parts are removed once merged"
        assert not list(folder.glob("cache/**/*.lists-*"))
