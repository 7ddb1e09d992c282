"""SIGTERM: the job at hand is finished, no other is begun, and the next run goes on from there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.core import stopping
from bench.core.errors import UserError
from bench.engines.base import Job
from bench.engines.serial import Serial, SerialConfig
from tests.fixtures.forks import Fork, Forks
from tests.fixtures.gradient_methods import index_files
from tests.fixtures.runs import SMALL

N_SHARDS = 50


def write(path: Path) -> None:
    path.write_text("done")


def write_asked_to_stop(path: Path) -> None:
    for _ in range(2):  # to the process, then to its group, as some schedulers do
        os.kill(os.getpid(), signal.SIGTERM)
    path.write_text("done")


def test_the_job_at_hand_is_finished_and_no_other_is_begun(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(4)]
    work = [write, write_asked_to_stop, write, write]
    jobs = [Job(one, (path,), path) for one, path in zip(work, paths, strict=True)]
    engine = Serial(SerialConfig())
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(stopping.Stopped), stopping.on_signals():
        engine.run(jobs, "work", unit="jobs")
    assert [job.done for job in jobs] == [True, True, False, False]
    assert signal.getsignal(signal.SIGTERM) == before
    with stopping.on_signals():  # an earlier request is not of this run
        engine.run(jobs, "work", unit="jobs")
    assert all(job.done for job in jobs)


def test_asked_in_the_last_job_it_stops_all_the_same(tmp_path: Path) -> None:
    job = Job(write_asked_to_stop, (tmp_path / "a",), tmp_path / "a")
    with pytest.raises(stopping.Stopped), stopping.on_signals():
        Serial(SerialConfig()).run([job], "work", unit="jobs")
    assert job.done


def fail_asked_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    raise UserError("a mistake")


def test_a_job_that_fails_does_not_hide_the_request(tmp_path: Path) -> None:
    """A sweep goes past a user's mistake, and would begin the next cell."""
    job = Job(fail_asked_to_stop, (), tmp_path / "a")
    with pytest.raises(stopping.Stopped), stopping.on_signals():
        Serial(SerialConfig()).run([job], "work", unit="jobs")


def test_between_jobs_it_ends_at_once() -> None:
    went_on = False
    with pytest.raises(stopping.Stopped), stopping.on_signals():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        went_on = True
    assert not went_on


def test_the_command_ends_with_one_line_and_its_own_status(monkeypatch, capsys) -> None:
    def stopped(_: list[str]) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        return 0

    monkeypatch.setattr("bench.cli.run.main", stopped)
    assert main(["run"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped: what is finished is kept; run again to go on\n"


def start(forks: Forks, folder: Path, cache: Path, engine: list[str]) -> Fork:
    places = [f"results_dir={folder}", f"cache_dir={cache}"]
    words = ["run", "method=trackstar", "metric=attribution", *SMALL, *engine, *places]
    return forks.start(*words, module="tests.fixtures.run_small_shards")


def sidecars(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.rglob("shard-*.json")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Path:
    """The cache of a run that nobody stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = start(forks, folder, folder / "cache", ["engine=serial"]).end()
    assert done.returncode == 0, done.stderr
    return folder / "cache"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("to_group", [False, True])
def test_a_real_run_stops_and_goes_on(
    tmp_path: Path, forks: Forks, undisturbed: Path, workers: int, to_group: bool
) -> None:
    engine = ["engine=processes", f"engine.workers={workers}"] if workers else ["engine=serial"]
    cache = tmp_path / "cache"
    cache.mkdir()
    for part in ("tasks", "models"):  # trained once
        (cache / part).symlink_to(undisturbed / part)
    process = start(forks, tmp_path / "results", cache, engine)
    while process.runs(0.002) and len(sidecars(cache)) < 5:
        continue
    sent = time.time_ns()
    process.send(signal.SIGTERM, to_group=to_group)
    stopped = process.end()
    said = stopped.stderr
    assert stopped.returncode == 128 + signal.SIGTERM, said
    assert said.splitlines()[-1] == "stopped: what is finished is kept; run again to go on"
    assert "Traceback" not in said
    kept = sidecars(cache)
    assert 5 <= len(kept) < N_SHARDS
    assert sum(written > sent for written in kept.values()) <= max(1, workers)
    arrays = {path.with_suffix(".json") for path in cache.rglob("shard-*.npy")}
    assert arrays == kept.keys(), "what was at hand is whole"
    assert not list(cache.rglob("*.partial-*"))
    assert not list(tmp_path.rglob("result.json"))

    # What is left is the same wherever the signal went; the next run need not have the same engine.
    engine = ["engine=serial"] if to_group else engine
    again = start(forks, tmp_path / "results", cache, engine).end()
    assert again.stderr
    assert again.returncode == 0, again.stderr
    assert sidecars(cache).items() >= kept.items(), "none is made again"
    assert len(sidecars(cache)) == N_SHARDS
    assert len(list(tmp_path.rglob("result.json"))) == 1
    assert index_files(cache) == index_files(undisturbed)
