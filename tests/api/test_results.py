"""Finished cells as tables and figures: the numbers of the report, under its names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import tdabench
from bench.report.write import report
from tests.fixtures.cells import edit_retrievals, write_cell

PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "runs"
    write_cell(folder, "bm25", strength=0.8, tail_patch=0.02)
    write_cell(folder, "trackstar", config={"hessian": "mixed", "mixing": 0.1}, tail_patch=0.05)
    write_cell(folder, "trackstar", config={"hessian": "mixed", "mixing": 0.9}, tail_patch=0.06)
    write_cell(folder, "bm25", model="small", seed=1, tail_patch=0.01)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> tdabench.Results:
    return tdabench.load(folder)


def test_tables_are_those_of_the_report(
    results: tdabench.Results, folder: Path, tmp_path: Path
) -> None:
    report(folder, tmp_path, quiet=True, viewer=False)
    for name, frame in (
        ("leaderboard.csv", results.to_dataframe()),
        ("significance.csv", results.significance()),
    ):
        written = pd.read_csv(tmp_path / name, float_precision="round_trip")
        ours = io.StringIO(frame.to_csv(index=False))
        assert_frame_equal(pd.read_csv(ours, float_precision="round_trip"), written)
    frame = results.to_dataframe()
    assert len(frame) == len(results) == 4
    assert set(frame.label) == {"bm25", "trackstar (mixing=0.1)", "trackstar (mixing=0.9)"}
    row = frame[(frame.label == "bm25") & (frame.model == "tiny")].iloc[0]
    estimate = next(
        cell.result.metrics["mrr"] for cell in results.cells if "tiny/bm25" in str(cell.folder)
    )
    assert (row["mrr"], row["mrr_low"], row["mrr_high"], row["mrr_n"]) == (
        estimate.value, *estimate.ci95, estimate.n
    )  # fmt: skip


def test_per_query_values_have_the_means_of_the_table(results: tdabench.Results) -> None:
    long = results.per_query()
    by = ["task", "model", "method", "label"]
    assert list(long.columns) == [*by, "query_id", "metric", "value"]
    wide = results.to_dataframe().set_index(by)
    means = long.groupby([*by, "metric"])["value"].agg(["mean", "count"])
    assert {metric for *_, metric in means.index} == {
        "mrr", "hit@1", "hit@10", "recall@10", "tail_patch", "tail_patch_log"
    }  # fmt: skip
    for (*row, metric), value in means.iterrows():
        assert np.isclose(value["mean"], wide.loc[tuple(row), metric], rtol=1e-12)
        assert value["count"] == wide.loc[tuple(row), f"{metric}_n"]
    assert long.value.notna().all()


def test_rankings_of_a_query(results: tdabench.Results) -> None:
    frame = results.rankings("q3")
    assert len(frame) == 4 * 20
    values = results.per_query().query("query_id == 'q3' and metric == 'mrr'")
    values = values.set_index(["model", "label"])["value"]
    for cell, own in frame.groupby(["model", "label"]):
        assert own["rank"].tolist() == list(range(1, 21))
        assert own.score.is_monotonic_decreasing
        assert (own.text == own.passage_id.str.replace("s", "passage ")).all()
        first = own.loc[own.correct, "rank"].min()
        assert values[cell] == (0 if pd.isna(first) else 1 / first)


def test_what_nobody_judged_is_missing(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, n_queries=3)
    edit_retrievals(cell, lambda records: [record.pop("proponent_correct") for record in records])
    assert tdabench.load(tmp_path).rankings("q0").correct.isna().all()


def test_an_unknown_query_is_answered_with_the_nearest(results: tdabench.Results) -> None:
    with pytest.raises(tdabench.UserError, match="unknown query 'q333'; did you mean q33"):
        results.rankings("q333")


def test_figures(results: tdabench.Results, folder: Path) -> None:
    from matplotlib.figure import Figure

    figure = results.plot("mixing")
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(PNG)
    assert len(figure.axes) == 2  # MRR and tail-patch
    assert results.plot("attribution_influence").axes
    with pytest.raises(tdabench.UserError, match="unknown figure 'mixin'; did you mean mixing"):
        results.plot("mixin")
    with pytest.raises(tdabench.UserError, match="no data for it: no two cells differ in method"):
        results.plot("storage_quality")
    write_cell(folder.parent / "two", "bm25", tail_patch=0.1)
    write_cell(folder.parent / "two", "dense", tail_patch=0.1)
    write_cell(folder.parent / "two", "bm25", tail_patch=0.1, model="small")
    write_cell(folder.parent / "two", "dense", tail_patch=0.1, model="small")
    two = tdabench.load(folder.parent / "two")
    with pytest.raises(tdabench.UserError, match="there are 2 figures") as error:
        two.plot("attribution_influence")
    for stem in error.value.fix.removeprefix("one of ").split(", "):
        assert two.plot(stem).axes


def test_a_finished_figure_needs_no_style(results: tdabench.Results) -> None:
    """What a caller does to it draws nothing anew in matplotlib's own style."""
    import matplotlib as mpl

    figure = results.plot("mixing")
    with mpl.rc_context({"font.size": 30, "xtick.labelsize": 30}):
        figure.savefig(io.BytesIO(), format="png")
        sizes = {label.get_size() for axes in figure.axes for label in axes.get_xticklabels()}
    assert sizes == {6.5}


def test_it_says_what_it_holds(results: tdabench.Results) -> None:
    text = repr(results)
    assert text.startswith("Results of 4 cells\n  factworld × small: bm25 (MRR 0.")
    assert "trackstar (mixing=0.9) (MRR 0." in text
    for name in ("to_dataframe", "per_query", "significance", "rankings", "plot"):
        assert f".{name}(" in text
        assert callable(getattr(results, name))


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(tdabench.UserError, match="no such results folder"):
        tdabench.load(tmp_path / "none")
