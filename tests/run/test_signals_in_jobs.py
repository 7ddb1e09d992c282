"""SIGTERM while a job of a phase is at work: it comes to its end, and the next run takes it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from bench.core import stopping
from tests.fixtures.forks import Forks
from tests.fixtures.interrupted import ended_in_phase
from tests.fixtures.runs import cells, ranked, result
from tests.fixtures.signal_in_phase import JOBS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]
# Where the part of a job is, once it is finished, and a method that has such jobs.
PARTS = {
    "words": ("index/words/*.parts/rows-*", "bm25"),
    "chunk": ("index/repsim/*.parts/rows-*", "repsim"),
    "batch": ("tail_patch/*.parts/*/*/*.safetensors", "bm25"),
    "pairs": ("judgements/*.parts/*/*/*.safetensors", "bm25"),
}


@pytest.mark.parametrize("phase", JOBS)
def test_sigterm_lets_the_job_at_hand_finish_and_the_next_run_takes_it(
    tmp_path: Path, forks: Forks, phase: str
) -> None:
    pattern, method = PARTS[phase]
    ending = ended_in_phase(forks, tmp_path, phase, signal.SIGTERM, method)
    assert ending.status == 128 + signal.SIGTERM, ending.said
    assert ending.said.splitlines()[-1] == stopping.line(signal.SIGTERM)
    assert len(list((tmp_path / "cache").glob(pattern))) == 1, "the job at hand is finished"
    assert cells(tmp_path / "results") == {}
    assert ended_in_phase(forks, tmp_path, "none", 0, method).status == 0
    assert not list((tmp_path / "cache").glob(pattern)), "it is merged, and removed"
    undisturbed = tmp_path / "undisturbed"
    assert ended_in_phase(forks, undisturbed, "none", 0, method).status == 0
    ours, theirs = (cells(one / "results")[method] for one in (tmp_path, undisturbed))
    assert ranked(ours) == ranked(theirs)
    assert result(ours)["metrics"] == result(theirs)["metrics"]
