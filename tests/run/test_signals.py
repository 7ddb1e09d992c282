"""Every phase of a cell, and the report, ended by each signal; the next command goes on from there.

``tests/core/test_stopping.py`` has the jobs of engines, which SIGTERM lets come to their end, and
``benchmarks/faults.py`` kills at random moments.
"""

from __future__ import annotations

import csv
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.core import stopping
from tests.fixtures.interrupted import Ending, Forks
from tests.fixtures.runs import SMALL, cells, ranked, result
from tests.fixtures.signal_in_phase import JOBS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]
PHASES = (
    "model", "training", "index", "search", "judge", "attribution", "tail_patch", "retraining",
    "write",
)  # fmt: skip
WORDS = (
    *SMALL, "metric=retraining",
    "metric.judge={name:lexical,require_subject:false,threshold:0.5}",
    "metric.retraining.removal_queries=2", "metric.retraining.removal_group=2",
    "metric.retraining.lds_subsets=3",
)  # fmt: skip


Ended = Callable[..., Ending]  # of a folder, a phase, a signal, and a method if not TrackStar


@pytest.fixture(scope="module")
def ended() -> Iterator[Ended]:
    """How a command ends that gets a signal in a phase."""
    forks = Forks("tests.fixtures.signal_in_phase")

    def end(folder: Path, phase: str, number: int, method: str = "trackstar") -> Ending:
        places = (f"results_dir={folder / 'results'}", f"cache_dir={folder / 'cache'}")
        words = ["report", str(folder / "results"), "--no-figures"]
        if phase != "report":
            words = ["run", f"method={method}", *WORDS, *places]
        return forks.ended(phase, str(number), *words)

    yield end
    forks.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ended: Ended) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert ended(folder, "none", 0).status == 0
    return folder


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_each_phase_ends_and_the_next_command_goes_on(
    tmp_path: Path, undisturbed: Path, ended: Ended, name: str
) -> None:
    number = getattr(signal, name)
    for phase in (*PHASES, "report"):
        if phase == "report":
            assert ended(tmp_path, "none", 0).status == 0
        ending = ended(tmp_path, phase, number)
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
    again = ended(tmp_path, "report", 0)
    assert again.status == 0, again.said
    with open(tmp_path / "results" / "report" / "leaderboard.csv") as stream:
        assert [row["method"] for row in csv.DictReader(stream)] == ["trackstar"]


# Where the part of a job is, once it is finished, and a method that has such jobs.
PARTS = {
    "words": ("index/words/*.parts/rows-*", "bm25"),
    "chunk": ("index/repsim/*.parts/rows-*", "repsim"),
    "batch": ("tail_patch/*.parts/*/*.safetensors", "bm25"),
    "pairs": ("judgements/*.parts/*/*.safetensors", "bm25"),
}


@pytest.mark.parametrize("phase", JOBS)
def test_sigterm_lets_the_job_at_hand_finish_and_the_next_run_takes_it(
    tmp_path: Path, ended: Ended, phase: str
) -> None:
    pattern, method = PARTS[phase]
    ending = ended(tmp_path, phase, signal.SIGTERM, method)
    assert ending.status == 128 + signal.SIGTERM, ending.said
    assert ending.said.splitlines()[-1] == stopping.line(signal.SIGTERM)
    assert len(list((tmp_path / "cache").glob(pattern))) == 1, "the job at hand is finished"
    assert cells(tmp_path / "results") == {}
    assert ended(tmp_path, "none", 0, method).status == 0
    assert not list((tmp_path / "cache").glob(pattern)), "it is merged, and removed"
    undisturbed = tmp_path / "undisturbed"
    assert ended(undisturbed, "none", 0, method).status == 0
    ours, theirs = (cells(one / "results")[method] for one in (tmp_path, undisturbed))
    assert ranked(ours) == ranked(theirs)
    assert result(ours)["metrics"] == result(theirs)["metrics"]
