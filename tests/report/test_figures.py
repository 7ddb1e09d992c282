"""Which figures a results folder has data for, and what they show; nothing is drawn here."""

from __future__ import annotations

import csv
import io
import itertools
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.board import make_boards
from bench.report.figures.catalog import SPECS, FigurePlan, is_figure, plan
from bench.report.figures.data import Bars, Figure, Lines, Scatter
from bench.report.figures.labels import spread_apart
from bench.report.figures.methods import cost_quality
from bench.report.figures.write import csv_of
from bench.results.schema import read_cells
from tests.fixtures.cells import edit_result, write_cell
from tests.fixtures.figure_cells import everything, figure_cell


def planned(results: Path) -> FigurePlan:
    return plan(make_boards(read_cells(results)), results)


def figure_of(results: Path, name: str) -> Figure:
    (figure,) = [figure for figure in planned(results).figures if figure.name == name]
    return figure


def lines_of(results: Path, name: str) -> Lines:
    body = figure_of(results, name).body
    assert isinstance(body, Lines)
    return body


def line(lines: Lines, metric: str = "mrr") -> dict[str, list[tuple[float | None, str]]]:
    """Series → places and names of its points of one metric."""
    found: dict[str, list[tuple[float | None, str]]] = {}
    for point in lines.points:
        if point.metric == metric:
            found.setdefault(point.series.label, []).append((point.x, point.text))
    return found


# ------------------------------------------------------------------ what there is


def test_every_figure_is_there_or_named_with_a_reason(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25")
    found = planned(tmp_path)
    names = [spec.name for spec in SPECS]
    assert sorted([f.name for f in found.figures] + [m.name for m in found.missing]) == sorted(
        names
    )
    assert found.figures == []
    everything(tmp_path / "all")
    complete = planned(tmp_path / "all")
    assert complete.missing == []
    assert {figure.name for figure in complete.figures} == set(names)


def test_the_commands_of_missing_figures_are_those_of_experiments(tmp_path: Path) -> None:
    write_cell(tmp_path / "my runs", "bm25")
    for missing in planned(tmp_path / "my runs").missing:
        words = shlex.split(missing.command)
        assert words[:3] == ["tdabench", "run", "-m"]
        assert words[-1] == f"results_dir={tmp_path / 'my runs'}"
        (experiment,) = [w.partition("=")[2] for w in words if w.startswith("experiment=")]
        conf = Path(__file__).parents[2] / "conf" / "experiment" / f"{experiment}.yaml"
        assert conf.is_file(), missing.name
        assert str(missing).startswith(f"no figure {missing.name}: ")


def test_one_figure_a_board_with_names_that_no_path_is_in(tmp_path: Path) -> None:
    for task, sha in (("a/../b", "12" * 32), ("a-b", "34" * 32), ("A_B", "56" * 32)):
        for method in ("bm25", "dense"):
            write_cell(
                tmp_path, method, task=sha[:4], task_sha256=sha, names={"task": task},
                tail_patch=0.01,
            )  # fmt: skip
    stems = [f.stem for f in planned(tmp_path).figures if f.name == "attribution_influence"]
    assert len({stem.lower() for stem in stems}) == 3
    assert all(is_figure(Path(f"{stem}.png")) for stem in stems)
    assert not any("/" in stem or ".." in stem for stem in stems)


def test_own_files_are_no_figures() -> None:
    for name in ("notes.csv", "mixing.txt", "mixing2.png", "frequency.svg.bak"):
        assert not is_figure(Path(name))


# ------------------------------------------------------------------ sweeps


def test_a_sweep_takes_cells_that_differ_in_that_setting_alone(tmp_path: Path) -> None:
    for dim in (16, 4, 8):
        figure_cell(tmp_path, config={"projection_dim": dim})
    figure_cell(tmp_path, config={"projection_dim": 32, "mixing": 0.1})  # differs in another, too
    figure_cell(tmp_path, config={"projection_dim": 2}, seed=1)
    figure_cell(tmp_path, config={"projection_dim": 64}, metric={"top": 1})
    found = line(lines_of(tmp_path, "projection_dim"))
    assert found == {"trackstar": [(4.0, "4"), (8.0, "8"), (16.0, "16")]}


def test_lines_of_one_method_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    for dim in (4, 8):
        for mixing in (0.1, 0.9):
            figure_cell(tmp_path, config={"projection_dim": dim, "mixing": mixing})
    found = line(lines_of(tmp_path, "projection_dim"))
    assert sorted(found) == ["trackstar (mixing=0.1)", "trackstar (mixing=0.9)"]


def test_another_model_of_the_same_name_is_no_point_of_a_sweep(tmp_path: Path) -> None:
    figure_cell(tmp_path, config={"projection_dim": 4})
    folder = figure_cell(tmp_path, config={"projection_dim": 8})
    edit_result(folder, lambda record: record["model"].update(sha256="ef" * 32))
    assert "projection_dim" in [missing.name for missing in planned(tmp_path).missing]


def test_the_exact_gradient_is_a_level_line(tmp_path: Path) -> None:
    for dim in (None, 4):
        figure_cell(tmp_path, config={"projection_dim": dim})
    assert line(lines_of(tmp_path, "projection_dim"))["trackstar"] == [(4.0, "4"), (None, "exact")]


def test_auto_is_marked_where_it_found_lambda(tmp_path: Path) -> None:
    for mixing in (0.1, 0.9, "auto"):
        folder = figure_cell(tmp_path, config={"mixing": mixing})
        edit_result(folder, lambda r: r["method"].update(facts={"mixing": 0.41}))
    points = [p for p in lines_of(tmp_path, "mixing").points if p.metric == "mrr"]
    assert [(p.x, p.mark) for p in points] == [(0.1, ""), (0.41, "auto"), (0.9, "")]
    assert "0.41" in points[1].text


def test_lambda_counts_only_where_the_queries_are_in_r(tmp_path: Path) -> None:
    for mixing in (0.1, 0.9):
        figure_cell(tmp_path, config={"mixing": mixing, "hessian": "train"})
    assert "mixing" in [missing.name for missing in planned(tmp_path).missing]


def test_storage_has_a_line_with_and_one_without_reranking(tmp_path: Path) -> None:
    for storage, size in (("fp32", 1024), ("sign", 32), ("none", 0)):
        for rerank in (None, 50):
            folder = figure_cell(tmp_path, config={"storage": storage, "rerank": rerank})
            edit_result(folder, lambda r, s=size: r["index"].update(bytes_per_passage=s))
    found = line(lines_of(tmp_path, "storage_quality"))
    expected = [(None, "none"), (32, "sign"), (1024, "fp32")]
    assert found == {"trackstar": expected, "trackstar, rerank=50": expected}


def test_settings_of_the_metrics_are_swept_too(tmp_path: Path) -> None:
    for top in (1, 5, 10):
        figure_cell(tmp_path, metric={"top": top})
    lines = lines_of(tmp_path, "tail_patch_top")
    assert {point.metric for point in lines.points} == {"tail_patch"}
    assert [x for x, _ in line(lines, "tail_patch")["trackstar"]] == [1.0, 5.0, 10.0]


# ------------------------------------------------------------------ methods


def test_methods_are_compared_only_as_measured_alike(tmp_path: Path) -> None:
    for method in ("bm25", "trackstar"):
        figure_cell(tmp_path, method, tail_patch=0.01)
    for top in (1, 3):
        figure_cell(tmp_path, "bm25", metric={"top": top}, tail_patch=0.09)
    figure = figure_of(tmp_path, "attribution_influence")
    assert isinstance(figure.body, Scatter)
    (panel,) = figure.body.panels
    assert sorted(dot.series.label for dot in panel.dots) == [
        "bm25 (metric.tail_patch.top=10)",
        "trackstar",
    ]
    assert "Only cells with metric.tail_patch.top=10." in figure.caption


def test_of_many_cells_of_a_method_the_common_one_is_shown(tmp_path: Path) -> None:
    figure_cell(tmp_path, "bm25")
    base = figure_cell(tmp_path)
    for config in ({"projection_dim": 4}, {"mixing": 0.1}, {"storage": "sign"}):
        figure_cell(tmp_path, config=config)
    figure = figure_of(tmp_path, "frequency")
    keys = {record["key"] for record in figure.body.records() if record["method"] == "trackstar"}
    assert keys == {base.name}
    assert "One cell a method" in figure.caption


def test_frequencies_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    figure_cell(tmp_path)
    lines = lines_of(tmp_path, "frequency")
    assert line(lines)["trackstar"] == [(0.0, "1"), (1.0, "2-3"), (2.0, "16-32")]


def test_kinds_are_stacked_from_the_strongest_down(tmp_path: Path) -> None:
    figure_cell(tmp_path)
    body = figure_of(tmp_path, "proponent_kinds").body
    assert isinstance(body, Bars)
    assert list(body.parts) == ["entails", "denied", "unrelated"]


def test_model_sizes_of_methods_without_model_are_those_of_their_neighbours(tmp_path: Path) -> None:
    for model, size in (("tiny", 1_000), ("small", 2_000)):
        folder = figure_cell(tmp_path, model=model)
        edit_result(folder, lambda r, n=size: r["model"].update(n_params=n, sha256=f"{n}"))
        folder = figure_cell(tmp_path, "bm25", model=model)
        edit_result(folder, lambda r: r["model"].update(n_params=None, sha256=None))
    found = line(lines_of(tmp_path, "model_size"))
    assert found == {key: [(1000.0, "tiny"), (2000.0, "small")] for key in ("bm25", "trackstar")}


def test_a_dimension_that_follows_the_model_breaks_no_line(tmp_path: Path) -> None:
    for model, size, dim in (("tiny", 1_000, 16), ("154m", 2_000, 64)):
        folder = figure_cell(tmp_path, model=model, config={"projection_dim": dim})
        edit_result(folder, lambda r, n=size: r["model"].update(n_params=n, sha256=f"{n}"))
        path = folder / "config.yaml"
        path.write_text(path.read_text().replace("projection_dim: 16", f"projection_dim: {dim}"))
    assert len(line(lines_of(tmp_path, "model_size"))["trackstar"]) == 2


@pytest.mark.parametrize(
    ("phases", "facts", "expected"),
    [
        ([("index", 2.0), ("search", 1.0), ("tail_patch", 50.0)], {}, 3.0),
        ([("model", 30.0), ("index", 34.0), ("search", 1.0)], {}, 5.0),  # trained within the index
        ([("index", 0.1), ("search", 1.0)], {"encoding_seconds": 7.0}, 8.0),  # from the cache
        ([("index", 2.0), ("search", 1.0), ("model", 9.0), ("tail_patch", 9.5)], {}, 3.0),
    ],
)
def test_cost_is_of_the_ranking_alone(
    tmp_path: Path, phases: list[tuple[str, float]], facts: dict[str, float], expected: float
) -> None:
    for method in ("bm25", "dense"):
        folder = figure_cell(tmp_path, method)
        records = [{"name": n, "seconds": s, "peak_mib": 1.0} for n, s in phases]
        edit_result(folder, lambda r, p=records: r.update(phases=p))
        edit_result(folder, lambda r: r["method"].update(facts=facts))
    (board,) = make_boards(read_cells(tmp_path))
    scatter = cost_quality(board)
    assert scatter is not None
    assert [dot.x for dot in scatter.panels[0].dots] == [expected, expected]


# ------------------------------------------------------------------ the numbers


# Results hold differences of probabilities, and figures show percentage points.
IN_POINTS = ("tail_patch", "removal_effect")


def test_the_csv_holds_what_the_results_hold(tmp_path: Path) -> None:
    everything(tmp_path)
    cells = {cell.folder.name: cell.result for cell in read_cells(tmp_path)}
    compared = 0
    for figure in planned(tmp_path).figures:
        for row in csv.DictReader(io.StringIO(csv_of(figure))):
            if figure.name not in ("frequency", "proponent_kinds"):
                metrics = cells[row["key"]].metrics
                drawn = [(row["metric"], "")]
                drawn += [(row["x"], "x_")] if row.get("x") in metrics else []
                for metric, part in drawn:
                    shown, stored = 100.0 if metric in IN_POINTS else 1.0, metrics[metric]
                    numbers = [float(row[f"{part}{name}"]) for name in ("value", "low", "high")]
                    assert numbers == [shown * x for x in (stored.value, *stored.ci95)]
                compared += 1
    assert compared > 30


def test_no_name_is_a_formula_of_a_spreadsheet(tmp_path: Path) -> None:
    for method in ("=1+1", "@x"):
        write_cell(tmp_path, "x" + method[1:], names={"method": method}, tail_patch=0.01)
    text = csv_of(figure_of(tmp_path, "attribution_influence"))
    assert "\n'=1+1," in text
    assert "\n'@x," in text


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_names_at_line_ends_keep_their_order_and_distance(places: list[float]) -> None:
    places = sorted(places)
    found = spread_apart(places, 10.0, 0.0, 200.0)
    assert all(b - a >= 10.0 - 1e-6 for a, b in itertools.pairwise(found))
    assert found[0] >= -1e-6
    if len(places) <= 21:
        assert found[-1] <= 200.0 + 1e-6
    if all(0 <= p <= 200 for p in places) and all(
        b - a >= 10 for a, b in itertools.pairwise(places)
    ):
        assert found == pytest.approx(places)
