"""Engines: every job is done once, whatever dies, and its error arrives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.engines import ENGINES, Engine
from bench.engines.base import Job
from bench.engines.processes import Processes, ProcessesConfig
from bench.engines.serial import Serial, SerialConfig
from bench.engines.threads import cores
from bench.errors import UserError


def write(path: Path, text: str) -> None:
    path.write_text(text)


def threads(path: Path) -> None:
    path.write_text(os.environ["OMP_NUM_THREADS"])


def die_once(path: Path, mark: Path) -> None:
    """Kill the process, as the kernel does when memory runs out; the second time do the work."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    path.write_text("done")


def die(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait(path: Path) -> None:
    """Say who is at it, and stay at it."""
    path.with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(120)


def refuse(path: Path) -> None:
    raise UserError("cannot", where=path.name, fix="try another")


def engine(name: str) -> Engine:
    return Serial(SerialConfig()) if name == "serial" else Processes(ProcessesConfig(workers=2))


ENGINE = pytest.mark.parametrize(
    "name", ["serial", pytest.param("processes", marks=pytest.mark.slow)]
)


@ENGINE
def test_every_job_is_done_and_none_twice(tmp_path: Path, name: str) -> None:
    jobs = [Job(write, (tmp_path / str(i), f"new {i}"), tmp_path / str(i)) for i in range(5)]
    (tmp_path / "3").write_text("old")
    engine(name).run(jobs, "write", unit="files")
    texts = [(tmp_path / str(i)).read_text() for i in range(5)]
    assert texts == ["new 0", "new 1", "new 2", "old", "new 4"]


@ENGINE
def test_an_error_arrives_as_it_was(tmp_path: Path, name: str) -> None:
    first = Job(write, (tmp_path / "a", "kept"), tmp_path / "a")
    engine(name).run([first], "write", unit="files")
    jobs = [first, *(Job(refuse, (tmp_path / n,), tmp_path / n) for n in ("b", "c"))]
    with pytest.raises(UserError, match=r"^[bc]: cannot; try another$"):
        engine(name).run(jobs, "write", unit="files")
    assert (tmp_path / "a").read_text() == "kept"


def test_nothing_to_do_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    monkeypatch.setattr(Processes, "_run", lambda *_: pytest.fail("started"))
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
        "from pathlib import Path; from tests.test_engines import *\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "jobs = [Job(wait, (folder / n,), folder / n) for n in 'ab']\n"
        "engine('processes').run(jobs, 'wait', unit='jobs')\n"
    )
    root = Path(__file__).parents[1]
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
    jobs = [Job(threads, (tmp_path / str(i),), tmp_path / str(i)) for i in range(2)]
    engine("processes").run(jobs, "work", unit="jobs")
    assert (tmp_path / "0").read_text() == str(max(1, cores() // 2))
    assert os.environ["OMP_NUM_THREADS"] == "7", "as it was before"


def test_a_wrong_number_of_workers() -> None:
    with pytest.raises(UserError, match=r"engine\.workers: expected at least 1, found 0"):
        Processes(ProcessesConfig(workers=0)).check()


def test_the_registry_holds_them() -> None:
    assert list(ENGINES) == ["processes", "serial"]
    assert all(issubclass(ENGINES.get(name), Engine) for name in ENGINES)
