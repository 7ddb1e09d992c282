"""Loggers mirror a finished cell: refused when unknown, and never able to cost a result."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from bench.cli.main import main
from bench.core import progress
from bench.core.errors import UserError
from bench.results.schema import RESULT, Cell, read_result
from bench.run import loggers
from bench.run.loggers import LoggerConfig, check_logger, log_cell, log_failure
from tests.fixtures.cells import edit_result, write_cell

SECRET = "0123456789abcdef0123456789abcdef01234567"
SETTINGS = {"seed": 3, "method": {"name": "bm25", "k1": 1.5}}


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    folder = write_cell(tmp_path / "runs", "bm25", tail_patch=0.01)
    return Cell(folder, read_result(folder / RESULT))


class FakeArtifact:
    def __init__(self, name: str, type: str) -> None:
        self.name, self.type = name, type
        self.files: dict[str, Path] = {}

    def add_file(self, path: str, name: str) -> None:
        self.files[name] = Path(path)


class FakeRun:
    def __init__(self) -> None:
        self.summary: dict[str, float] = {}
        self.finished = False
        self.logged: dict[str, Any] = {}
        self.artifacts: list[FakeArtifact] = []

    def log(self, values: dict[str, Any]) -> None:
        self.logged |= values

    def log_artifact(self, artifact: FakeArtifact) -> None:
        assert not self.finished
        self.artifacts.append(artifact)

    def finish(self, exit_code: int = 0) -> None:
        self.finished, self.exit_code = True, exit_code


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A stand-in that notes what it is told."""
    fake = types.SimpleNamespace(calls=[], run=FakeRun(), Artifact=FakeArtifact)
    fake.Table = lambda dataframe: dataframe
    fake.Image = lambda path: path

    def init(**arguments: Any) -> FakeRun:
        fake.calls.append(arguments)
        return fake.run

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_an_unknown_logger_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown logger 'wandbb'; did you mean wandb"):
        check_logger(LoggerConfig("wandbb"))
    for name in ("none", "wandb"):
        check_logger(LoggerConfig(name))


def test_none_does_nothing(cell: Cell, wandb: types.SimpleNamespace, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    log_cell(LoggerConfig("none"), cell, SETTINGS, "sweep")
    assert wandb.calls == []
    assert sorted(tmp_path.rglob("*")) == before


def test_what_wandb_is_told(cell: Cell, wandb: types.SimpleNamespace, tmp_path: Path) -> None:
    log_cell(LoggerConfig("wandb", project="p"), cell, SETTINGS, "sweep-7")
    (call,) = wandb.calls
    assert (call["project"], call["group"], call["mode"]) == ("p", "sweep-7", "offline")
    assert call["config"] == SETTINGS
    assert call["name"] == f"bm25-tiny-{cell.folder.name[:8]}"
    assert call["settings"]["silent"]
    assert call["settings"]["x_disable_meta"]
    assert call["tags"] == ["factworld", "tiny", "bm25"]
    assert Path(call["dir"]) == tmp_path / "runs"
    mrr = cell.result.metrics["mrr"]
    assert wandb.run.summary["mrr"] == mrr.value
    assert (wandb.run.summary["mrr/low"], wandb.run.summary["mrr/high"]) == mrr.ci95
    points = cell.result.metrics["tail_patch"].value * 100
    assert wandb.run.summary["tail_patch (pp)"] == pytest.approx(points)
    assert len(wandb.run.summary) == 3 * len(cell.result.metrics)
    table = wandb.run.logged["per_query"]
    assert table["mrr"].mean() == pytest.approx(mrr.value)
    assert table["tail_patch (pp)"].mean() == pytest.approx(points)
    assert "tail_patch" not in table
    (artifact,) = wandb.run.artifacts
    assert (artifact.name, artifact.type) == (f"cell-{cell.folder.name}", "cell")
    assert set(artifact.files) == {"result.json", "config.yaml", "per_query.parquet"}
    assert all(path.parent == cell.folder for path in artifact.files.values())
    assert wandb.run.finished


def test_a_group_that_is_set_stays(cell: Cell, wandb: types.SimpleNamespace) -> None:
    log_cell(LoggerConfig("wandb", group="mine", mode="online"), cell, SETTINGS, "sweep-7")
    assert (wandb.calls[0]["group"], wandb.calls[0]["mode"]) == ("mine", "online")


def test_places_of_the_machine_are_told_only_if_asked(
    cell: Cell, wandb: types.SimpleNamespace
) -> None:
    settings = {**SETTINGS, "results_dir": "/home/me", "cache_dir": "/home/me", "remote_dir": None}
    log_cell(LoggerConfig("wandb"), cell, settings, "sweep")
    log_cell(LoggerConfig("wandb", host=True), cell, settings, "sweep")
    assert [call["config"] for call in wandb.calls] == [SETTINGS] * 2
    assert ["x_disable_meta" in call["settings"] for call in wandb.calls] == [True, False]


def test_a_cell_logged_again_takes_its_own_place(cell: Cell, wandb: types.SimpleNamespace) -> None:
    for _ in range(2):
        log_cell(LoggerConfig("wandb"), cell, SETTINGS, "sweep")
    assert [call["id"] for call in wandb.calls] == [cell.folder.name] * 2


def test_the_training_of_a_model_is_a_curve(cell: Cell, wandb: types.SimpleNamespace) -> None:
    epochs = [{"loss": 3.0, "facts_recalled": 0.1}, {"loss": 2.0, "facts_recalled": 0.4}]
    edit_result(cell.folder, lambda result: result["model"].update(training={"epochs": epochs}))
    told: list[dict[str, Any]] = []
    wandb.run.log = told.append
    log_cell(LoggerConfig("wandb"), Cell(cell.folder, read_result(cell.folder / RESULT)), {}, "s")
    assert told[:2] == [
        {"training/epoch": 1, "training/loss": 3.0, "training/facts_recalled": 0.1},
        {"training/epoch": 2, "training/loss": 2.0, "training/facts_recalled": 0.4},
    ]


def test_a_failed_cell_is_a_failed_run(tmp_path: Path, wandb: types.SimpleNamespace) -> None:
    settings = {part: {"name": part} for part in ("method", "model", "task")}
    log_failure(LoggerConfig("wandb"), tmp_path, settings, "sweep", "no V\x1b[2J")
    assert wandb.run.exit_code == 1
    assert wandb.run.summary == {"failed": "no V\ufffd[2J"}
    assert wandb.calls[0]["name"] == "method-model-failed"
    assert wandb.calls[0]["group"] == "sweep"


def test_a_finished_folder_is_logged_by_its_report(
    tmp_path: Path, wandb: types.SimpleNamespace
) -> None:
    for method in ("bm25", "dense"):
        write_cell(tmp_path / "runs", method, tail_patch=0.01)
    words = ["report", str(tmp_path / "runs"), "--quiet", "--no-viewer", "--log", "wandb"]
    assert main([*words, "logger.project=mine"]) == 0
    assert [call["job_type"] for call in wandb.calls] == ["evaluate", "evaluate", "report"]
    assert {(call["project"], call["group"]) for call in wandb.calls} == {("mine", "runs")}
    assert list(wandb.run.logged["leaderboard"]["method"]) == ["bm25", "dense"]
    assert any(name.startswith("figures/") for name in wandb.run.logged)


def test_a_report_refuses_a_logger_that_nobody_knows(
    cell: Cell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(cell.folder.parents[3]), "--quiet", "--log", "wandbb"]) == 2
    assert "wandb" in capsys.readouterr().err


def test_no_secret_is_told(
    cell: Cell, wandb: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    log_cell(LoggerConfig("wandb"), cell, SETTINGS, "sweep")
    assert SECRET not in repr(wandb.calls)
    assert SECRET not in repr(wandb.run.summary)


@pytest.mark.parametrize("quiet", [False, True])
def test_a_failing_logger_costs_one_line(
    cell: Cell,
    quiet: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no network:\n\x1b[2J" + "x" * 1000)

    monkeypatch.setattr(loggers, "_log_wandb", fail)
    progress.set_quiet(quiet)
    try:
        log_cell(LoggerConfig("wandb"), cell, SETTINGS, "sweep")
    finally:
        progress.set_quiet(False)
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("logger wandb failed (RuntimeError: no network: ")
    assert line.endswith(f"; the result is in {cell.folder}")
    assert "\x1b" not in line
    assert len(line) < 300 + len(str(cell.folder))


def test_a_logger_that_is_not_installed_costs_one_line(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    log_cell(LoggerConfig("wandb"), cell, SETTINGS, "sweep")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ModuleNotFoundError" in line


def test_wandb_offline_writes_a_run(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    try:
        log_cell(LoggerConfig("wandb"), cell, SETTINGS, "sweep-7")
    finally:
        wandb.teardown()
    assert "logger wandb failed" not in capsys.readouterr().err
    (run,) = (tmp_path / "runs" / "wandb").glob("offline-run-*")
    (record,) = run.glob("*.wandb")
    data = record.read_bytes()
    for told in (b"sweep-7", b"bm25-tiny", b"tdabench", b"recall@10/high"):
        assert told in data
    files = [path for path in run.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in path.read_bytes() for path in files)
