"""The leaderboard as a page, and names that try to be more than names in every format."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import pytest

from bench.core import escape
from bench.report.scatter import Point, scatter
from bench.report.write import ReportPaths, report
from bench.results.schema import read_cells
from tests.fixtures.cells import edit_result, write_cell
from tests.fixtures.reports import HOSTILE, Page, three_cells


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return three_cells(tmp_path)


@pytest.fixture
def paths(results: Path) -> ReportPaths:
    return report(results, quiet=True)


def test_page_shows_every_row_with_its_numbers_and_details(
    results: Path, paths: ReportPaths
) -> None:
    page = Page(paths.html)
    rows = [attrs["data-method"] for attrs in page.all("tbody") if "data-method" in attrs]
    assert rows == ["gold", "bm25", "trackstar"]
    for cell in read_cells(results):
        assert f"{cell.result.metrics['mrr'].value:.3f}" in page.text
        assert cell.result.command in page.text
    for shown in ("k1", "1.5", "rank", "facts left out, no prompt", "ab" * 32, "cd" * 32, "3.11.7"):
        assert shown in page.text


def test_page_does_not_print_long_histories(results: Path) -> None:
    folder = next(results.glob("*/*/bm25/*"))
    history = [{"loss": 1 / 3}] * 30
    edit_result(folder, lambda record: record["model"].update(epochs=history, final=1 / 3))
    text = Page(report(results, quiet=True).html).text
    assert "30 entries, see result.json" in text
    assert "0.333333" in text


def test_page_links_to_the_rankings(paths: ReportPaths) -> None:
    links = [attrs["href"] or "" for attrs in Page(paths.html).all("a")]
    assert len(links) == 6, "the rankings of each row, and the viewer that shows them"
    assert all((paths.html.parent / link.partition("#")[0]).is_file() for link in links)
    assert "viewer/index.html#task=factworld&model=tiny&method=bm25" in links


def test_page_asks_nothing_of_the_outside(paths: ReportPaths) -> None:
    page = Page(paths.html)
    addresses = [
        value or ""
        for _, attrs in page.tags
        for name, value in attrs.items()
        if name in ("src", "href", "action", "data", "srcset", "xlink:href")
    ]
    assert addresses
    assert not [a for a in addresses if re.match(r"(?i)\s*(\w+:|//)", a)]
    html = paths.html.read_text(encoding="utf-8")
    assert "@import" not in html
    assert "url(" not in html
    assert not page.all("link")


def test_page_heads_are_buttons_and_the_sorted_one_says_so(paths: ReportPaths) -> None:
    page = Page(paths.html)
    assert [a["aria-sort"] for a in page.all("th") if "aria-sort" in a] == ["descending"]
    openers = [a for a in page.all("button") if a.get("class") == "open"]
    ids = {a.get("id") for a in page.all("tr")}
    assert len(openers) == 3
    assert all(a["aria-expanded"] == "false" and a["aria-controls"] in ids for a in openers)


def test_page_plots_only_rows_with_both_metrics(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25")
    write_cell(tmp_path, "dense")
    assert not Page(report(tmp_path, quiet=True).html).all("svg")
    write_cell(tmp_path, "trackstar", tail_patch=0.01)
    page = Page(report(tmp_path, quiet=True).html)
    assert len(page.all("circle")) == 2  # the point and its sign in the legend


def test_page_has_slices_as_tables(paths: ReportPaths) -> None:
    page = Page(paths.html)
    assert [tag["class"] for tag in page.all("details")].count("slice") == 1
    assert {"born in", "instrument", "capital of"} <= set(page.text)


@pytest.fixture
def hostile(tmp_path: Path) -> ReportPaths:
    names = {"task": HOSTILE, "model": HOSTILE, "method": HOSTILE}
    for seed in (0, 1):
        folder = write_cell(
            tmp_path, seed=seed, names=names, tail_patch=0.01, relations=(HOSTILE, "ok")
        )
        edit_result(
            folder,
            lambda r: (
                r["method"]["config"].update({HOSTILE: HOSTILE}),
                r["metrics"].update({f"x{HOSTILE}": r["metrics"]["mrr"]}),
                r["phases"][0].update(name=HOSTILE),
                r["env"].update({HOSTILE: HOSTILE}),
            ),
        )
    return report(tmp_path, quiet=True)


def test_no_name_becomes_markup_or_script(
    hostile: ReportPaths, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("plain")
    for seed in (0, 1):
        write_cell(other, "new", seed=seed, tail_patch=0.01)
    page, plain = Page(hostile.html), Page(report(other, quiet=True).html)
    assert page.scripts == plain.scripts
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags}
    assert {a for _, at in page.tags for a in at} <= {a for _, at in plain.tags for a in at}
    seen = escape.clean(HOSTILE)
    assert any(seen in text for text in page.text)


def test_page_runs_no_script_but_its_own(hostile: ReportPaths) -> None:
    import base64
    import hashlib

    page = Page(hostile.html)
    policy = next(a["content"] or "" for a in page.all("meta") if "http-equiv" in a)
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_no_format_holds_control_characters(
    hostile: ReportPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    report(hostile.html.parent.parent)
    texts = [capsys.readouterr().out]
    for path in (
        hostile.html, hostile.markdown, hostile.csv, hostile.significance, hostile.latex
    ):  # fmt: skip
        texts.append(path.read_text(encoding="utf-8"))
    for text in texts:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e]", text)


def test_markdown_rows_keep_their_columns(hostile: ReportPaths) -> None:
    lines = hostile.markdown.read_text(encoding="utf-8").splitlines()
    tables = [list(table) for piped, table in groupby(lines, lambda x: x.startswith("|")) if piped]
    assert len(tables) == 2, "the leaderboard and the pairs"
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "<script" not in "".join(lines)


@pytest.mark.parametrize(
    ("escaped", "expected"),
    [
        (escape.markdown("a|b <i> *x* grad_dot _y_"), r"a\|b &lt;i&gt; \*x\* grad_dot \_y\_"),
        (escape.markdown("https://x.y"), "https:\\//x.y"),
        (escape.latex("50% of a_b & {c}\\"), r"50\% of a\_b \& \{c\}\textbackslash{}"),
        (escape.latex("[x]*"), "{[}x]{*}"),
        (escape.spreadsheet("=1+1"), "'=1+1"),
        (escape.clean("a\nb\x1b[2J\u202e\ud800"), "a b\ufffd[2J\ufffd\ufffd"),
    ],
)
def test_escapes(escaped: str, expected: str) -> None:
    assert escaped == expected


def test_scatter_escapes_labels_and_survives_equal_points() -> None:
    point = Point("<b>&", "gradient", 0.0, 0.0, (0.0, 0.0), (0.0, 0.0))
    svg = str(scatter([point, point], "x<", "y"))
    assert "<b>" not in svg
    assert "&lt;b&gt;&amp;" in svg
    assert "nan" not in svg.lower()


def test_scatter_puts_points_where_the_axes_say() -> None:
    points = [
        Point(f"m{i}", "gradient", x, y, (x, x), (y, y))
        for i, (x, y) in enumerate([(0.0, 0.0), (1.0, 2.0), (0.5, 1.0)])
    ]
    svg = str(scatter(points, "x", "y"))
    found = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)[:3]
    (x0, y0), (x1, y1), (x2, y2) = [(float(a), float(b)) for a, b in found]
    assert x2 == pytest.approx((x0 + x1) / 2, abs=0.1)
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.1)
    assert x1 > x0
    assert y1 < y0  # up is better
