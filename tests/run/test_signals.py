"""Every phase of a cell, and the report, ended by each signal; the next command goes on from there.

``test_signals_in_jobs.py`` and ``tests/core/test_stopping.py`` have jobs, which SIGTERM lets come
to their end, and ``benchmarks/faults.py`` kills at random moments.
"""

from __future__ import annotations

import csv
import signal
import sys
from pathlib import Path

import pytest

from bench.core import stopping
from tests.fixtures.forks import Forks
from tests.fixtures.interrupted import ended_in_phase
from tests.fixtures.runs import cells, ranked, result

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]
PHASES = (
    "model", "training", "index", "search", "judge", "attribution", "tail_patch", "retraining",
    "write",
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert ended_in_phase(forks, folder, "none", 0).status == 0
    return folder


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_each_phase_ends_and_the_next_command_goes_on(
    tmp_path: Path, undisturbed: Path, forks: Forks, name: str
) -> None:
    number = getattr(signal, name)
    for phase in (*PHASES, "report"):
        if phase == "report":
            assert ended_in_phase(forks, tmp_path, "none", 0).status == 0
        ending = ended_in_phase(forks, tmp_path, phase, number)
        assert ending.status == 128 + number, (phase, ending.said)
        assert "Traceback" not in ending.said, phase
        assert ending.left == [], phase
        if number != signal.SIGKILL:
            assert ending.said.splitlines()[-1] == stopping.line(number), phase
            assert not list(tmp_path.rglob("*.partial-*")), phase
        assert bool(cells(tmp_path / "results")) == (phase == "report"), phase
    ours, theirs = (cells(one / "results")["trackstar"] for one in (tmp_path, undisturbed))
    assert ranked(ours) == ranked(theirs)
    assert result(ours)["metrics"] == result(theirs)["metrics"]
    again = ended_in_phase(forks, tmp_path, "report", 0)
    assert again.status == 0, again.said
    with open(tmp_path / "results" / "report" / "leaderboard.csv") as stream:
        assert [row["method"] for row in csv.DictReader(stream)] == ["trackstar"]
