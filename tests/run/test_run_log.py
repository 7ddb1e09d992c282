"""What a run leaves beside its cells: one ``run.log``, and no empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli.main import main
from tests.fixtures.runs import SMALL


def run(folder: Path, *words: str) -> int:
    places = (f"results_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}")
    return main(["run", *SMALL, "metric=attribution", *places, *words])


def left(folder: Path) -> list[str]:
    """Names of the files that are no cell's; no folder may be empty."""
    paths = list((folder / "runs").rglob("*"))
    assert [path for path in paths if path.is_dir() and not list(path.iterdir())] == []
    return sorted(path.name for path in paths if path.is_file() and ".jobs" in path.parts)


def the_log(folder: Path) -> str:
    (file,) = (folder / "runs").glob(".jobs/*/run.log")
    return file.read_text(encoding="utf-8")


def test_one_log_a_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "method=random", "quiet=true") == 0
    assert left(tmp_path) == ["run.log"]
    assert capsys.readouterr().err == ""
    assert "tdabench run task.n_passages=400" in the_log(tmp_path)
    assert "done: " in the_log(tmp_path)


def test_one_log_a_sweep_with_its_errors(tmp_path: Path) -> None:
    assert run(tmp_path, "-m", "method=random,length", "top_k=5,10") == 1
    assert left(tmp_path) == ["multirun.yaml", "run.log"]
    log = the_log(tmp_path)
    assert (log.count("done: "), log.count("error: ")) == (2, 2)


def test_a_wrong_value_leaves_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "method=random", "top_k=0") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_the_code_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("bench.run.cell.run_cell", fail)
    assert run(tmp_path, "method=random") == 1
    assert "Traceback" in the_log(tmp_path)
    assert "ZeroDivisionError: a fault" in the_log(tmp_path)
