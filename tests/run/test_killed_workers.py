"""Workers and machines that die in the middle of a phase cost no result, and change none."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.engines import Engine
from bench.engines.processes import Processes, ProcessesConfig
from bench.engines.ray import Ray, RayConfig
from bench.engines.serial import Serial, SerialConfig
from bench.models.language_model import LanguageModel
from bench.storage.mirror import Mirror
from bench.tasks import Task
from methods.gradient import groups
from methods.gradient import index as index_module
from methods.gradient.settings import Hessian, Storage
from metrics import optimizer_step
from metrics.tail_patch import TailPatch
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
from tests.fixtures.tail_patches import config

pytestmark = pytest.mark.slow


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
            taken = tokens(text)
            at_work.unlink()
            return taken

        model.passage_tokens = slowly
        return model


Work = Callable[[Task, LanguageModel, Path, Engine | None], Any]


@dataclass(frozen=True)
class Phase:
    """One phase of a run, in jobs that each leave one file.

    Attributes:
        n_texts: passages that it goes over.
        files: where the jobs' files lie, below the folder that it works in.
        label: what the phase is called where it says that a worker died.
        work: does the phase and returns its results, with another engine than serial if any.
    """

    n_texts: int
    files: str
    label: str
    work: Work


def encoded(task: Task, model: LanguageModel, folder: Path, engine: Engine | None) -> Any:
    make(task, model, folder, engine=engine, recipe=SlowToy(folder.parent)).index()
    return index_files(folder)


def searched(task: Task, model: LanguageModel, folder: Path, engine: Engine | None) -> Any:
    """Lists of a method that stores no index, whose workers therefore encode while they search."""
    settings = {"storage": Storage.none, "hessian": Hessian.none, "opponents": 3}
    method = make(task, model, folder, engine=engine, recipe=SlowToy(folder.parent), **settings)
    return [
        [one.tolist() for one in (lists.rows, lists.scores, lists.opponent_rows)]
        for lists in ranked(method, top_k=9)
    ]


def stepped(task: Task, model: LanguageModel, folder: Path, engine: Engine | None) -> Any:
    """Tail-patch of every passage for each query."""
    engine = engine or Serial(SerialConfig())
    proponents = {query.query_id: list(range(len(task.passages))) for query in QUERIES}
    patch = TailPatch(
        config(top=len(task.passages)), model, task, folder, engine, SlowToy(folder.parent),
        Mirror(folder),
    )  # fmt: skip
    return patch.measure(QUERIES, proponents)


PHASES = {
    "encode": Phase(40, "shard-*.json", "encode passages", encoded),
    "search": Phase(36, "scan-*.safetensors", "search", searched),
    "tail_patch": Phase(24, "*.parts/*/*/*.safetensors", "tail-patch", stepped),
}


@pytest.fixture(autouse=True)
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "SHARD_ROWS", 1)
    monkeypatch.setattr(groups, "LEAST_TEXTS", 6)
    monkeypatch.setattr(optimizer_step, "_MOST_PASSAGES", 2)


@pytest.mark.parametrize("name", PHASES)
def test_a_node_of_ray_that_is_killed_costs_nothing(tmp_path: Path, capsys, name: str) -> None:
    """Two nodes; one is killed while it is at a job, and others are done."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    phase, model = PHASES[name], toy_model(tmp_path)
    task = make_task(tmp_path / "task", many_texts(phase.n_texts), QUERIES)
    expected = phase.work(task, model, tmp_path / "serial", None)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    try:
        engine = Ray(RayConfig(cluster.address, cpus=1, gpus=0, parallel=None, retries=2))
        (raylet,) = [process.process.pid for process in node.all_processes["raylet"]]

        def kill() -> None:
            children = stopped_at_work(raylet, tmp_path, f"ray/**/{phase.files}")
            cluster.remove_node(node, allow_graceful=False)
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        assert phase.work(task, model, tmp_path / "ray", engine) == expected
        killer.join(60)
        assert not killer.is_alive()
    finally:
        sys.modules["ray"].shutdown()
        cluster.shutdown()
    assert f"{phase.label}: a worker or its node died" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.partial-*"))


def stopped_at_work(raylet: int, folder: Path, files: str) -> list[int]:
    """The workers of a node, once two jobs are done and one of its workers is at another.

    As when a machine dies, that worker never comes to its end: it is stopped.
    """
    while True:
        time.sleep(0.01)
        children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
        at_work = [int(pid) for pid in children if (folder / f"at-work-{pid}").exists()]
        if at_work and len(list(folder.glob(files))) >= 2:
            os.kill(at_work[0], signal.SIGSTOP)
            if (folder / f"at-work-{at_work[0]}").exists():
                return [int(pid) for pid in children]
            os.kill(at_work[0], signal.SIGCONT)  # it had just come to the end


@pytest.mark.parametrize("name", ["search", "tail_patch"])
def test_a_worker_that_is_killed_costs_nothing(tmp_path: Path, capsys, name: str) -> None:
    """Two workers; one is killed while it is at a job, and others are done."""
    phase, model = PHASES[name], toy_model(tmp_path)
    task = make_task(tmp_path / "task", many_texts(phase.n_texts), QUERIES)
    expected = phase.work(task, model, tmp_path / "serial", None)
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            time.sleep(0.01)
            if len(list(tmp_path.glob(f"apart/**/{phase.files}"))) >= 2:
                killed.extend(int(path.name[8:]) for path in tmp_path.glob("at-work-*"))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    engine = Processes(ProcessesConfig(2, gpus=0))
    assert phase.work(task, model, tmp_path / "apart", engine) == expected
    killer.join(60)
    assert not killer.is_alive()
    assert f"{phase.label}: a worker process was killed; another" in capsys.readouterr().err
