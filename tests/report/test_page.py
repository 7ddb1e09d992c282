"""The leaderboard as a page, and names that try to be more than names in every format."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import pytest

from bench.core import escape
from bench.report.write import Written, report
from bench.results.schema import read_cells
from tests.fixtures.cells import edit_result, write_cell
from tests.fixtures.reports import HOSTILE, Page, three_cells


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return three_cells(tmp_path)


@pytest.fixture
def paths(results: Path) -> Written:
    return report(results, quiet=True)


def test_page_shows_every_row_with_its_numbers_and_details(results: Path, paths: Written) -> None:
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


def test_page_links_to_the_rankings(paths: Written) -> None:
    links = [attrs["href"] or "" for attrs in Page(paths.html).all("a")]
    top, rows = links[:5], links[5:]
    assert top == [
        "viewer/index.html", "leaderboard.csv", "significance.csv", "leaderboard.tex",
        "leaderboard.md",
    ]  # fmt: skip
    assert len(rows) == 6, "the rankings of each row, and the viewer that shows them"
    assert all((paths.html.parent / link.partition("#")[0]).is_file() for link in links)
    assert "viewer/index.html#task=factworld&model=tiny&method=bm25" in links


@pytest.mark.parametrize("figures", [False, True])
def test_page_asks_nothing_of_the_outside(results: Path, figures: bool) -> None:
    paths = report(results, quiet=True, figures=figures)
    page = Page(paths.html)
    assert bool(page.all("svg")) == figures
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
    assert not re.search(r"url\((?!#)", html), "only to parts of the page itself"
    assert not page.all("style")[2:], "a drawn figure brings no style sheet for the whole page"
    assert not page.all("link")


def test_page_heads_are_buttons_and_the_sorted_one_says_so(paths: Written) -> None:
    page = Page(paths.html)
    assert [a["aria-sort"] for a in page.all("th") if "aria-sort" in a] == ["descending"]
    openers = [a for a in page.all("button") if a.get("class") == "open"]
    ids = {a.get("id") for a in page.all("tr")}
    assert len(openers) == 3
    assert all(a["aria-expanded"] == "false" and a["aria-controls"] in ids for a in openers)


# ------------------------------------------------------------------ the figure on the page


def scatters(page: Page) -> list[dict[str, str | None]]:
    """The figures on a page that show attribution against influence."""
    svgs = page.all("svg")
    return [one for one in svgs if (one["aria-label"] or "").startswith("Attribution (")]


def test_two_methods_with_both_metrics_are_drawn_and_one_is_not(tmp_path: Path) -> None:
    """Fault: a lone point had axes of its own, which said nothing."""
    write_cell(tmp_path, "bm25")
    write_cell(tmp_path, "dense", tail_patch=0.01)
    assert not scatters(Page(report(tmp_path, quiet=True, figures=True).html))
    write_cell(tmp_path, "trackstar", tail_patch=0.02)
    page = Page(report(tmp_path, quiet=True, figures=True).html)
    assert [tag["role"] for tag in scatters(page)] == ["img"]
    drawn = {"dense", "trackstar"}
    titles = [text for text in page.text if re.match(r"(dense|trackstar): 0\.\d{3}, \+\d", text)]
    assert {title.partition(":")[0] for title in titles} == drawn, "what a mark tells on hover"
    assert page.text.count("trackstar") >= 3, "its name stays text in the figure"


def test_figures_of_two_boards_share_no_names_of_parts(tmp_path: Path) -> None:
    for method in ("bm25", "dense"):
        write_cell(tmp_path, method, tail_patch=0.01)
        write_cell(tmp_path, method, tail_patch=0.01, model="small")
    html = report(tmp_path, quiet=True, figures=True).html
    page = Page(html)
    assert len(scatters(page)) == 2
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [link for _, attrs in page.tags if (link := attrs.get("href") or "").startswith("#")]
    clips = re.findall(r"url\(#([^)]*)\)", html.read_text(encoding="utf-8"))
    assert links
    assert clips
    assert {*clips, *(link.removeprefix("#") for link in links)} <= set(ids)


def test_page_has_slices_as_tables(paths: Written) -> None:
    page = Page(paths.html)
    assert [tag["class"] for tag in page.all("details")].count("slice") == 2, "MRR and tail-patch"
    assert {"born in", "instrument", "capital of"} <= set(page.text)


@pytest.fixture
def hostile(tmp_path: Path) -> Written:
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
    return report(tmp_path, quiet=True, figures=True)


def test_no_name_becomes_markup_or_script(
    hostile: Written, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("plain")
    for seed in (0, 1):
        write_cell(other, "new_one", seed=seed, tail_patch=0.01)
    page, plain = Page(hostile.html), Page(report(other, quiet=True, figures=True).html)
    assert page.all("svg")
    assert page.scripts == plain.scripts
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags}
    assert {a for _, at in page.tags for a in at} <= {a for _, at in plain.tags for a in at}
    seen = escape.clean(HOSTILE)
    assert any(seen in text for text in page.text)


def test_page_runs_no_script_but_its_own(hostile: Written) -> None:
    import base64
    import hashlib

    page = Page(hostile.html)
    policy = next(a["content"] or "" for a in page.all("meta") if "http-equiv" in a)
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_no_format_holds_control_characters(
    hostile: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    report(hostile.html.parent.parent, figures=True)
    texts = [capsys.readouterr().out]
    written = [path for path in hostile.folder.iterdir() if path.is_file()]
    assert len(written) == 7
    for path in written:
        texts.append(path.read_text(encoding="utf-8"))
    for text in texts:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e]", text)


def test_markdown_rows_keep_their_columns(hostile: Written) -> None:
    lines = (hostile.folder / "leaderboard.md").read_text(encoding="utf-8").splitlines()
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
