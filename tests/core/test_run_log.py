"""The log file of a run: all that is said, with times, whatever the terminal shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from bench.core import progress, run_log

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.fixture(autouse=True)
def loud_again():
    yield
    progress.set_quiet(False)


@pytest.mark.parametrize("mode", ["quiet", "terminal", "file"])
def test_lines_are_kept_whatever_is_shown(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress.set_quiet(mode == "quiet")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: mode == "terminal", raising=False)
    monkeypatch.setattr(progress, "_LOG_EVERY_SECONDS", 0.0)
    file = tmp_path / "new" / "run.log"
    progress.say("before")
    with run_log.kept_in(file):
        progress.say("work\x1b[2J\nstarts")
        assert list(progress.track(range(3), "encode")) == [0, 1, 2]
        progress.complain("error: no")
    progress.say("after")
    lines = file.read_text(encoding="utf-8").splitlines()
    assert all(re.match(TIME, line) for line in lines)
    said = [re.sub(rf"{TIME}| \(.*\)", "", line) for line in lines]
    assert said == ["work\ufffd[2J", "starts", "encode: 1/3 it", "encode: 2/3 it", "error: no"]


def test_a_log_that_takes_no_more_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run.log"
    with run_log.kept_in(file):
        file.unlink()
        file.mkdir()
        progress.say("unheard")


def test_lines_of_two_contexts_are_appended(tmp_path: Path) -> None:
    for word in ("one", "two"):
        with run_log.kept_in(tmp_path / "run.log"):
            run_log.note(word)
    assert [line[20:] for line in (tmp_path / "run.log").read_text().splitlines()] == ["one", "two"]
