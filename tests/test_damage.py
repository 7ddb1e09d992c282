"""Nothing damaged is used: each file of each kind that a cache keeps, damaged in several ways."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.fixtures.damage import Kept, damages, kept, outcome
from tests.fixtures.helpers import files_below
from tests.fixtures.runs import cells, error_line, ranked, run

KINDS = (
    "task", "trained model", "stopped training", "retrained outputs", "estimated moments",
    "index of words", "embeddings", "sparse embeddings", "EK-FAC factors", "gradient shards",
    "tail-patch results", "judgements",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Kept]]:
    """All kinds of two runs, of other passages and other models."""
    folders = [tmp_path_factory.mktemp(name) for name in ("ours", "theirs")]
    return [kept(folder, version) for version, folder in enumerate(folders)]


@pytest.mark.parametrize("kind", KINDS)
def test_no_damaged_file_is_used(runs: list[dict[str, Kept]], kind: str) -> None:
    ours, theirs = (run[kind] for run in runs)
    expected = ours.read()
    assert expected != theirs.read() or kind in ("tail-patch results", "judgements")
    found = {
        name: outcome(ours, expected, damage)
        for name, damage in damages(ours.folder, theirs.folder, 2, random.Random(0))
    }
    assert {n: end for n, end in found.items() if end not in ("refused", "as written")} == {}
    assert ours.read() == expected, "and what was damaged is whole again"


def test_every_kind_is_tried(runs: list[dict[str, Kept]]) -> None:
    assert tuple(runs[0]) == KINDS


# ------------------------------------------------------------------ through the command


def test_a_changed_corpus_is_made_again_before_anything_reads_it(tmp_path: Path, capsys) -> None:
    """Fault: one letter in a third of the lines was used, and stayed in the index of words."""
    words = ("task=factworld", "model=micro", "method=bm25", "metric.tail_patch.enabled=false")
    assert run(tmp_path / "runs", tmp_path / "cache", *words) == 0
    expected = ranked(cells(tmp_path / "runs")["bm25"])
    (path,) = (tmp_path / "cache").rglob("passages.jsonl")
    shutil.rmtree(tmp_path / "cache" / "index")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(_spoilt(line) if i % 3 == 0 else line for i, line in enumerate(lines)))
    capsys.readouterr()
    assert run(tmp_path / "again", tmp_path / "cache", *words) == 0
    assert "damaged task (passages.jsonl holds other bytes than were written)" in (
        capsys.readouterr().err
    )
    assert ranked(cells(tmp_path / "again")["bm25"]) == expected
    assert path.read_text() == "".join(lines)


def _spoilt(line: str) -> str:
    place = len(line) // 2
    return line[:place] + ("x" if line[place] != "x" else "y") + line[place + 1 :]


def test_a_disk_that_is_full_while_a_model_is_saved(tmp_path: Path, capsys) -> None:
    words = ("task=factworld", "model=micro", "metric.tail_patch.enabled=false")
    assert run(tmp_path / "runs", tmp_path / "cache", "method=random", *words) == 0
    capsys.readouterr()
    with files_below(40_000):
        assert run(tmp_path / "runs", tmp_path / "cache", "method=grad_cos", *words) == 2
    message = error_line(capsys)
    assert f"{tmp_path / 'cache' / 'models'}" in message
    assert "the file is larger than the disk or the limit of this process allows" in message
    assert list(cells(tmp_path / "runs")) == ["random"], "what was finished stays"
    assert run(tmp_path / "runs", tmp_path / "cache", "method=grad_cos", *words) == 0
