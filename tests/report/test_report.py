"""The leaderboard in all its formats, from cells on disk."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.report.write import Written, report
from bench.results.schema import PER_QUERY, read_cells
from metrics.stats.correlation import rank_correlation
from tests.fixtures.cells import (
    METRICS,
    N_PASSAGES,
    edit_result,
    edit_step,
    edit_table,
    write_cell,
)
from tests.fixtures.reports import Page, boards_of, labels, three_cells


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return three_cells(tmp_path)


# ------------------------------------------------------------------ rows


def test_rows_come_by_mrr_then_name(tmp_path: Path) -> None:
    for method, strength in (("grad_dot", 0.05), ("dense", 0.6), ("bm25", 2.0)):
        write_cell(tmp_path, method, strength=strength)
    for method in ("trackstar", "grad_cos"):  # a tie: both find nothing
        write_cell(tmp_path, method, strength=0)
    assert labels(boards_of(tmp_path)[0]) == ["bm25", "dense", "grad_dot", "grad_cos", "trackstar"]


def test_settings_are_named_only_where_cells_differ(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25", config={"b": 0.4, "nested": {"x": 1}})
    write_cell(tmp_path, "bm25", config={"b": 0.75, "nested": {"x": 1}})
    write_cell(tmp_path, "dense", config={"b": 1})
    assert sorted(labels(boards_of(tmp_path)[0])) == ["bm25 (b=0.4)", "bm25 (b=0.75)", "dense"]


def test_how_it_was_measured_tells_cells_apart(tmp_path: Path) -> None:
    for number, top in enumerate((1, 10)):
        folder = write_cell(tmp_path, "bm25")
        edit_step(folder, top=top)
        folder.rename(folder.with_name(f"{number}" * 16))
    write_cell(tmp_path, "dense")
    expected = ["bm25 (metric.tail_patch.top=1)", "bm25 (metric.tail_patch.top=10)", "dense"]
    assert sorted(labels(boards_of(tmp_path)[0])) == expected
    (folder.with_name("1" * 16) / "config.yaml").write_text("{")  # verify tells of it
    assert len(set(labels(boards_of(tmp_path)[0]))) == 3


def test_seeds_are_rows_of_their_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = write_cell(tmp_path, "bm25", seed=seed)
        # Another seed trains another model; saying so twice would be noise.
        edit_result(folder, lambda r, s=seed: r["model"].update(sha256=f"{s}" * 64))
    assert sorted(labels(boards_of(tmp_path)[0])) == ["bm25 (seed=0)", "bm25 (seed=1)"]


def measured(folder: Path, **tail_patch: object) -> None:
    edit_step(folder, enabled=True, **tail_patch)


def test_values_measured_in_another_way_are_told_apart_and_not_compared(tmp_path: Path) -> None:
    """Fault: one step on one passage was bold beside means over ten, with letters."""
    for method in ("bm25", "dense", "trackstar"):
        patch = {"bm25": 0.5, "dense": 0.01, "trackstar": 0.1}[method]
        measured(write_cell(tmp_path, method, tail_patch=patch), top=1 if method == "bm25" else 10)
    (board,) = boards_of(tmp_path)
    of = {row.method: row for row in board.rows}
    assert of["bm25"].label == "bm25 (metric.tail_patch.top=1)"
    assert of["dense"].label == "dense (metric.tail_patch.top=10)"
    assert "tail_patch" not in of["bm25"].best | of["bm25"].letters.keys()
    assert "tail_patch" in of["trackstar"].best
    assert {(p.a, p.b) for p in board.pairs if p.metric == "tail_patch"} == {
        (of["trackstar"].label, of["dense"].label)
    }
    assert "mrr" in of["bm25"].letters


def test_steps_on_other_models_are_not_compared(tmp_path: Path) -> None:
    for method, sha in (("bm25", "a"), ("dense", "b"), ("trackstar", "b")):
        folder = write_cell(tmp_path, method, tail_patch=0.5 if method == "bm25" else 0.1)
        measured(folder, top=10)
        edit_result(folder, lambda record, sha=sha: record["model"].update(sha256=sha * 64))
    of = {row.method: row for row in boards_of(tmp_path)[0].rows}
    assert of["bm25"].label == "bm25 (model=aaaaaaaa)"
    assert "tail_patch" not in of["bm25"].letters
    assert "mrr" in of["bm25"].letters


def test_steps_that_were_made_otherwise_are_not_compared(tmp_path: Path) -> None:
    """Fault: all were asked for the saved moments, and one had Adam's where others had Adafactor's.

    A rate that was left to the training is the rate that the training had.
    """
    steps = {
        "bm25": {"optimizer": "adam", "second_moments": "aa", "learning_rate": 0.1, "clip": 1.0},
        "dense": {"optimizer": "adafactor", "second_moments": "bb", "learning_rate": 0.1,
                  "clip": 1.0},
        "trackstar": {"optimizer": "adafactor", "second_moments": "bb", "learning_rate": 0.1,
                      "clip": 1.0},
    }  # fmt: skip
    for method, step in steps.items():
        folder = write_cell(tmp_path, method, tail_patch=0.5 if method == "bm25" else 0.1)
        rate = "null" if method == "dense" else 0.1
        measured(folder, top=10, optimizer="saved", learning_rate=rate)
        facts = {"tail_patch_step": step}
        edit_result(folder, lambda record, f=facts: record["method"].update(facts=f))
    of = {row.method: row for row in boards_of(tmp_path)[0].rows}
    assert "optimizer=adam," in of["bm25"].label
    assert "optimizer=adafactor" in of["dense"].label
    assert "learning_rate" not in of["dense"].label
    assert "tail_patch" not in of["bm25"].letters
    assert of["dense"].letters["tail_patch"]
    assert of["trackstar"].letters["tail_patch"]


def test_controls_are_tested_where_they_are_no_bounds(tmp_path: Path) -> None:
    """Of MRR, gold is a bound; that a method foresees more than chance is to be shown."""
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(40, 12))
    for method, noise in (("bm25", 0.3), ("random", 9.0), ("gold", 0.1)):
        folder = write_cell(tmp_path, method)
        predicted = measured + noise * rng.normal(size=measured.shape)
        scores = [rank_correlation(*pair) for pair in zip(predicted, measured, strict=True)]
        lists = {"lds_predicted": predicted.tolist(), "lds_measured": measured.tolist()}
        edit_table(folder, lambda old, s=scores, own=lists: old.update({"lds": s, **own}))
        shown = {"value": float(np.mean(scores)), "ci95": [0.0, 1.0], "n": 40}
        edit_result(folder, lambda record, v=shown: record["metrics"].update(lds=v))
    (board,) = boards_of(tmp_path)
    of = {row.method: row for row in board.rows}
    assert len({row.letters["lds"] for row in of.values()}) == 3
    pairs = [pair for pair in board.pairs if pair.metric == "lds"]
    assert {pair.difference.over for pair in pairs} == {"queries and subsets"}
    assert len(pairs) == 3
    assert not any("mrr" in row.letters for row in of.values()), "one method alone is left"
    assert "lds" in of["bm25"].best, "a control is never the best"
    assert "lds" not in of["gold"].best


def test_judges_with_other_thresholds_are_boards_of_their_own(tmp_path: Path) -> None:
    for method, threshold in (("bm25", 0.5), ("dense", 0.9)):
        named = {"name": "nli", "identity": "ab" * 32, "threshold": threshold}
        folder = write_cell(tmp_path, method)
        edit_result(folder, lambda record, named=named: record["task"].update(judge=named))
    tasks = [board.task for board in boards_of(tmp_path)]
    assert tasks == [
        "factworld judged by nli abababab",
        "factworld judged by nli abababab above 0.9",
    ]


def test_opponents_are_best_where_they_are_lowest(tmp_path: Path) -> None:
    """Fault: bold stood where they speak most for the target."""
    for method, value in (("bm25", -0.2), ("dense", 0.1)):
        folder = write_cell(tmp_path, method)
        shown = {"value": value, "ci95": [value, value], "n": 40}
        edit_result(folder, lambda record, v=shown: record["metrics"].update(opponent_tail_patch=v))
    best = {row.method for row in boards_of(tmp_path)[0].rows if "opponent_tail_patch" in row.best}
    assert best == {"bm25"}


@pytest.mark.parametrize(
    ("other", "expected"), [("ef" * 32, {"bm25 (b=1, model=cdcdcdcd)"}), (None, {"bm25 (b=1)"})]
)
def test_models_are_told_apart_where_both_are_known(
    tmp_path: Path, other: str | None, expected: set[str]
) -> None:
    write_cell(tmp_path, "bm25", config={"b": 1})
    folder = write_cell(tmp_path, "bm25", config={"b": 2})
    edit_result(folder, lambda record: record["model"].update(sha256=other))
    assert expected < set(labels(boards_of(tmp_path)[0]))


def test_rows_that_rest_on_estimated_moments_say_so(tmp_path: Path) -> None:
    """Those that divide by V, or step with it; the others of the same model do not."""

    def edited(folder: Path, moments: str, optimizer: str) -> None:
        record = json.loads((folder / "result.json").read_text())
        record["model"]["training"] = {"second_moments": moments}
        (folder / "result.json").write_text(json.dumps(record))
        edit_step(folder, optimizer=optimizer)

    corrected, plain = {"optimizer_correction": True}, {"optimizer_correction": False}
    edited(write_cell(tmp_path, "a", config=corrected), "estimated", "sgd")
    edited(write_cell(tmp_path, "b", config=plain), "estimated", "sgd")
    edited(write_cell(tmp_path, "c", config=plain, tail_patch=0.1), "estimated", "saved")
    edited(write_cell(tmp_path, "d", config=plain, tail_patch=0.1), "estimated", "sgd")
    edited(write_cell(tmp_path, "e", config={"first": corrected}), "estimated", "sgd")
    edited(write_cell(tmp_path, "f", config=corrected, tail_patch=0.1), "saved", "saved")
    (board,) = boards_of(tmp_path)
    marked = {row.method for row in board.rows if "moments estimated" in row.label}
    assert marked == {"a", "c", "e"}


def test_rows_of_a_part_of_the_matrices_say_how_much(tmp_path: Path) -> None:
    def edited(name: str, facts: Any) -> None:
        folder = write_cell(tmp_path, name)
        edit_result(folder, lambda record: record["method"].update(facts=facts))

    edited("whole", {"gradient_parameters": {"share": 1.0}})
    edited("part", {"gradient_parameters": {"share": 0.1234}})
    edited("hybrid", {"first.gradient_parameters": {"share": 0.5}, "second.mixing": 0.9})
    edited("foreign", {"gradient_parameters": {"share": "half"}, "x.gradient_parameters": 7})
    assert set(labels(boards_of(tmp_path)[0])) == {
        "whole", "part (12.3% of the matrices)", "hybrid (50% of the matrices)", "foreign",
    }  # fmt: skip


def test_cells_that_no_setting_tells_apart_show_their_key(tmp_path: Path) -> None:
    first = write_cell(tmp_path, "bm25")
    first.rename(first.with_name("1111111122222222"))
    write_cell(tmp_path, "bm25")
    assert "bm25 [11111111]" in labels(boards_of(tmp_path)[0])
    assert len(set(labels(boards_of(tmp_path)[0]))) == 2


def test_tasks_of_one_name_but_different_content_are_not_compared(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25")
    write_cell(tmp_path, "dense", task_sha256="ef" * 32)
    boards = boards_of(tmp_path)
    assert [board.task for board in boards] == ["factworld @abababab", "factworld @efefefef"]
    assert [len(board.rows) for board in boards] == [1, 1]


def test_a_task_without_annotation_is_sorted_by_what_it_has(tmp_path: Path) -> None:
    for method, patch in (("bm25", 0.001), ("dense", 0.05)):
        folder = write_cell(tmp_path, method, tail_patch=patch)
        edit_result(
            folder,
            lambda r: r.update(
                metrics={k: v for k, v in r["metrics"].items() if k.startswith("tail_patch")}
            ),
        )
    assert labels(boards_of(tmp_path)[0]) == ["dense", "bm25"]


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


def test_csv_has_full_precision_and_a_line_per_cell(results: Path, paths: Written) -> None:
    with open(paths.folder / "leaderboard.csv", newline="", encoding="utf-8") as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"gold", "bm25", "trackstar"}
    for cell in read_cells(results):
        row = rows[cell.result.method["name"]]
        for name, estimate in cell.result.metrics.items():
            assert float(row[name]) == estimate.value
            assert (float(row[f"{name}_low"]), float(row[f"{name}_high"])) == estimate.ci95
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


def test_significance_csv_has_a_line_per_pair_and_metric(results: Path, paths: Written) -> None:
    with open(paths.folder / "significance.csv", newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    (board,) = boards_of(results)
    assert len(lines) == len(board.pairs) == len(board.metrics)
    for line, pair in zip(lines, board.pairs, strict=True):
        assert (line["task"], line["model"], line["metric"]) == ("factworld", "tiny", pair.metric)
        assert (line["method_a"], line["method_b"]) == (pair.a, pair.b)
        assert float(line["difference"]) == pair.difference.value
        bounds = (float(line["difference_low"]), float(line["difference_high"]))
        assert bounds == pair.difference.ci95
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
