"""TREC runs and qrels: what trec_eval computes from them is what the cells store."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cli.main import main
from bench.core.errors import UserError
from bench.report.export.trec import encode, export_trec, falling
from bench.results.schema import PER_QUERY, RETRIEVALS, read_cells
from bench.tasks.records import read_retrievals
from tests.fixtures.cells import METRICS, edit_result, edit_retrievals, edit_table, write_cell

if sys.platform == "linux" and platform.machine() != "x86_64":
    # pyproject.toml does not ask for ir_measures there either.
    pytest.skip("pytrec-eval-terrier has no wheel for this machine", allow_module_level=True)

import ir_measures
from ir_measures import RR, R, Success

TREC = {"mrr": RR, "hit@1": Success @ 1, "hit@10": Success @ 10, "recall@10": R @ 10}


def exported(results: Path) -> Path:
    out = results / "trec"
    export_trec(results, out)
    return out


def evaluated(qrels: Path, run: Path) -> dict[str, float]:
    measures = {measure: name for name, measure in TREC.items()}
    read = (ir_measures.read_trec_qrels(str(qrels)), ir_measures.read_trec_run(str(run)))
    found = ir_measures.calc_aggregate(list(measures), *read)
    return {measures[measure]: value for measure, value in found.items()}


def rows_of(run: Path) -> list[list[str]]:
    return [line.split() for line in run.read_text(encoding="ascii").splitlines()]


# ------------------------------------------------------------------ the numbers


def test_trec_evals_means_are_those_of_every_cell(tmp_path: Path) -> None:
    for method, strength in (("bm25", 0.9), ("dense", 0.3), ("random", 0.0)):
        write_cell(tmp_path, method, strength=strength)
    _agree(tmp_path)
    out = exported(tmp_path)
    (qrels,) = (out / "qrels").iterdir()
    assert qrels.name == "factworld.qrels"
    cells = read_cells(tmp_path)
    for cell in cells:
        (run,) = (out / "runs").glob(f"*{cell.folder.name}.run")
        found = evaluated(qrels, run)
        for name in METRICS:
            assert found[name] == pytest.approx(cell.result.metrics[name].value, abs=1e-9), name
    assert len(list((out / "runs").iterdir())) == len(cells) == 3


N_GOLD = 40


def _agree(results: Path) -> None:
    """Give each method passages of its own, and each query as many correct ones for all methods."""
    for cell in read_cells(results):
        edit_retrievals(cell.folder, lambda r, m=cell.folder.parent.name: _rename(r, m))
        records = list(read_retrievals(cell.folder / RETRIEVALS))
        recall = [sum(record.proponent_correct[:10]) / N_GOLD for record in records]
        columns = {"n_gold": [N_GOLD] * len(records), "recall@10": recall}
        edit_table(cell.folder, lambda table, c=columns: table.update(c))
        mean = {"value": float(np.mean(recall)), "ci95": [0.0, 1.0], "n": len(records)}
        edit_result(cell.folder, lambda r, v=mean: r["metrics"].update({"recall@10": v}))


def _rename(records: list[dict[str, Any]], method: str) -> None:
    for record in records:
        record["proponent_ids"] = [f"{method}:{name}" for name in record["proponent_ids"]]


def test_ties_keep_the_stored_order(tmp_path: Path) -> None:
    """Left as they are, trec_eval would put the greater id of equal scores first."""
    folder = write_cell(tmp_path, "bm25", strength=0.9)

    def tie(records: list[dict[str, Any]]) -> None:
        for record in records:
            n = len(record["proponents"])
            record["proponent_scores"] = [1.5] * (n // 2) + [0.0] * (n - n // 2)

    edit_retrievals(folder, tie)
    out = exported(tmp_path)
    (run,) = (out / "runs").iterdir()
    found = evaluated(out / "qrels" / "factworld.qrels", run)
    (cell,) = read_cells(tmp_path)
    for name in METRICS:
        assert found[name] == pytest.approx(cell.result.metrics[name].value, abs=1e-9), name


@pytest.mark.parametrize(("no_gold", "n"), [("skip", 39), ("zero", 40)])
def test_queries_without_gold_count_as_the_cell_counts_them(
    tmp_path: Path, no_gold: str, n: int
) -> None:
    folder = write_cell(tmp_path, "bm25", strength=9)

    def drop(records: list[dict[str, Any]]) -> None:
        records[3]["proponent_correct"] = [False] * len(records[3]["proponents"])

    edit_retrievals(folder, drop)
    edit_table(folder, lambda columns: columns["n_gold"].__setitem__(3, 0))
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("no_gold: skip", f"no_gold: {no_gold}"))
    out = exported(tmp_path)
    (qrels,) = (out / "qrels").iterdir()
    lines = qrels.read_text().splitlines()
    assert len({line.split()[0] for line in lines}) == n


def test_gold_that_no_cell_lists_is_counted_under_names_that_no_passage_has(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "bm25", strength=0)
    edit_table(folder, lambda columns: columns.update(n_gold=[2] * 40))
    qrels = (exported(tmp_path) / "qrels" / "factworld.qrels").read_text().splitlines()
    assert qrels[:2] == ["q0 0 %unlisted-1 1", "q0 0 %unlisted-2 1"]
    assert encode("%unlisted-1") != "%unlisted-1"


# ------------------------------------------------------------------ columns


@given(st.text(min_size=1))
def test_ids_are_one_column_and_read_back(name: str) -> None:
    column = encode(name)
    assert column.isascii()
    assert len(column.split()) == 1
    assert unquote(column, errors="surrogatepass") == name


def test_plain_ids_stay_as_they_are() -> None:
    assert encode("fw:location:000017/a_b-c.d~(1)") == "fw:location:000017/a_b-c.d~(1)"
    assert encode("a b%\n\u00a0é") == "a%20b%25%0A%C2%A0%C3%A9"


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=200))
def test_scores_fall_in_single_precision(scores: list[float]) -> None:
    found = falling(sorted(scores, reverse=True))
    single = np.array(found, dtype=np.float32)
    assert len(found) == len(scores)
    assert (np.diff(single) < 0).all()
    assert np.isfinite(single).all()
    printed = np.array([float(f"{score:.9g}") for score in found], dtype=np.float32)
    assert (printed == single).all(), "as written in the file"


@given(st.lists(st.floats(-1e3, 1e3, width=32), max_size=100))
def test_scores_hardly_change(scores: list[float]) -> None:
    given_scores = sorted(scores, reverse=True)
    largest = max(map(abs, scores), default=0.0)
    assert falling(given_scores) == pytest.approx(given_scores, abs=1e-4 * largest + 1e-25)


def test_ids_with_white_space_do_not_break_columns(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "bm25", names={"method": "my method\n"})

    def rename(records: list[dict[str, Any]]) -> None:
        for record in records:
            record["proponent_ids"] = [f"a b\t{p}\n" for p in record["proponent_ids"]]

    edit_retrievals(folder, rename)
    (run,) = (exported(tmp_path) / "runs").iterdir()
    rows = rows_of(run)
    assert {len(row) for row in rows} == {6}
    assert unquote(rows[0][2]).startswith("a b\ts")
    assert [int(row[3]) for row in rows[:3]] == [1, 2, 3]


def test_tasks_whose_names_are_alike_have_qrels_of_their_own(tmp_path: Path) -> None:
    for i, task in enumerate(("a/b", "a_b")):
        write_cell(tmp_path, "bm25", task=f"t{i}", task_sha256=f"{i}" * 64, names={"task": task})
    out = exported(tmp_path)
    assert {path.name for path in (out / "qrels").iterdir()} == {"a_b.qrels", "a_b-2.qrels"}


# ------------------------------------------------------------------ faults


def test_a_second_export_does_not_overwrite_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cell(tmp_path / "runs", "bm25")
    words = ["export", "trec", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "1 runs, 1 qrels" in capsys.readouterr().out
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert main(words) == 2
    assert "is there already; give --out a new folder" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_cells_that_count_differently_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    for method, n_gold in (("bm25", 4), ("dense", 5)):
        folder = write_cell(tmp_path, method, strength=0)
        edit_table(folder, lambda c, n=n_gold: c.update(n_gold=[n] * 40))
    with pytest.raises(UserError, match="counts 5 correct passages for query q0, another cell 4"):
        exported(tmp_path)
    assert not (tmp_path / "trec").exists()
    assert [p for p in tmp_path.iterdir() if ".partial" in p.name] == []


def test_damaged_rankings_name_their_line(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "bm25")
    with open(folder / RETRIEVALS, "a") as stream:
        stream.write("{torn")
    with pytest.raises(UserError, match=r"retrievals.jsonl:41"):
        exported(tmp_path)
    (folder / RETRIEVALS).unlink()
    with pytest.raises(UserError, match="no cell has kept its rankings"):
        exported(tmp_path)


def test_a_cell_without_table_is_told(tmp_path: Path) -> None:
    (write_cell(tmp_path, "bm25") / PER_QUERY).unlink()
    with pytest.raises(UserError, match=r"per_query\.parquet"):
        exported(tmp_path)
