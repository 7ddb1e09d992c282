"""Engines: every job is done once, whatever dies, and its error arrives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType

import pytest

from bench.core import stopping
from bench.core.errors import UserError
from bench.engines import ENGINES, Engine
from bench.engines.base import Job
from bench.engines.environment import cores
from bench.engines.processes import Processes, ProcessesConfig
from bench.engines.ray import Ray, RayConfig
from bench.engines.slurm import Slurm
from tests.fixtures.engine_jobs import (
    SLURM,
    die,
    die_once,
    engine,
    parent,
    refuse,
    surroundings,
    write,
    write_and_ask,
)

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("processes", "ray", "slurm")]
ENGINE = pytest.mark.parametrize("name", ["serial", *SLOW])


@pytest.fixture(scope="module", autouse=True)
def no_ray_afterwards() -> Iterator[None]:
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@ENGINE
def test_every_job_is_done_and_none_twice(tmp_path: Path, name: str) -> None:
    jobs = [Job(write, (tmp_path / str(i), f"new {i}"), tmp_path / str(i)) for i in range(5)]
    (tmp_path / "3").write_text("old")
    engine(name, tmp_path).run(jobs, "write", unit="files")
    texts = [(tmp_path / str(i)).read_text() for i in range(5)]
    assert texts == ["new 0", "new 1", "new 2", "old", "new 4"]


@ENGINE
def test_an_error_arrives_as_it_was(tmp_path: Path, name: str) -> None:
    first = Job(write, (tmp_path / "a", "kept"), tmp_path / "a")
    engine(name, tmp_path).run([first], "write", unit="files")
    jobs = [first, *(Job(refuse, (tmp_path / n,), tmp_path / n) for n in ("b", "c"))]
    with pytest.raises(UserError, match=r"^[bc]: cannot; try another$"):
        engine(name, tmp_path).run(jobs, "write", unit="files")
    assert (tmp_path / "a").read_text() == "kept"


def test_nothing_to_do_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    monkeypatch.setattr(Processes, "_finished", lambda *_: pytest.fail("started"))
    engine("processes").run([Job(refuse, (tmp_path / "a",), tmp_path / "a")], "x", unit="files")


@pytest.mark.slow
def test_a_killed_worker_costs_no_result(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    jobs = [Job(write, (tmp_path / str(i), "done"), tmp_path / str(i)) for i in range(3)]
    target = tmp_path / "killed"
    jobs.insert(1, Job(die_once, (target, tmp_path / "mark"), target))
    engine("processes").run(jobs, "work", unit="jobs")
    assert {job.target.read_text() for job in jobs} == {"done"}
    assert "work: a worker process was killed" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_that_always_die_are_an_error(tmp_path: Path) -> None:
    target = tmp_path / "never"
    with pytest.raises(UserError, match=r"engine: .*killed 3 times; 1 jobs.*lower engine\.workers"):
        engine("processes").run([Job(die, (target,), target)], "work", unit="jobs")


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from bench.engines.base import Job\n"
        "from tests.fixtures.engine_jobs import engine, wait\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "jobs = [Job(wait, (folder / n,), folder / n) for n in 'ab']\n"
        "engine('processes').run(jobs, 'wait', unit='jobs')\n"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=root)
    notes = [tmp_path / "a.pid", tmp_path / "b.pid"]
    eventually(lambda: all(note.exists() and note.read_text() for note in notes))
    workers = [int(note.read_text()) for note in notes]
    parent.kill()
    parent.wait()
    eventually(lambda: not any(map(alive, workers)))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    # Nobody may be there to collect the dead of a parent that is dead itself.
    return not stat.exists() or ") Z " not in stat.read_text()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_workers_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,GPU-6")
    jobs = [Job(surroundings, (tmp_path / str(i),), tmp_path / str(i)) for i in range(2)]
    Processes(ProcessesConfig(workers=None, gpus=2)).run(jobs, "work", unit="jobs")
    assert {job.target.read_text() for job in jobs} == {f"{cores()} 4,5"}, "there is room for one"
    assert os.environ["OMP_NUM_THREADS"] == "7", "as it was before"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4, 5,GPU-6"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are no forks elsewhere")
def test_workers_of_all_phases_are_forks_of_one_process(tmp_path: Path) -> None:
    """One that has loaded the libraries; if it is killed, another takes its place at once."""
    phases = [[tmp_path / f"{phase}{number}" for number in range(2)] for phase in "abcd"]

    def parents(paths: list[Path]) -> set[int]:
        jobs = [Job(parent, (path,), path) for path in paths]
        engine("processes").run(jobs, "work", unit="jobs")
        return {int(path.read_text()) for path in paths}

    one, again = parents(phases[0]), parents(phases[1])
    assert one == again
    assert len(one) == 1
    assert os.getpid() not in one
    os.kill(*one, signal.SIGKILL)
    two = parents(phases[2])  # while it may still be ending
    assert two.isdisjoint(one)
    os.kill(*two, signal.SIGKILL)
    eventually(lambda: not alive(*two))
    assert parents(phases[3]).isdisjoint(one | two)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are no forks elsewhere")
def test_a_server_that_is_killed_just_before_workers_start_costs_nothing(tmp_path: Path) -> None:
    killed = []

    class Killing(Processes):
        def _shares(self, n_jobs: int) -> list[list[str]]:
            killed.append(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]
            os.kill(killed[0], signal.SIGKILL)
            return super()._shares(n_jobs)

    jobs = [Job(parent, (tmp_path / str(i),), tmp_path / str(i)) for i in range(2)]
    Killing(ProcessesConfig(workers=2, gpus=0)).run(jobs, "work", unit="jobs")
    assert killed[0] not in {int(job.target.read_text()) for job in jobs}


def test_each_worker_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-6")

    def shares(workers: int | None, gpus: int, n_jobs: int) -> list[list[str]]:
        return Processes(ProcessesConfig(workers, gpus))._shares(n_jobs)

    assert shares(None, 1, 9) == [["4"], ["5"], ["GPU-6"]]
    assert shares(None, 1, 2) == [["4"], ["5"]]
    assert shares(2, 1, 9) == [["4"], ["5"]]
    assert shares(2, 0, 9) == [[], []], "each sees what this process sees"
    with pytest.raises(UserError, match=r"engine: workers want 4 GPUs, and 3 can be seen here"):
        Processes(ProcessesConfig(workers=2, gpus=2)).check()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="workers want 1 GPUs, and 0 can be seen here"):
        Processes(ProcessesConfig(workers=None, gpus=1)).check()


@pytest.mark.slow
def test_a_job_that_a_worker_cannot_read_says_why(tmp_path: Path, monkeypatch) -> None:
    only_here = ModuleType("only_here")
    monkeypatch.setitem(sys.modules, "only_here", only_here)
    exec("def work(path): ...", vars(only_here))
    job = Job(only_here.work, (tmp_path / "a",), tmp_path / "a")
    with pytest.raises(RuntimeError, match="No module named 'only_here'"):
        Processes(ProcessesConfig(workers=1, gpus=0)).run([job], "work", unit="jobs")


def test_a_wrong_number_of_workers() -> None:
    with pytest.raises(UserError, match=r"engine\.workers: expected at least 1, found 0"):
        Processes(ProcessesConfig(workers=0, gpus=0)).check()


def test_the_registry_holds_them() -> None:
    assert list(ENGINES) == ["processes", "ray", "serial", "slurm"]
    assert all(issubclass(ENGINES.get(name), Engine) for name in ENGINES)


# ------------------------------------------------------------------ other machines


@pytest.mark.parametrize("name", ["ray", "submitit"])
def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    extra = {"ray": "ray", "submitit": "slurm"}[name]
    found = {"ray": Ray(RayConfig(None, 1, 0, None, 0)), "slurm": Slurm(SLURM)}[extra]
    with pytest.raises(UserError, match=rf"needs the package {name} .*'tdabench\[{extra}\]'"):
        found.check()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Ray(RayConfig(None, 0, 0, None, 0)), r"engine\.cpus: expected at least 1, found 0"),
        (Ray(RayConfig(None, 1, -1, None, 0)), r"engine\.gpus: expected at least 0, found -1"),
        (Ray(RayConfig(None, 1, 0, 0, 0)), r"engine\.parallel: expected at least 1"),
        (Slurm(replace(SLURM, tasks=0)), r"engine\.tasks: expected at least 1, found 0"),
        (Slurm(replace(SLURM, retries=-1)), r"engine\.retries: expected at least 0"),
        (Slurm(replace(SLURM, cluster="locl")), r"unknown cluster 'locl'; did you mean local\?"),
    ],
)
def test_a_wrong_setting_is_refused_before_a_package_is_looked_for(wrong, message: str) -> None:
    with pytest.raises(UserError, match=message):
        wrong.check()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_a_task_that_dies_costs_no_result(tmp_path: Path, name: str, capsys) -> None:
    jobs = [Job(write, (tmp_path / str(i), "done"), tmp_path / str(i)) for i in range(3)]
    target = tmp_path / "killed"
    jobs.insert(1, Job(die_once, (target, tmp_path / "mark"), target))
    engine(name, tmp_path).run(jobs, "work", unit="jobs")
    assert {job.target.read_text() for job in jobs} == {"done"}
    assert "work: " in capsys.readouterr().err, "it is said"
    assert not list((tmp_path.parent / f"{tmp_path.name}-slurm").glob("*")), "no logs are left"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [("ray", "died 3 times at the same job"), ("slurm", r"1 jobs are not done: .*logs are in")],
)
def test_tasks_that_always_die_are_an_error(tmp_path: Path, name: str, message: str) -> None:
    other = Job(write, (tmp_path / "other", "kept"), tmp_path / "other")
    with pytest.raises(UserError, match=message):
        engine(name, tmp_path).run(
            [Job(die, (tmp_path / "never",), tmp_path / "never"), other], "work", unit="jobs"
        )
    assert other.done


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_jobs_elsewhere_use_the_threads_they_are_given(tmp_path: Path, monkeypatch, name) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    job = Job(surroundings, (tmp_path / "a",), tmp_path / "a")
    engine(name, tmp_path).run([job], "x", unit="jobs")
    assert job.target.read_text().split()[0] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "7", "as it was before"


@pytest.mark.slow
def test_slurm_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    jobs = [Job(write, (tmp_path / "a", ""), tmp_path / "a")]
    with pytest.raises(UserError, match=r"engine\.cluster=slurm: the jobs cannot be submitted \("):
        Slurm(replace(SLURM, cluster="slurm", folder=str(tmp_path / "s"))).run(jobs, "x", "jobs")


@pytest.mark.slow
def test_more_than_any_node_of_ray_has_is_an_error_and_no_wait(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    jobs = [Job(write, (tmp_path / "a", ""), tmp_path / "a")]
    with pytest.raises(UserError, match="no node of the Ray cluster has 999 CPUs"):
        Ray(RayConfig(None, 999, 0, None, 0)).run(jobs, "x", "jobs")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_asked_to_stop_tasks_begin_no_other_job(tmp_path: Path, name: str) -> None:
    jobs = [
        Job(write_and_ask, (tmp_path / str(i), os.getpid()), tmp_path / str(i)) for i in range(40)
    ]
    with pytest.raises(stopping.Stopped), stopping.on_signals():
        engine(name, tmp_path).run(jobs, "work", unit="jobs")
    assert 1 <= sum(job.done for job in jobs) < 20
