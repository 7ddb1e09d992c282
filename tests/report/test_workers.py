"""Parts of a report made by several processes: the same bytes, and the same refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.engines.processes import Processes
from bench.engines.serial import Serial
from bench.report import workers
from bench.report.write import report
from bench.results.schema import RETRIEVALS
from tests.fixtures.cells import write_cell

pytestmark = pytest.mark.slow  # workers load the libraries


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two boards of two methods."""
    for model in ("tiny", "small"):
        for method, strength in (("bm25", 0.7), ("trackstar", 0.4)):
            write_cell(tmp_path / "runs", method, model=model, strength=strength, tail_patch=0.01)
    return tmp_path / "runs"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_several_processes_write_the_same_bytes(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(results, tmp_path / "out", quiet=True, figures=True)
    alone = contents(tmp_path / "out")
    assert {"viewer/data/g0-queries.js", "viewer/data/g1-queries.js", "index.html"} <= {*alone}
    assert any(name.startswith("figures/") for name in alone)
    monkeypatch.setattr(workers, "_WORTH_SECONDS", 0.0)
    report(results, tmp_path / "out", quiet=True, figures=True)
    assert contents(tmp_path / "out") == alone


def test_a_damaged_ranking_is_told_and_leaves_the_old_report(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(results, tmp_path / "out", quiet=True)
    before = contents(tmp_path / "out")
    path = next(results.rglob(RETRIEVALS))
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:3], "{", *lines[4:]]), encoding="utf-8")
    monkeypatch.setattr(workers, "_WORTH_SECONDS", 0.0)
    with pytest.raises(UserError, match=f"{path.name}:4"):
        report(results, tmp_path / "out", quiet=True)
    assert contents(tmp_path / "out") == before
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_workers_are_for_much_work() -> None:
    assert isinstance(workers.engine_for(0.5), Serial)
    assert isinstance(workers.engine_for(60.0), Processes)
