"""The leaderboard in all its formats, from cells on disk."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.report.write import Written, report
from bench.results.schema import PER_QUERY, read_cells
from tests.fixtures.cells import (
    METRICS,
    N_PASSAGES,
    edit_result,
    edit_table,
    write_cell,
)
from tests.fixtures.figure_cells import figure_cell
from tests.fixtures.reports import Page, boards_of, three_cells


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return three_cells(tmp_path)


# ------------------------------------------------------------------ marks


def test_the_best_is_marked_and_a_bound_is_not_the_best(results: Path) -> None:
    rows = {row.label: row for row in boards_of(results)[0].rows}
    assert (rows["gold"].best, rows["gold"].letters) == (set(), {})
    assert "mrr" in rows["bm25"].best
    assert "mrr" not in rows["trackstar"].best
    assert "tail_patch" in rows["trackstar"].best
    assert rows["bm25"].letters["mrr"] == "a"
    assert rows["trackstar"].letters["mrr"] == "b"
    # The best of each column has the letter a, whatever the order of the rows.
    assert rows["trackstar"].letters["tail_patch"] == "a"
    assert rows["bm25"].letters["tail_patch"] == "b"


def test_methods_alike_share_a_letter_and_need_the_queries(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25", strength=0.6)
    other = write_cell(tmp_path, "dense", strength=0.6)
    (board,) = boards_of(tmp_path)
    assert [row.letters["mrr"] for row in board.rows] == ["a", "a"]
    assert {pair.metric for pair in board.pairs} == set(METRICS)
    (other / PER_QUERY).unlink()
    (board,) = boards_of(tmp_path)
    assert [row.letters for row in board.rows] == [{}, {}]
    assert board.pairs == []
    assert sum("mrr" in row.best for row in board.rows) == 1


def test_rows_measured_unlike_are_tested_among_their_like_alone(tmp_path: Path) -> None:
    for top, methods in ((10, ("bm25", "dense", "trackstar")), (3, ("bm25", "dense"))):
        for method in methods:
            figure_cell(tmp_path, method, metric={"top": top}, tail_patch=len(method) / 100)
    (board,) = boards_of(tmp_path)
    tops = {row.label: row.cell.config["metric"]["tail_patch"]["top"] for row in board.rows}
    pairs = [pair for pair in board.pairs if pair.metric == "tail_patch"]
    assert len(pairs) == 3 + 1
    assert all(tops[pair.a] == tops[pair.b] for pair in pairs)
    small = [row for row in board.rows if tops[row.label] == 3]
    assert [("tail_patch" in row.letters, "tail_patch" in row.best) for row in small] == [
        (False, False)
    ] * 2, "letters of two groups in one column would say what nobody tested"


def test_an_imported_ranking_of_no_model_stands_beside_the_others(tmp_path: Path) -> None:
    def of_no_model(result: dict[str, Any]) -> None:
        result["imported"] = True
        result["model"] = {"name": "imported", "n_params": None, "sha256": None}

    edit_result(write_cell(tmp_path, "pyserini", model="imported", strength=0.9), of_no_model)
    assert [board.model for board in boards_of(tmp_path)] == ["imported"], "no other board yet"
    for model in ("tiny", "small"):
        write_cell(tmp_path, "bm25", model=model)
    write_cell(tmp_path, "bm25", task_sha256="cd" * 32, model="base")
    boards = {board.model: board for board in boards_of(tmp_path)}
    assert set(boards) == {"tiny", "small", "base"}
    for model in ("tiny", "small"):
        assert [row.label for row in boards[model].rows] == ["pyserini (imported)", "bm25"]
        assert {pair.a for pair in boards[model].pairs} == {"pyserini (imported)"}
    assert [row.label for row in boards["base"].rows] == ["bm25"], "another content of the task"


def test_a_column_that_holds_no_numbers_is_not_tested(tmp_path: Path) -> None:
    for method in ("bm25", "dense"):
        folder = write_cell(tmp_path, method)
    edit_table(folder, lambda columns: columns.update(mrr=["x"] * 40))
    (board,) = boards_of(tmp_path)
    assert {pair.metric for pair in board.pairs} == set(METRICS) - {"mrr"}


def test_a_pair_is_tested_on_the_queries_that_were_patched(results: Path) -> None:
    pairs = {pair.metric: pair for pair in boards_of(results)[0].pairs}
    assert (pairs["mrr"].a, pairs["mrr"].b, pairs["mrr"].difference.n) == ("bm25", "trackstar", 40)
    assert (pairs["tail_patch"].a, pairs["tail_patch"].difference.n) == ("trackstar", 30)
    assert all(pair.p == pair.p_holm for pair in pairs.values()), "one pair: nothing to correct"


# ------------------------------------------------------------------ files


@pytest.fixture
def paths(results: Path) -> Written:
    return report(results, quiet=True)


# Results hold tail-patch as a difference of probabilities, and reports show percentage points.
SHOWN = {"tail_patch": 100.0}


def shown(metric: str, *values: float) -> list[float]:
    """Stored values in the unit of the report."""
    return [SHOWN.get(metric, 1.0) * value for value in values]


def test_csv_has_full_precision_and_a_line_per_cell(results: Path, paths: Written) -> None:
    with open(paths.folder / "leaderboard.csv", newline="", encoding="utf-8") as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"gold", "bm25", "trackstar"}
    for cell in read_cells(results):
        row = rows[cell.result.method["name"]]
        for name, estimate in cell.result.metrics.items():
            numbers = [float(row[name + part]) for part in ("", "_low", "_high")]
            assert numbers == shown(name, estimate.value, *estimate.ci95)
            assert int(row[f"{name}_n"]) == estimate.n
        assert int(row["n_passages"]) == N_PASSAGES
        assert float(row["seconds"]) == 1.75
        assert float(row["peak_mib"]) == 402.5


def test_what_was_resampled_stands_before_an_interval(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "bm25", strength=0.9)
    intervals = {
        "queries": {"ci95": [0.2, 0.3], "units": 40}, "relation": {"ci95": [0.1, 0.4], "units": 3}
    }  # fmt: skip
    mrr = {"value": 0.25, "ci95": [0.1, 0.4], "n": 40, "over": "relation", "intervals": intervals}
    lds = {"value": 0.5, "ci95": [0.3, 0.7], "n": 40, "over": "relation_answer and subsets"}
    edit_result(folder, lambda record: record["metrics"].update(mrr=mrr, lds=lds))
    paths = report(tmp_path, quiet=True)
    text = (paths.folder / "leaderboard.md").read_text(encoding="utf-8")
    assert "0.250** r\\[0.100, 0.400\\]" in text
    assert "+0.500** ras\\[+0.300, +0.700\\]" in text
    (note,) = [line for line in text.splitlines() if line.startswith("Means of ")]
    told = "Intervals: over queries; r, over relations; ra, over relations × answers; s, over"
    assert told in note
    assert "r[0.100, 0.400]" in paths.html.read_text(encoding="utf-8")
    with open(paths.folder / "leaderboard.csv", newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["mrr_over"], row["hit@1_over"]) == ("relation", "queries")


def test_diagnostics_of_the_step_and_repeated_texts_are_told(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "bm25")

    def change(record: dict) -> None:
        for name, value in (("tail_patch_clipped", 0.997), ("tail_patch_step", 5e-4)):
            record["metrics"][name] = {"value": value, "ci95": [value, value], "n": 40}
        record["task"]["counts"]["repeated_texts"] = 1234

    edit_result(folder, change)
    lines = (report(tmp_path, quiet=True).folder / "leaderboard.md").read_text().splitlines()
    head, row = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith(("| method", "| bm25"))
    )
    shown = dict(zip(head, row, strict=True))
    assert (shown["clipped"], shown["step"]) == ("0.997", "0.0005")
    assert shown["passages"] == "500 (1,234 repeated)"
    assert "clipped" not in (report(three_cells(tmp_path / "other"), quiet=True).folder /
                             "leaderboard.md").read_text()  # fmt: skip


def test_a_row_says_how_many_were_asked_scored_and_listed(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "bm25", n_queries=40, top_k=25)
    edit_result(folder, lambda record: record["task"].update(n_queries=50))
    paths = report(tmp_path, quiet=True)
    with open(paths.folder / "leaderboard.csv", newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["n_queries"], row["n_scored"], row["top_k"]) == ("50", "40", "25")
    shown = Page(paths.html).text
    assert {"40/50", "25"} <= set(shown)


def test_significance_csv_has_a_line_per_pair_and_metric(results: Path, paths: Written) -> None:
    with open(paths.folder / "significance.csv", newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    (board,) = boards_of(results)
    assert len(lines) == len(board.pairs) == len(board.metrics)
    for line, pair in zip(lines, board.pairs, strict=True):
        assert (line["task"], line["model"], line["metric"]) == ("factworld", "tiny", pair.metric)
        assert (line["method_a"], line["method_b"]) == (pair.a, pair.b)
        numbers = [float(line[f"difference{part}"]) for part in ("", "_low", "_high")]
        assert numbers == shown(pair.metric, pair.difference.value, *pair.difference.ci95)
        assert (float(line["p"]), float(line["p_holm"])) == (pair.p, pair.p_holm)
        assert int(line["n"]) == pair.difference.n


def test_one_method_has_no_pairs(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25")
    paths = report(tmp_path, quiet=True)
    assert (paths.folder / "significance.csv").read_text().startswith("task,model,metric,method_a,")
    assert len((paths.folder / "significance.csv").read_text().splitlines()) == 1
    assert "Pairs" not in (paths.folder / "leaderboard.md").read_text(encoding="utf-8")
    assert not [tag for tag in Page(paths.html).all("details") if "pairs" in (tag["class"] or "")]


def test_letters_and_pairs_are_in_every_format(
    results: Path, paths: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    value = f"{boards_of(results)[0].rows[1].result.metrics['mrr'].value:.3f}"
    markdown = (paths.folder / "leaderboard.md").read_text(encoding="utf-8")
    assert f"**{value}**<sup>a</sup>" in markdown
    assert "## Pairs: factworld × tiny" in markdown
    assert re.search(r"\| MRR \| bm25 \| trackstar \| \*\*\+0\.\d{3}\*\* \|", markdown)
    assert f"$\\mathbf{{{value}}}^{{\\mathrm{{a}}}}$" in (
        paths.folder / "leaderboard.tex"
    ).read_text(encoding="utf-8")
    page = Page(paths.html)
    assert [t for t in page.all("span") if t.get("class") == "letters"]
    assert len([t for t in page.all("details") if "pairs" in (t["class"] or "")]) == 6
    assert "a − b" in page.text
    report(results)
    assert f"a *{value}" in capsys.readouterr().out
    for text in (
        markdown,
        (paths.folder / "leaderboard.tex").read_text(encoding="utf-8"),
        " ".join(page.text),
    ):
        assert "share no letter" in text


def test_markdown_shows_value_interval_and_tail_patch_in_points(
    results: Path, paths: Written
) -> None:
    lines = (paths.folder / "leaderboard.md").read_text(encoding="utf-8").splitlines()
    cell = next(c for c in read_cells(results) if c.result.method["name"] == "trackstar")
    patch = cell.result.metrics["tail_patch"]
    line = next(line for line in lines if line.startswith("| trackstar"))
    assert f"**{100 * patch.value:+.3f}**<sup>a</sup> \\[{100 * patch.ci95[0]:+.3f}, " in line
    assert "| 500 | 40/40 | 20 | – | 256 | 1.75 | – | 402 |" in line


def test_latex_is_a_table_per_board(paths: Written) -> None:
    text = (paths.folder / "leaderboard.tex").read_text(encoding="utf-8")
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 1
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len(rows) == 4
    assert len({line.count(" & ") for line in rows}) == 1


def test_terminal_table_fits_in_120_columns(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(results)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    assert any("trackstar" in line for line in lines)
    assert any("[" in line and "40/40" in line for line in lines)


def test_report_goes_where_it_is_told_and_is_the_same_twice(results: Path, tmp_path: Path) -> None:
    first = report(results, tmp_path / "a", quiet=True)
    second = report(results, tmp_path / "b", quiet=True)
    assert first.html.read_bytes() == second.html.read_bytes()
    assert (first.folder / "significance.csv").read_bytes() == (
        second.folder / "significance.csv"
    ).read_bytes()
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        "index.html", "leaderboard.md", "leaderboard.csv", "leaderboard.tex", "significance.csv",
        "meta_evaluation.csv", "seeds.csv", "viewer",
    }  # fmt: skip


def test_cells_a_folder_further_down_are_pointed_to(tmp_path: Path) -> None:
    """What a newcomer does after ``make bench``, which writes below runs/quickstart."""
    write_cell(tmp_path / "quickstart", "bm25")
    with pytest.raises(UserError, match=r"there are some in .*quickstart$"):
        report(tmp_path)


def test_report_without_cells_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished cell"):
        report(tmp_path, quiet=True)


def test_report_of_a_damaged_table_names_the_file(results: Path) -> None:
    next(results.glob(f"*/*/bm25/*/{PER_QUERY}")).write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match=r"bm25.*per_query.parquet"):
        report(results, quiet=True)


def test_result_json_is_left_alone(results: Path) -> None:
    before = {p: p.read_bytes() for p in results.glob("*/*/*/*/*")}
    report(results, quiet=True)
    assert {p: p.read_bytes() for p in results.glob("*/*/*/*/*")} == before
    assert all(json.loads(p.read_text()) for p in before if p.suffix == ".json")


def test_every_format_says_over_how_many_queries(paths: Written) -> None:
    for path in (paths.folder / "leaderboard.md", paths.folder / "leaderboard.tex", paths.html):
        text = path.read_text(encoding="utf-8")
        assert re.search(r"Means of MRR.* over 40 queries", text), path.name
