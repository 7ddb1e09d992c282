"""A sweep on several engines: the same leaderboard, byte for byte, but for what it cost."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cli.main import main
from methods import embedding_index, embedding_search, word_jobs
from metrics import optimizer_step
from metrics.judges import jobs
from tests.fixtures.engines import LIBRARIES, WORDS
from tests.fixtures.runs import cells, run

pytestmark = pytest.mark.slow
METHODS = ("bm25", "gold", "random", "repsim")
_OF_THE_RUN = ("date", "seconds", "shared_seconds", "peak_mib")
SWEEP = (
    "-m", f"method={','.join(METHODS)}", "metric=retraining", "top_k=50",
    "metric.judge={name:lexical,require_subject:false,threshold:0.5}",
    "metric.retraining.removal_queries=2", "metric.retraining.removal_group=2",
    "metric.retraining.lds_subsets=3",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def small_jobs() -> Iterator[None]:
    """Several jobs in each phase, however small the sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_jobs, "BYTES_A_JOB", 1 << 14)
        patch.setattr(embedding_index, "CHUNK", 128)
        patch.setattr(embedding_search, "ROWS_A_JOB", 150)
        patch.setattr(optimizer_step, "_MOST_PASSAGES", 8)
        patch.setattr(jobs, "PAIRS_A_JOB", 64)
        yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def swept(folder: Path, *words: str) -> list[dict[str, str]]:
    """Rows of the leaderboard, without when they were made and what that took."""
    assert run(folder / "results", folder / "cache", *SWEEP, *words) == 0
    assert sorted(cells(folder / "results")) == sorted(METHODS)
    assert main(["report", str(folder / "results"), "--no-figures", "--no-viewer"]) == 0
    with open(folder / "results" / "report" / "leaderboard.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) >= len(METHODS)
    return [{key: v for key, v in row.items() if key not in _OF_THE_RUN} for row in rows]


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serial")


@pytest.fixture(scope="module")
def expected(serial: Path, small_jobs: None) -> list[dict[str, str]]:
    return swept(serial)


@pytest.mark.parametrize("engine", WORDS)
def test_the_leaderboard_is_that_of_serial(
    tmp_path: Path, serial: Path, expected: list[dict[str, str]], engine: str
) -> None:
    if engine in LIBRARIES:
        pytest.importorskip(LIBRARIES[engine])
    assert swept(tmp_path, *WORDS[engine]) == expected
    for name, cell in cells(serial / "results").items():
        other = cells(tmp_path / "results")[name]
        assert other.name == cell.name, "a cell's key does not depend on the engine"
        for file in ("retrievals.jsonl", "per_query.parquet"):
            assert (other / file).read_bytes() == (cell / file).read_bytes()
    for folder in (tmp_path, serial):
        assert not list(folder.glob("cache/**/*.parts/*")), "parts are removed once merged"
        assert not list(folder.glob("cache/**/*.lists-*"))
