"""``tdabench run`` called as a command, and what it left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cli import main

SMALL = (
    "task.n_passages=400", "task.n_facts=40", "model.hidden_size=16", "model.num_layers=2",
    "model.num_heads=2", "model.epochs=2", "model.vocab_size=400", "model.projection_dim=4",
    "metric.tail_patch.n_queries=8", "metric.bootstrap_samples=50",
)  # fmt: skip


def run(results: Path, cache: Path, *words: str, small: bool = True) -> int:
    places = (f"results_dir={results}", f"cache_dir={cache}", f"hydra.sweep.dir={results}/.jobs")
    return main(["run", *(SMALL if small else ()), *words, *places])


def cells(results: Path) -> dict[str, Path]:
    """Method → folder of its finished cell."""
    return {path.parents[1].name: path.parent for path in results.glob("*/*/*/*/result.json")}


def ranked(folder: Path) -> list[list[str]]:
    lines = (folder / "retrievals.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["proponent_ids"] for line in lines]


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one error line; nothing that looks like a traceback may be beside it."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert "Error executing job" not in captured.err
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    return line
