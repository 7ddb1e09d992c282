"""Whole runs on every engine: the same rankings, numbers and index, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from methods.gradient import index as index_module
from tests.fixtures.engines import LIBRARIES, WORDS
from tests.fixtures.gradient_methods import (
    index_files,
)
from tests.fixtures.runs import SMALL, cells, result, run


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(index_module, "SHARD_ROWS", 100)
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results and cache of ``engine=serial``."""
    folder = tmp_path_factory.mktemp("serial")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "SHARD_ROWS", 100)
        assert run(folder, folder / "cache", "method=trackstar") == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", WORDS)
def test_the_leaderboard_is_that_of_serial(tmp_path: Path, serial: Path, engine: str) -> None:
    if engine in LIBRARIES:
        pytest.importorskip(LIBRARIES[engine])
    cache = tmp_path / "cache"
    cache.mkdir()
    for part in ("tasks", "models"):  # trained once
        (cache / part).symlink_to(serial / "cache" / part)
    assert run(tmp_path, cache, "method=trackstar", *WORDS[engine]) == 0
    files = index_files(cache / "index")
    assert len(files) == 2 * 4 + 1
    assert files == index_files(serial / "cache" / "index")
    one, two = cells(serial)["trackstar"], cells(tmp_path)["trackstar"]
    assert one.name == two.name, "a cell's key does not depend on the engine"
    assert (one / "retrievals.jsonl").read_bytes() == (two / "retrievals.jsonl").read_bytes()
    for part in ("metrics", "slices", "index"):
        assert result(one)[part] == result(two)[part]
    counts = result(two)["method"]["counts"]
    assert counts == result(one)["method"]["counts"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_of_hydra_spread_a_sweep(tmp_path: Path, launcher: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    words = ["metric=attribution", "-m", f"hydra/launcher={launcher}", "method=bm25,random"]
    assert swept(tmp_path, *words)[0] == 0
    assert sorted(cells(tmp_path)) == ["bm25", "random"]
    status, said = swept(tmp_path, *words, "top_k=5")
    assert status == 2
    assert said.splitlines()[-1] == "2 of 2 cells failed; the others are in place"


def swept(folder: Path, *words: str) -> tuple[int, str]:
    """A run in a process of its own: launchers keep theirs for as long as their parent lives."""
    places = [f"results_dir={folder}", f"cache_dir={folder}/cache"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", *SMALL, *words, *places],
        cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return done.returncode, done.stderr
