"""Leaderboards kept with their cells: made again to the digit, and every change named."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.core.errors import UserError
from bench.report.recorded import CELLS, record_cells, recorded_boards, verify_recorded
from bench.results.rankings import DEPTH, FIRST_PASSAGES
from bench.results.schema import PER_QUERY, RESULT, RETRIEVALS
from tests.fixtures.cells import edit_result, edit_table, write_cell
from tests.fixtures.sources import ROOT


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with one board of three methods, and with the cells that it was made of."""
    runs = tmp_path / "runs"
    for seed, (method, strength) in enumerate((("bm25", 0.6), ("dense", 0.3), ("trackstar", 0.1))):
        write_cell(runs, method, strength=strength, seed=seed, tail_patch=0.01)
    words = ["report", str(runs), "--out", str(tmp_path / "kept" / "board")]
    assert main([*words, "--cells", "--quiet", "--no-viewer", "--no-figures"]) == 0
    return tmp_path / "kept"


def problems(kept: Path) -> list[str]:
    return list(map(str, verify_recorded(kept)))


def test_a_board_follows_from_its_cells(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problems(kept) == []
    assert main(["verify", str(kept)]) == 0
    assert "3 cells" in capsys.readouterr().out
    assert main(["verify", str(kept / "board")]) == 0, "one board is named as well as all"


@pytest.mark.slow
@pytest.mark.parametrize("board", recorded_boards(ROOT / "results"), ids=lambda path: path.name)
def test_the_boards_of_this_repository_follow_from_their_cells(board: Path) -> None:
    assert list(map(str, verify_recorded(board))) == []


def test_lists_quote_the_corpus_and_are_left_out(kept: Path) -> None:
    assert len(list((kept / "board" / CELLS).rglob(RESULT))) == 3
    assert list(kept.rglob(RETRIEVALS)) == []


def test_recording_again_replaces_what_was_there(kept: Path, tmp_path: Path) -> None:
    write_cell(tmp_path / "runs", "random", strength=0, seed=7, tail_patch=0)
    assert record_cells(tmp_path / "runs", kept / "board") == 4
    assert any("leaderboard.csv" in line for line in problems(kept)), "the table has three rows"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("leaderboard.csv", lambda text: text.replace(",40,", ",41,", 1), "csv, line 2"),
        ("leaderboard.md", lambda text: text.replace("<sup>a", "<sup>b", 1), "md, line"),
        ("significance.csv", lambda text: text.rsplit("\n", 2)[0] + "\n", "significance.csv"),
    ],
)
def test_a_changed_table_is_named(
    kept: Path, name: str, change: Callable[[str], str], said: str
) -> None:
    path = kept / "board" / name
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text
    (line,) = problems(kept)
    assert said in line


def test_rounding_in_the_last_digits_is_none(kept: Path) -> None:
    path = kept / "board" / "leaderboard.csv"
    header, row, *rest = path.read_text().splitlines()
    column = header.split(",").index("mrr")
    values = row.split(",")
    values[column] = repr(float(values[column]) * (1 + 1e-13))
    path.write_text("\n".join([header, ",".join(values), *rest]) + "\n")
    assert problems(kept) == []


def test_a_changed_value_of_a_query_is_named(kept: Path) -> None:
    (cell,) = (kept / "board" / CELLS).glob("*/*/trackstar/*")

    def raise_first(columns: dict) -> None:
        columns["mrr"][0] += 0.25

    edit_table(cell, raise_first)
    lines = problems(kept)
    assert all(line.startswith("board/cells/factworld/tiny/trackstar/") for line in lines)
    assert any(": mrr: stored" in line for line in lines)


def test_a_changed_mean_is_named(kept: Path) -> None:
    (cell,) = (kept / "board" / CELLS).glob("*/*/bm25/*")
    edit_result(cell, lambda record: record["metrics"]["mrr"].update(value=0.999))
    assert any("bm25" in line and "mrr: stored 0.999" in line for line in problems(kept))


def test_a_board_without_cells_is_a_problem(kept: Path) -> None:
    (kept / "old").mkdir()
    (kept / "old" / "leaderboard.csv").write_text("task,model\n")
    assert problems(kept) == ["old: leaderboard.csv: has no cells/ beside it"]


def test_cells_without_their_board_are_a_problem(kept: Path) -> None:
    (kept / "board" / "leaderboard.csv").unlink()
    assert problems(kept) == ["board: cells: have no leaderboard.csv beside them"]


def test_an_older_record_stays_until_the_new_one_is_whole(kept: Path, tmp_path: Path) -> None:
    (cell,) = (tmp_path / "runs").glob("*/*/trackstar/*")
    (cell / PER_QUERY).unlink()
    with pytest.raises((UserError, OSError)):
        record_cells(tmp_path / "runs", kept / "board")
    assert problems(kept) == []


def test_results_are_the_same_json(kept: Path, tmp_path: Path) -> None:
    for copy in (kept / "board" / CELLS).rglob(RESULT):
        original = tmp_path / "runs" / copy.relative_to(kept / "board" / CELLS)
        assert json.loads(copy.read_text()) == {**json.loads(original.read_text()), "slices": {}}


def test_agreement_of_seeds_is_told_from_the_first_passages(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_cell(tmp_path / "runs", "trackstar", config={"seed": seed}, seed=seed)
    board = tmp_path / "kept" / "board"
    words = ["report", str(tmp_path / "runs"), "--out", str(board), "--cells", "--quiet"]
    assert main([*words, "--no-viewer", "--no-figures"]) == 0
    assert len((board / "seeds.csv").read_text().splitlines()) > 1
    assert problems(board.parent) == []
    first = next((board / CELLS).rglob(FIRST_PASSAGES))
    kept = [json.loads(line) for line in gzip.decompress(first.read_bytes()).splitlines()]
    assert all(len(one["passage_ids"]) == DEPTH for one in kept)
    for one in kept:  # of a single query, two seeds may have had nothing in common before
        one["passage_ids"] = [f"other{i}" for i in range(DEPTH)]
    first.write_text("".join(json.dumps(one) + "\n" for one in kept))
    assert any("seeds.csv" in line for line in problems(board.parent))
