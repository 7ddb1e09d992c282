"""Phases record what a block cost; progress shows every item without touching it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator

import pytest

from bench.core import phases as phases_module
from bench.core import progress
from bench.core.phases import Phases
from bench.core.progress import say, track

Capture = pytest.CaptureFixture[str]
N_BYTES = 100_000_000


def can_reset_peak() -> bool:
    try:
        phases_module._CLEAR.write_text("5")
    except OSError:
        return False
    return True


needs_reset = pytest.mark.skipif(not can_reset_peak(), reason="peaks are of the whole process here")


def allocate() -> None:
    assert len(b"\x01" * N_BYTES) == N_BYTES  # written, so that it is resident


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    progress.set_quiet(False)
    yield
    progress.set_quiet(False)


# ------------------------------------------------------------------ phases


def peaks(phases: Phases) -> dict[str, float]:
    return {phase.name: phase.peak_mib for phase in phases.records}


def test_seconds_are_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5, 100.0, 100.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    phases = Phases()
    for name in ("index", "search"):
        with phases.measure(name):
            pass
    assert [(p.name, p.seconds) for p in phases.records] == [("index", 2.5), ("search", 0.25)]


@needs_reset
def test_peak_is_of_the_block() -> None:
    phases = Phases()
    with phases.measure("before"):
        pass
    with phases.measure("big"):
        allocate()
    with phases.measure("after"):
        pass
    peak = peaks(phases)
    assert peak["big"] - peak["before"] >= 90
    assert peak["big"] - peak["after"] >= 90


@needs_reset
def test_a_phase_within_another_hides_no_peak() -> None:
    phases = Phases()
    with phases.measure("outer"):
        allocate()
        with phases.measure("inner"):
            pass
    with phases.measure("outer of inner"):
        with phases.measure("inner peak"):
            allocate()
        with phases.measure("later"):
            pass
    peak = peaks(phases)
    assert peak["outer"] - peak["inner"] >= 90
    assert peak["outer of inner"] >= peak["inner peak"]
    assert peak["outer of inner"] - peak["later"] >= 90
    assert list(peak) == ["inner", "outer", "inner peak", "later", "outer of inner"]


def test_elsewhere_the_peak_is_of_the_process(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases_module, "_CLEAR", tmp_path / "no" / "clear_refs")
    monkeypatch.setattr(phases_module, "_STATUS", tmp_path / "no" / "status")
    usage = type("Usage", (), {"ru_maxrss": 3 << 20})
    monkeypatch.setattr(phases_module.resource, "getrusage", lambda who: usage)
    found = {}
    for platform in ("linux", "darwin"):
        monkeypatch.setattr(sys, "platform", platform)
        phases = Phases()
        with phases.measure("x"):
            pass
        found[platform] = phases.records[0].peak_mib
    assert found == {"linux": 3072.0, "darwin": 3.0}  # KiB there, bytes here


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_phase_that_fails_is_recorded(error: type[BaseException]) -> None:
    phases = Phases()
    with pytest.raises(error), phases.measure("outer"), phases.measure("index"):
        raise error
    assert [phase.name for phase in phases.records] == ["index", "outer"]
    assert all(phase.peak_mib > 0 for phase in phases.records)
    with phases.measure("search"):
        pass
    assert len(phases.records) == 3


# ------------------------------------------------------------------ progress


def set_mode(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    progress.set_quiet(mode == "quiet")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: mode == "terminal", raising=False)


@pytest.mark.parametrize("mode", ["quiet", "terminal", "log"])
@pytest.mark.parametrize("make", [list, iter], ids=["sized", "stream"])
def test_every_item_in_order(
    mode: str, make: type, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    set_mode(mode, monkeypatch)
    monkeypatch.setattr(progress, "_LOG_EVERY_SECONDS", 0.0)
    items = [f"item {i}" for i in range(50)]
    assert list(track(make(items), "encode", unit="passages")) == items
    captured = capsys.readouterr()
    assert captured.out == ""
    if mode == "quiet":
        assert captured.err == ""
    elif mode == "terminal":
        assert "\x1b[" in captured.err
        assert "encode" in captured.err
    else:
        lines = captured.err.splitlines()
        assert lines[0].startswith("encode: 1/50 passages" if make is list else "encode: 1/? ")
        assert len(lines) == (49 if make is list else 50)  # the end of a stream is not foreseen
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("mode", ["quiet", "terminal", "log"])
def test_steps_within_a_step_are_shown(
    mode: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Fault: an hour's shard was one silent item."""
    set_mode(mode, monkeypatch)
    monkeypatch.setattr(progress, "_LOG_EVERY_SECONDS", 0.0)
    for _ in track(range(2), "shards"):
        with progress.counted("encode", 9, unit="texts") as advance:
            for _ in range(3):
                advance(3)
    assert progress._bars is None
    shown = capsys.readouterr().err
    if mode == "log":
        inner = ["encode: 3/9 texts", "encode: 6/9 texts"]
        expected = [*inner, "shards: 1/2 it", *inner]
        assert [line.partition(" (")[0] for line in shown.splitlines()] == expected
    else:
        assert ("encode" in shown) == (mode == "terminal")


@pytest.mark.parametrize("mode", ["quiet", "terminal", "log"])
def test_nothing_to_do_and_stopping_early(
    mode: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    set_mode(mode, monkeypatch)
    assert list(track([], "encode")) == []
    source = iter(range(10))
    for item in track(source, "encode", total=10):
        if item == 2:
            break
    assert next(source) == 3, "no item may be read ahead"


@pytest.mark.parametrize("mode", ["quiet", "terminal", "log"])
def test_an_error_of_the_items_passes(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_mode(mode, monkeypatch)
    with pytest.raises(ZeroDivisionError):
        list(track((1 // (2 - i) for i in range(5)), "encode"))


def test_log_lines_say_how_far_and_how_long(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    set_mode("log", monkeypatch)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for _ in track(range(8), "encode", unit="passages"):
        now[0] += 8.0
    assert capsys.readouterr().err.splitlines() == [
        "encode: 2/8 passages (0.1/s, 48 s left)",
        "encode: 4/8 passages (0.1/s, 32 s left)",
        "encode: 6/8 passages (0.1/s, 16 s left)",
    ]


def test_an_item_that_takes_long_is_heard_of_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Fault: an eigendecomposition of minutes said nothing until it was done."""
    set_mode("log", monkeypatch)
    monkeypatch.setattr(progress, "_BEAT_SECONDS", 0.05)
    for _ in track(range(2), "shards"):
        for _ in track(range(3), "blocks", unit="blocks"):
            time.sleep(0.4)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    assert all(re.fullmatch(r"blocks: [012]/3 blocks, at the next for 0 s", x) for x in lines)
    assert progress._open == []


def test_a_fast_loop_logs_nothing(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    set_mode("log", monkeypatch)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 5.0)
    assert list(track(range(1000), "encode")) == list(range(1000))
    assert capsys.readouterr().err == ""


def test_say_is_one_line_that_steers_nothing(capsys: Capture) -> None:
    say("prepare x\x1b[2J\nin \u202efolder\r")
    assert capsys.readouterr().err == "prepare x\ufffd[2J in \ufffdfolder \n"
    progress.set_quiet(True)
    say("unheard")
    assert capsys.readouterr().err == ""


def test_silence_within_silence_ends_with_the_outer_one(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.silenced(True):
        with progress.silenced(False):
            progress.say("within")
        progress.say("still within")
    progress.say("after")
    with progress.silenced(False):
        progress.say("never silent")
    assert capsys.readouterr().err.splitlines() == ["after", "never silent"]
