"""The notebooks of docs/ run from top to bottom, and show what they are committed with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.fixtures.notebooks import NOTEBOOKS, code_cells, kinds, outputs_of, read, source


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["read_a_leaderboard", "trace_your_model"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_what_it_was_committed_with(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TDABENCH_CACHE", str(tmp_path / "cache"))
    notebook = read(path)
    committed = [kinds(cell["outputs"]) for cell in code_cells(notebook)]
    assert [kinds(outputs) for outputs in outputs_of(notebook)] == committed
    shown = {kind for outputs in committed for one in outputs for kind in one}
    assert "text/html" in shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_file_is_a_small_clean_notebook(path: Path) -> None:
    notebook = read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert path.stat().st_size < 200_000
    text = path.read_text(encoding="utf-8")
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    assert not re.search(r"/tmp|/home|/root|Traceback", text)
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_tracing_takes_ten_lines() -> None:
    (path,) = (path for path in NOTEBOOKS if path.stem == "trace_your_model")
    cell = next(one for one in code_cells(read(path)) if "tdabench.attribute(" in source(one))
    assert len(source(cell).splitlines()) <= 10
