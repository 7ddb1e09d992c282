"""Figures as files: what is written, that it is the same each time, and that names stay text."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from PIL import Image

from bench.cli.main import main
from bench.core.errors import UserError
from bench.report.figures.catalog import FORMATS, SPECS
from bench.report.figures.data import Dot, Figure, Lines, Panel, Point, Scatter, Series
from bench.report.figures.drawing import draw
from bench.report.figures.inline import inline_svg
from bench.report.figures.labels import _boxes, _overlaps
from bench.report.figures.style import FAMILIES, looks, name, names, quantity, style
from bench.report.figures.write import write_figures
from bench.report.write import report
from bench.results.schema import RETRIEVALS
from methods import METHODS
from metrics.stats.bootstrap import Estimate
from tests.fixtures.cells import write_cell
from tests.fixtures.figure_cells import write_all
from tests.fixtures.reports import HOSTILE, Page

ROOT = Path(__file__).parents[2]


def estimate(value: float, half: float = 0.1) -> Estimate:
    return Estimate(value, (value - half, value + half), 10)


def scatter_of(labels: list[str], xs: list[float], ys: list[float]) -> Scatter:
    dots = [
        Dot(Series(label, "bm25", "retrieval"), label, estimate(x), estimate(y))
        for label, x, y in zip(labels, xs, ys, strict=True)
    ]
    return Scatter([Panel("mrr", "MRR", "hit@10", dots)])


# ------------------------------------------------------------------ files


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A figure of each kind."""
    results = tmp_path_factory.mktemp("results")
    return write_all(results, "attribution_influence", "mixing", "proponent_kinds")


@pytest.mark.slow
def test_every_figure_of_the_catalog_can_be_drawn(tmp_path: Path) -> None:
    found = {path.stem.partition("-")[0] for path in write_all(tmp_path).iterdir()}
    assert found == {spec.name for spec in SPECS}


def test_each_figure_is_four_files_that_open(drawn: Path) -> None:
    stems = {path.stem for path in drawn.iterdir()}
    assert len(stems) >= 3
    for stem in stems:
        assert {p.suffix[1:] for p in drawn.iterdir() if p.stem == stem} == set(FORMATS)
        root = ElementTree.parse(drawn / f"{stem}.svg").getroot()
        assert root.tag.endswith("svg")
        assert (drawn / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
        assert (drawn / f"{stem}.csv").read_text(encoding="utf-8").count("\n") > 1
        pixels = np.asarray(Image.open(drawn / f"{stem}.png").convert("L"))
        assert 800 < pixels.shape[1] < 1200, "a column of a paper at 300 dots an inch"
        assert pixels.shape[0] < 1500
        assert (pixels < 128).any()


def test_no_file_says_when_or_with_what_it_was_made(drawn: Path) -> None:
    for path in drawn.iterdir():
        content = path.read_bytes()
        assert b"Date" not in content, path.name
        assert b"dc:date" not in content, path.name
        assert f"Matplotlib v{mpl.__version__}".lower().encode() not in content.lower(), path.name
        assert b"matplotlib.org" not in content, path.name


def test_files_are_equal_in_another_process(drawn: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.fixtures.figure_cells import write_all\n"
        "write_all(Path(sys.argv[1]), 'mixing', 'proponent_kinds')"
    )
    environment = {"PYTHONHASHSEED": "7", "PATH": "", "HOME": str(Path.home())}
    run = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(run, check=True, cwd=ROOT, env=environment)
    again = sorted((tmp_path / "figures").iterdir())
    assert len(again) >= 8
    for path in again:
        assert path.read_bytes() == (drawn / path.name).read_bytes(), path.name


def test_what_an_earlier_report_drew_goes_and_own_files_stay(drawn: Path, tmp_path: Path) -> None:
    figure = Figure(
        "mixing", ("t", "m"), "mixing", "", scatter_of(["a", "b"], [0.1, 0.2], [0.3, 0.4])
    )
    for own in ("frequency-old.png", "notes.csv", "mixing.txt"):
        (tmp_path / own).write_text("x")
    write_figures([figure], tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"notes.csv", "mixing.txt", *(f"mixing.{kind}" for kind in FORMATS)}


# ------------------------------------------------------------------ what is drawn


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    labels = [HOSTILE, "$\\frac{1}{0$", "--><script>x</script>", "\ufffe\ud800 漢字"]
    figure = Figure(
        "mixing", ("t", "m"), "mixing", "", scatter_of(labels, [0.1, 0.2, 0.3, 0.4], [0.5] * 4)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_figures([figure], tmp_path)
    tree = ElementTree.parse(tmp_path / "mixing.svg")
    tags = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert "script" not in tags
    assert "a" not in tags


def test_the_users_own_settings_do_not_count(tmp_path: Path) -> None:
    figure = Figure("mixing", ("t", "m"), "mixing", "", scatter_of(["a"], [0.1], [0.2]))
    write_figures([figure], tmp_path / "plain")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": None}):
        write_figures([figure], tmp_path / "own")
    for kind in FORMATS:
        first, second = (tmp_path / who / f"mixing.{kind}" for who in ("plain", "own"))
        assert first.read_bytes() == second.read_bytes(), kind


def texts_of(axes: Axes) -> Iterator[Annotation]:
    return (text for text in axes.texts if isinstance(text, Annotation) and text.get_text())


@pytest.mark.parametrize("seed", [0, 1])
def test_names_beside_marks_cover_neither_each_other_nor_a_mark(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 14
    xs, ys = rng.beta(1, 3, n).tolist(), rng.normal(0.2, 0.05, n).tolist()
    with style():
        canvas = draw(scatter_of([f"method_{i}" for i in range(n)], xs, ys))
        canvas.draw_without_rendering()
        (axes,) = canvas.axes
        boxes = [text.get_window_extent() for text in texts_of(axes)]
        marks = axes.transData.transform(np.column_stack([xs, ys]))
    assert len(boxes) == n
    overlaps = [(i, j) for i in range(n) for j in range(i) if boxes[i].overlaps(boxes[j])]
    assert overlaps == []
    assert [m for m in marks for box in boxes if box.contains(*m)] == []


def test_dots_stand_at_their_values_in_the_units_that_are_shown() -> None:
    values = {"a": (0.1, 0.02), "b": (0.5, -0.01)}
    dots = [
        Dot(Series(label, "bm25", "retrieval"), label, estimate(x), estimate(y))
        for label, (x, y) in values.items()
    ]
    with style():
        (axes,) = draw(Scatter([Panel("mrr", "MRR", "tail_patch", dots)])).axes
    named = [line for line in axes.lines if line.get_gid()]
    marks = {line.get_gid(): line.get_xydata()[0].tolist() for line in named}
    assert marks["dot0"] == pytest.approx([0.1, 2.0]), "in percentage points"
    assert marks["dot1"] == pytest.approx([0.5, -1.0])


def test_equal_values_are_drawn_and_tell_their_numbers_in_the_page() -> None:
    figure = Figure(
        "x", ("t", "m"), "x", "a <caption>", scatter_of(["a", "<b>"], [0.5] * 2, [0.5] * 2)
    )
    with style():
        svg = inline_svg(draw(figure.body), figure, {"format": "svg"})
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "a <caption>"
    titles = [element.text for element in root.iter("title")]
    assert titles == ["a: 0.500, 0.500", "<b>: 0.500, 0.500"]
    assert "nan" not in svg.lower()
    assert not {"style", "metadata", "script"} & {element.tag for element in root.iter()}


def test_a_line_goes_through_its_values_and_has_its_name() -> None:
    one = Series("trackstar", "trackstar", "gradient")
    points = [
        Point(one, "k", x, f"{x:g}", "tail_patch", Estimate(y, (y - 0.01, y + 0.01), 9))
        for x, y in ((1.0, 0.01), (2.0, 0.03))
    ]
    points.append(Point(one, "k", 1.5, "auto: 1.5", "tail_patch", estimate(0.02), mark="auto"))
    with style():
        (axes,) = draw(Lines(points, "top", "top", "linear")).axes
        (line,) = [
            found
            for found in axes.lines
            if len(found.get_xdata()) == 2 and found.get_marker() == "o"
        ]
        assert np.allclose(line.get_xydata(), [[1, 1], [2, 3]]), "in percentage points"
        stars = [found for found in axes.lines if found.get_marker() == "*"]
        assert [tuple(star.get_xydata()[0]) for star in stars] == [(1.5, 2.0)]
        shown = [text.get_text() for text in texts_of(axes)]
    assert sorted(shown) == ["auto: 1.5", "trackstar"]
    assert axes.get_ylabel() == "tail-patch (pp)"


def test_every_method_has_a_look_of_its_own_in_its_familys_colour_and_mark() -> None:
    series = [Series(m, m, METHODS.entry(m).family) for m in METHODS]
    series += [Series(f"trackstar ({i})", "trackstar", "gradient") for i in range(2)]
    found = looks([*series, Series("mine", "mine", "other")])
    styles = {(look.color, str(look.dashes), look.marker) for look in found.values()}
    assert len(styles) == len(found)
    for one in series:
        assert found[one].marker == FAMILIES[one.family][1]
    alone = looks([series[0]])[series[0]]
    assert alone == found[series[0]], "whatever else is in the figure"


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (644_160, "count", "644k"), (8.2e9, "count", "8.2G"), (0.5, "count", "0.5"),
        (4096, "bytes", "4.1 kB"), (272, "bytes", "272 B"), (16, "", "16"), (5e-5, "", "5e-05"),
    ],
)  # fmt: skip
def test_ticks(value: float, unit: str, expected: str) -> None:
    assert quantity(value, unit) == expected


def test_long_names_are_cut() -> None:
    assert len(name("x" * 300)) == 30
    assert name("a\nb\x1b[2J") == "a b\N{REPLACEMENT CHARACTER}[2J"


# ------------------------------------------------------------------ the report


def test_report_draws_links_and_names_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in ("bm25", "dense"):
        write_cell(tmp_path, method, tail_patch=0.01)
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "attribution_influence" in out
    assert "no figure mixing: no two cells" in out
    page = tmp_path / "report" / "index.html"
    links = [a["href"] or "" for a in Page(page).all("a") if "figures/" in (a["href"] or "")]
    assert len(links) >= 4
    assert all((page.parent / link).is_file() for link in links)
    assert any("experiment=mixing" in text for text in Page(page).text)


def test_what_is_not_asked_for_is_neither_made_nor_linked_nor_imported(tmp_path: Path) -> None:
    for method in ("bm25", "dense"):
        write_cell(tmp_path, method, tail_patch=0.01)
    code = (
        "import sys; from bench.cli.main import main\n"
        f"assert main(['report', {str(tmp_path)!r}, '--no-figures', '--no-viewer']) == 0\n"
        "assert 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "report").iterdir()}
    assert not made & {"figures", "viewer"}
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "viewer/" not in page
    assert "figures/" not in page
    assert "no figure" not in done.stdout


def test_a_damaged_ranking_leaves_the_old_report_whole(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "bm25", tail_patch=0.01)
    report(tmp_path, quiet=True)
    before = {p: p.read_bytes() for p in (tmp_path / "report").rglob("*") if p.is_file()}
    write_cell(tmp_path, "dense", tail_patch=0.01)
    with open(folder / RETRIEVALS, "a") as stream:
        stream.write("{torn")
    with pytest.raises(UserError, match=r"retrievals.jsonl:41"):
        report(tmp_path, quiet=True, figures=True)
    assert {p: p.read_bytes() for p in (tmp_path / "report").rglob("*") if p.is_file()} == before


def test_what_a_name_covers_is_counted_as_one_box_after_another() -> None:
    rng = np.random.default_rng(0)
    boxes, others = rng.integers(0, 6, (200, 4)), rng.integers(0, 6, (30, 4))  # many touch
    expected = [sum(Bbox.from_extents(*one).overlaps(Bbox.from_extents(*other)) for other in others)
                for one in boxes]  # fmt: skip
    edges = [_boxes([Bbox.from_extents(*one) for one in some]) for some in (boxes, others)]
    assert _overlaps(*edges).tolist() == expected
    assert _overlaps(edges[0], _boxes([])).tolist() == [0] * 200


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["t (metric.tail_patch.top=1)", "t (metric.tail_patch.top=10)"],
         ["t (top=1)", "t (top=10)"]),
        (["t (metric.a.b=1)", "t (metric.c.b=1)"], ["t (metric.a.b=1)", "t (metric.c.b=1)"]),
        (["t (model.seed=0, metric.a.k=2)", "u"], ["t (model.seed=0, k=2)", "u"]),
        ([f"{'x' * 40}1", f"{'x' * 40}2"], [f"{'x' * 10}…{'x' * 18}{n}" for n in "12"]),
    ],
)  # fmt: skip
def test_short_names_tell_points_apart(labels: list[str], expected: list[str]) -> None:
    """Fault: two points of a figure were called ``trackstar (metric.tail_patc…``."""
    assert [*names(labels).values()] == expected


def test_names_that_cannot_be_told_apart_get_numbers() -> None:
    same = [f"{'a' * 15}{middle}{'b' * 30}" for middle in "xyz"]
    assert len({*names(same).values()}) == 3
    assert all(len(one) <= 30 for one in names(same).values())
