"""The site of this repository in a browser: every link leads somewhere, and no page is cut."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import pytest
from matplotlib.figure import Figure

from bench.report.publishing.bundle import write_bundle
from bench.report.publishing.site import build_site
from tests.fixtures.browser import Browser
from tests.fixtures.cells import write_cell
from tests.fixtures.sources import ROOT

pytestmark = pytest.mark.slow
LOADED = "document.readyState === 'complete' && location.protocol === 'file:'"
# What a page leads to, as the browser resolves it, and the places in it that others can lead to.
ASKED = """JSON.stringify({
    links: [...document.querySelectorAll('a[href]')].map((link) => link.href),
    pictures: [...document.images].map((image) => [image.src, image.naturalWidth]),
    places: [...document.querySelectorAll('[id]')].map((element) => element.id),
    title: document.title,
})"""
CUT = """document.documentElement.scrollWidth > document.documentElement.clientWidth
    || [...document.querySelectorAll('.board')].some((table) =>
        table.parentNode.scrollWidth > table.parentNode.clientWidth)"""


def saved_in_page(
    figure: Figure, save: Callable[..., None], stream: IO[Any], **settings: Any
) -> None:
    """Save a figure, unless it goes into a file of its own."""
    if isinstance(stream, io.StringIO):
        save(figure, stream, **settings)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of this repository's tables and documents, and of a board with rows of others.

    Figures are drawn in the pages alone: their files, which pages link to, are left empty.
    """
    folder = tmp_path_factory.mktemp("built")
    for runs, method in (("shared", "bm25"), ("theirs", "bm25"), ("theirs", "trackstar")):
        write_cell(folder / runs, method, tail_patch=0.01, n_gold=25)
    write_bundle(folder / "theirs", folder / "bundle.zip", "Ada Group", "https://example.org/")
    results = [ROOT / "results", folder / "shared"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", partialmethod(saved_in_page, Figure.savefig))
        built = build_site(folder / "site", results, [folder / "bundle.zip"], ROOT / "docs")
    assert built.refused == []
    return folder / "site"


@pytest.fixture(scope="module")
def pages(chrome: Browser, site: Path) -> dict[Path, dict[str, Any]]:
    """Every page of the site as the browser has it."""
    asked = {}
    chrome.size(1366, 900)
    for page in sorted(site.rglob("*.html")):
        chrome.open(page)
        chrome.wait(f"{LOADED} && location.pathname.endsWith({json.dumps(page.name)})")
        asked[page] = json.loads(chrome.run(ASKED))
    return asked


def test_there_is_a_page_of_everything(site: Path, pages: dict[Path, dict[str, Any]]) -> None:
    names = {page.relative_to(site).as_posix() for page in pages}
    assert {
        "index.html", "README.html", "docs/concepts.html", "docs/guide.html", "docs/methods.html",
        "docs/metrics.html", "docs/settings.html", "docs/api.html", "docs/engines.html",
        "docs/findings.html", "docs/publishing.html", "results/quickstart/index.html",
        "results/shared/index.html", "results/shared/viewer/index.html",
    } <= names  # fmt: skip
    assert all(page["title"] for page in pages.values())


def test_every_link_and_anchor_leads_somewhere(
    site: Path, pages: dict[Path, dict[str, Any]]
) -> None:
    dead, n_links = [], 0
    for page, asked in pages.items():
        for link in asked["links"]:
            parts = urlsplit(link)
            if parts.scheme != "file":
                assert parts.scheme in ("http", "https"), link
                continue
            n_links += 1
            target = Path(unquote(parts.path))
            anchor = unquote(parts.fragment)
            there = target.is_file() and site in target.parents
            state = "=" in anchor  # the choice of rows and columns, no place in the page
            if not there or (anchor and not state and anchor not in pages[target]["places"]):
                dead.append((page.relative_to(site).as_posix(), link))
    assert n_links > 500
    assert dead == []


def test_every_picture_is_shown(pages: dict[Path, dict[str, Any]]) -> None:
    pictures = [one for asked in pages.values() for one in asked["pictures"]]
    assert len(pictures) >= 5
    assert [source for source, width in pictures if not width] == []


@pytest.mark.parametrize("width", [1366, 420])
@pytest.mark.parametrize(
    "page",
    ["index.html", "README.html", "docs/settings.html", "docs/methods.html", "docs/findings.html",
     "docs/publishing.html", "results/quickstart/index.html", "results/ground_truth/index.html"],
)  # fmt: skip
def test_no_page_is_cut(chrome: Browser, site: Path, page: str, width: int) -> None:
    chrome.size(width, 900)
    chrome.open(site / page)
    ready = "document.documentElement.dataset.applied" if page.startswith("results") else "true"
    chrome.wait(f"{LOADED} && {ready}")
    assert not chrome.run(CUT)


def test_nothing_is_asked_of_the_network(
    chrome: Browser, pages: dict[Path, dict[str, Any]]
) -> None:
    assert pages
    asked = {urlsplit(url).scheme for url in chrome.requested()}
    assert asked <= {"file", "about", "data"}
    assert chrome.complaints() == []


def test_a_row_of_others_says_whose_it_is(chrome: Browser, site: Path) -> None:
    chrome.size(1366, 900)
    chrome.open(site / "results/shared/index.html")
    chrome.wait("document.documentElement.dataset.applied")
    row = "document.querySelector('tbody[data-method^=\"bm25 (by Ada Group\"]')"
    assert "verified 20" in chrome.run(f"{row}.querySelector('th').innerText")
    chrome.run(f"{row}.querySelector('.open').click()")
    assert "Handed in by Ada Group" in chrome.run(f"{row}.innerText")
    assert chrome.run(f"{row}.querySelector('.source a').href") == "https://example.org/"
