"""Ctrl-C, once or twice, with every engine: the command ends, says so in a line, and leaves nobody.

No time is asserted but that it ends: jobs here would take minutes. ``benchmarks/stopping.py``
interrupts whole runs at random moments and measures the time.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from bench.core import stopping
from tests.fixtures.interrupted import waiting_jobs

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

LIBRARIES = {"ray": "ray", "slurm": "submitit"}


@pytest.mark.parametrize("to_group", [False, True])
def test_two_interrupts_end_the_workers_of_processes(tmp_path: Path, to_group: bool) -> None:
    interrupt(tmp_path, "processes", "working", 2, to_group)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["serial", "processes", "ray", "slurm"])
@pytest.mark.parametrize("moment", ["starting", "working"])
@pytest.mark.parametrize(("times", "to_group"), [(1, False), (2, False), (2, True)])
def test_an_interrupted_command_ends_with_its_workers(
    tmp_path: Path, name: str, moment: str, times: int, to_group: bool
) -> None:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name])
    interrupt(tmp_path, name, moment, times, to_group)


def interrupt(tmp_path: Path, name: str, moment: str, times: int, to_group: bool) -> None:
    folder = tmp_path / "jobs"
    command = waiting_jobs(folder, name)
    note = "*.pid" if moment == "working" else "begun"
    command.wait_until(lambda: any(path.stat().st_size for path in folder.glob(note)))
    ending = command.send(*[signal.SIGINT] * times, pause=0.2, to_group=to_group)
    assert ending.status == 128 + signal.SIGINT, ending.said
    assert ending.left == []
    assert ending.said.splitlines()[-1] == stopping.line(signal.SIGINT)
    assert "Traceback" not in ending.said
    assert sorted(path.name for path in folder.glob("?")) == []


def test_a_signal_that_is_ignored_from_the_start_stays_ignored() -> None:
    """As ``nohup`` does, and shells with what they start in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopping.asked()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
