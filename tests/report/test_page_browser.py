"""The leaderboard's page in a browser: its width, what its address holds, keys and the dark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.report.write import report
from tests.fixtures.browser import Browser
from tests.fixtures.cells import edit_result, write_cell

READY = "document.documentElement.dataset.applied"
CUT = """[...document.querySelectorAll('.board')].some((table) =>
    table.parentNode.scrollWidth > table.parentNode.clientWidth)
    || document.documentElement.scrollWidth > document.documentElement.clientWidth"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for method, strength, patch in (
        ("bm25", 0.9, 0.002), ("trackstar", 0.4, 0.006), ("cos_optimizer_hessian", 0.3, 0.005),
        ("gold", 9, 0.004),
    ):  # fmt: skip
        cell = write_cell(folder, method, strength=strength, tail_patch=patch)
        edit_result(cell, lambda r: r["metrics"].update(
            {f"ndcg@{k}": r["metrics"]["mrr"] for k in (1, 5, 10, 20)}
        ))  # fmt: skip
    return report(folder, quiet=True, figures=True).html


def show(chrome: Browser, page: Path, address: str = "", width: int = 1366) -> None:
    chrome.size(width, 900)
    chrome.open(page, address)
    chrome.wait(READY)


def shown_columns(chrome: Browser) -> list[str]:
    return chrome.run(
        "[...document.querySelectorAll('.board > thead th')].filter((head) => !head.hidden)"
        ".map((head) => head.dataset.column)"
    )


def methods(chrome: Browser) -> list[str]:
    return chrome.run(
        "[...document.querySelectorAll('tbody[data-method]')].filter((body) => !body.hidden)"
        ".map((body) => body.dataset.method)"
    )


@pytest.mark.parametrize("width", [1366, 420])
def test_nothing_is_cut(chrome: Browser, page: Path, width: int) -> None:
    """Fault: columns lay outside a window of 1,366 pixels, behind a bar that few saw."""
    show(chrome, page, width=width)
    assert chrome.run(CUT) is False
    shown = shown_columns(chrome)
    assert shown[:2] == ["label", "mrr"]
    assert len(shown) >= (8 if width == 1366 else 2)
    assert "n_passages" not in shown, "equal in all rows"
    assert "Equal in all rows: passages 500" in chrome.run("document.body.innerText")


def test_links_and_figures_lead(chrome: Browser, page: Path) -> None:
    show(chrome, page)
    ends = chrome.run(
        "[...document.querySelectorAll('.files a')].map((a) => a.getBoundingClientRect().bottom)"
    )
    assert len(ends) == 6
    assert max(ends) < 300
    top = "document.querySelector({}).getBoundingClientRect().top"
    assert chrome.run(top.format("'figure svg'")) < chrome.run(top.format("'.board'"))


def test_the_address_keeps_what_is_chosen(chrome: Browser, page: Path) -> None:
    show(chrome, page)
    assert methods(chrome)[0] == "gold"
    chrome.run("document.querySelector('[data-column=tail_patch] button').click()")
    by_patch = ["trackstar", "cos_optimizer_hessian", "gold", "bm25"]
    assert methods(chrome) == by_patch
    chrome.run("document.querySelector('[data-column=tail_patch] button').click()")
    chrome.run("document.getElementById('filter').focus()")
    chrome.type("r")
    chrome.run("document.querySelector('#columns [value=seconds]').click()")
    address = chrome.run("location.hash")
    assert "sort=tail_patch%3Aascending" in address
    assert "filter=r" in address
    columns = shown_columns(chrome)
    show(chrome, page, address)
    assert methods(chrome) == ["cos_optimizer_hessian", "trackstar"]
    assert shown_columns(chrome) == columns
    assert chrome.run("document.getElementById('filter').value") == "r"
    chrome.run("document.getElementById('fit').click()")
    assert "columns" not in chrome.run("location.hash")
    chrome.run("history.back()")
    chrome.wait("location.hash.includes('columns')")
    chrome.wait(f"{json.dumps(address)} === location.hash")


def test_an_address_of_something_else_changes_nothing(chrome: Browser, page: Path) -> None:
    show(chrome, page, "#sort=nothing:up&figures")
    assert methods(chrome)[0] == "gold"
    sorted_by = "document.querySelector('[aria-sort]').dataset.column"
    assert chrome.run(sorted_by) == "mrr"


def test_the_sorted_column_is_shown_however_narrow(chrome: Browser, page: Path) -> None:
    show(chrome, page, "#sort=peak_mib:descending", width=420)
    assert "peak_mib" in shown_columns(chrome)
    assert chrome.run(CUT) is False


def test_keys_alone_sort_and_open(chrome: Browser, page: Path) -> None:
    show(chrome, page)
    chrome.run("document.querySelector('[data-column=mrr] button').focus()")
    chrome.press(" ")
    chrome.wait("document.querySelector('[data-column=mrr]').ariaSort === 'ascending'")
    assert methods(chrome)[-1] == "gold"
    assert chrome.run("document.activeElement.parentNode.dataset.column") == "mrr"
    chrome.run("document.querySelector('.open').focus()")
    chrome.press(" ")
    chrome.wait("document.querySelector('.open').ariaExpanded === 'true'")
    tips = chrome.run(
        "[...document.querySelectorAll('.board > thead button')].slice(1)"
        ".filter((button) => !button.title).length"
    )
    assert tips == 0, "every column says what it means"


def test_the_dark_page_is_dark_and_has_contrast(
    chrome: Browser, page: Path, tmp_path: Path
) -> None:
    show(chrome, page)
    chrome.look(tmp_path / "dark.png", 1366, 900, dark=True)
    style = "getComputedStyle(document.querySelector({!r})).{}"
    assert chrome.run(style.format("body", "backgroundColor")) == "rgb(20, 23, 27)"
    assert chrome.run(style.format(".files .first", "color")) == "rgb(20, 23, 27)"
    chrome.look(tmp_path / "light.png", 1366, 900)


def test_nothing_complains(chrome: Browser) -> None:
    """Of all pages that the tests above have opened."""
    assert chrome.complaints() == []
