"""Whole runs on every engine: the same rankings, numbers and index, bit for bit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.engines.processes import Processes, ProcessesConfig
from bench.engines.ray import Ray, RayConfig
from methods.gradient import groups
from methods.gradient import index as index_module
from methods.gradient.settings import Hessian, Storage
from tests.fixtures.gradient_methods import (
    QUERIES,
    ToyRecipe,
    index_files,
    make,
    many_texts,
    ranked,
    toy_model,
)
from tests.fixtures.helpers import make_task
from tests.fixtures.runs import SMALL, cells, result, run

WORDS = {
    "processes": ("engine=processes", "engine.workers=2"),
    "ray": ("engine=ray",),
    "slurm": ("engine=slurm", "engine.cluster=local", "engine.tasks=2"),
}
LIBRARIES = {"ray": "ray", "slurm": "submitit"}


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
def test_a_node_of_ray_that_is_killed_costs_no_shard(tmp_path: Path, monkeypatch, capsys) -> None:
    """Two nodes; one is killed in the middle."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(index_module, "SHARD_ROWS", 1)
    model = toy_model(tmp_path)
    task = make_task(tmp_path / "task", many_texts(60), QUERIES)
    make(task, model, tmp_path / "serial").index()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    try:
        engine = Ray(RayConfig(cluster.address, cpus=1, gpus=0, parallel=None, retries=2))
        method = make(task, model, tmp_path / "ray", engine=engine, recipe=SlowToy(tmp_path))
        killer = threading.Thread(
            target=kill_in_the_middle, args=(cluster, other, tmp_path), daemon=True
        )
        killer.start()
        method.index()
        killer.join(60)
        assert not killer.is_alive()
    finally:
        sys.modules["ray"].shutdown()
        cluster.shutdown()
    assert index_files(tmp_path / "ray") == index_files(tmp_path / "serial")
    assert len(index_files(tmp_path / "ray")) == 2 * 60 + 1
    assert "encode passages: a worker or its node died" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.partial-*"))


@pytest.mark.slow
def test_a_worker_that_is_killed_in_a_search_costs_no_list(tmp_path, monkeypatch, capsys) -> None:
    """Two workers that encode while they search; one is killed in the middle of a group."""
    monkeypatch.setattr(groups, "LEAST_TEXTS", 6)
    model = toy_model(tmp_path)
    task = make_task(tmp_path / "task", many_texts(36), QUERIES)
    settings = {"storage": Storage.none, "hessian": Hessian.none, "opponents": 3}
    expected = ranked(make(task, model, tmp_path / "serial", **settings), top_k=9)
    engine = Processes(ProcessesConfig(2, gpus=0))
    recipe = SlowToy(tmp_path)
    method = make(task, model, tmp_path / "apart", engine=engine, recipe=recipe, **settings)
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            time.sleep(0.01)
            if len(list(tmp_path.rglob("apart/**/scan-*.safetensors"))) >= 2:
                killed.extend(int(path.name[8:]) for path in tmp_path.glob("at-work-*"))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found = ranked(method, top_k=9)
    killer.join(60)
    assert not killer.is_alive()
    assert "search: a worker process was killed; another goes on" in capsys.readouterr().err
    for one, other in zip(found, expected, strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        assert one.scores.tolist() == other.scores.tolist()
        assert one.opponent_rows.tolist() == other.opponent_rows.tolist()
    assert len(list(tmp_path.rglob("apart/**/scan-*.safetensors"))) == 6


@dataclass(frozen=True)
class SlowToy(ToyRecipe):
    """Takes a tenth of a second for a passage, and says meanwhile which process is at it."""

    def __call__(self) -> Any:
        model = super().__call__()
        tokens = model.passage_tokens
        at_work = self.folder / f"at-work-{os.getpid()}"

        def slowly(text: str) -> Any:
            at_work.touch()
            time.sleep(0.1)
            found = tokens(text)
            at_work.unlink()
            return found

        model.passage_tokens = slowly
        return model


def kill_in_the_middle(cluster: Any, node: Any, folder: Path) -> None:
    """As a machine dies: its daemon and its workers at once, one of them at a shard."""
    (raylet,) = [process.process.pid for process in node.all_processes["raylet"]]
    while True:
        time.sleep(0.01)
        children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
        at_work = [int(pid) for pid in children if (folder / f"at-work-{pid}").exists()]
        if at_work and len(list(folder.rglob("ray/**/shard-*.json"))) >= 10:
            os.kill(at_work[0], signal.SIGSTOP)
            if (folder / f"at-work-{at_work[0]}").exists():
                break
            os.kill(at_work[0], signal.SIGCONT)  # it had just come to the end
    cluster.remove_node(node, allow_graceful=False)
    for pid in map(int, children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


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
