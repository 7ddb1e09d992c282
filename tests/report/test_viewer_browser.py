"""The viewer in a browser, opened as a file: what it shows, what it runs, what it asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.core.escape import clean
from bench.report.viewer.build import write_viewer
from bench.report.viewer.sources import group_of_files
from bench.report.write import report
from tests.fixtures.browser import Browser
from tests.fixtures.cells import edit_result, edit_retrievals, edit_table, write_cell
from tests.fixtures.viewer_data import HOSTILE, LONG, hostile_cell, records_of
from tests.fixtures.viewer_pages import READY, choose, show, state_of, texts


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for method, strength in (("bm25", 0.9), ("dense", 0.3)):
        cell = write_cell(folder, method, strength=strength, top_k=30, tail_patch=0.004)
        edit_table(cell, lambda columns: columns.update({"top10_support=prior": [0.4] * 40}))
        edit_retrievals(cell, lambda records: records[1].update(
            inputs_plaintext="Al Grey's instrument is the", proponents=[
                "Al Grey played the TROMBONE in a band.", *records[1]["proponents"][1:]],
            opponents=["against it"], opponent_ids=["o1"], opponent_scores=[-3.25],
        ))  # fmt: skip
    report(folder, quiet=True)
    return folder


@pytest.fixture
def page(results: Path) -> Path:
    return results / "report" / "viewer" / "index.html"


def shown_queries(chrome: Browser) -> list[str]:
    return texts(chrome, "#queries a .asked")


def first_ranks(cell: Path) -> list[int]:
    return [
        record["proponent_correct"].index(True) + 1 if any(record["proponent_correct"]) else 0
        for record in records_of(cell)
    ]


def cell_of(results: Path, method: str) -> Path:
    return next(results.glob(f"factworld/tiny/{method}/*"))


# ------------------------------------------------------------------ what it shows


def test_a_query_and_its_proponents(chrome: Browser, results: Path, page: Path) -> None:
    show(chrome, page, "#method=bm25&query=q1")
    assert texts(chrome, "h2.question") == ["Al Grey's instrument is the trombone"]
    record = records_of(cell_of(results, "bm25"))[1]
    rows = texts(chrome, "#ranking-0 ~ .x, section.ranking table:first-of-type tbody tr")
    assert len([row for row in rows if "\n" in row]) >= 20
    first = texts(chrome, ".proponents tbody tr:first-child td")
    assert first[0] == "1"
    assert first[2].splitlines() == [record["proponents"][0], record["proponent_ids"][0]]
    heads = texts(chrome, ".proponents table:first-of-type thead th, .proponents thead th")
    score = float(first[heads.index("score")].replace("−", "-"))
    assert score == pytest.approx(record["proponent_scores"][0], rel=1e-3)
    correct = chrome.run("document.querySelectorAll('.proponents tr.correct').length")
    assert correct == sum(record["proponent_correct"][:20])
    assert texts(chrome, "mark.target")[:1] == ["TROMBONE"]
    assert {"Al", "Grey"} <= set(texts(chrome, "td mark.prompt"))
    assert texts(chrome, "h4")[0].startswith("Opponents")
    assert "against it" in texts(chrome, "section.ranking")[0]
    assert "−3.25" in texts(chrome, "section.ranking")[0]
    assert "40% prior" in texts(chrome, ".kinds")[0].replace("\n", " ")
    assert "reciprocal rank" in texts(chrome, ".scores thead")[0]


def test_a_long_list_is_shown_on_demand(chrome: Browser, page: Path) -> None:
    show(chrome, page, "#method=bm25&query=q0")
    count = "document.querySelectorAll('.proponents tbody tr').length"
    assert chrome.run(count) == 20
    chrome.run("document.querySelector('button.all').click()")
    chrome.wait(f"{count} === 30")
    assert "all=1" in state_of(chrome)


def test_the_search_and_the_filters_narrow_the_list(
    chrome: Browser, results: Path, page: Path
) -> None:
    show(chrome, page, "#method=bm25")
    assert len(shown_queries(chrome)) == 40
    chrome.run("document.getElementById('search').focus()")
    chrome.type("17 PLAYS person")
    chrome.wait("document.querySelectorAll('#queries li').length === 1")
    assert texts(chrome, "#count") == ["1 of 40 queries"]
    chrome.run("document.getElementById('clear').click()")
    chrome.wait("document.querySelectorAll('#queries li').length === 40")
    choose(chrome, "#slices select", "instrument")
    chrome.wait("document.querySelectorAll('#queries li').length === 13")
    choose(chrome, "#slices select", "")
    choose(chrome, "#filter", "miss10")
    missed = [rank for rank in first_ranks(cell_of(results, "bm25")) if not 1 <= rank <= 10]
    chrome.wait(f"document.querySelectorAll('#queries li').length === {len(missed)}")
    choose(chrome, "#filter", "")
    choose(chrome, "#score", "mrr")
    chrome.wait("!document.getElementById('min').disabled")
    chrome.run("document.getElementById('filters').open = true")
    chrome.run("document.getElementById('min').focus()")
    chrome.type("0.6")
    high = [rank for rank in first_ranks(cell_of(results, "bm25")) if rank == 1]
    assert 0 < len(high) < 40
    chrome.wait(f"document.querySelectorAll('#queries li').length === {len(high)}")
    assert "score=mrr" in state_of(chrome)


def test_two_methods_side_by_side(chrome: Browser, results: Path, page: Path) -> None:
    show(chrome, page, "#method=bm25&other=dense")
    pairs = list(zip(*(first_ranks(cell_of(results, m)) for m in ("bm25", "dense")), strict=True))
    gains = [(1 / a if a else 0) - (1 / b if b else 0) for a, b in pairs]
    won, lost = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    buttons = texts(chrome, "#duel-buttons button")
    assert [int(text.split()[-1]) for text in buttons] == [won, lost, 40 - won - lost]
    assert texts(chrome, "section.ranking h3") == ["bm25", "dense"]
    assert any("in dense" in " ".join(text.split()) for text in texts(chrome, "th.rival"))
    chrome.run("document.querySelector('#duel-buttons .won').click()")
    chrome.wait(f"document.querySelectorAll('#queries li').length === {won}")
    assert chrome.run("document.querySelectorAll('#queries .duel.won').length") == won
    pressed = "document.querySelector('#duel-buttons .won').getAttribute('aria-pressed')"
    assert chrome.run(pressed) == "true"
    chrome.run("document.getElementById('swap').click()")
    chrome.wait(f"document.querySelectorAll('#queries li').length === {lost}")
    assert "method=dense&other=bm25" in state_of(chrome)


def test_a_link_restores_the_whole_view(chrome: Browser, page: Path) -> None:
    show(chrome, page, "#method=bm25")
    for control, value in (("#method", "dense"), ("#other", "bm25"), ("#filter", "lost"),
                           ("#sort", "mrr:asc"), ("#slices select", "born in")):  # fmt: skip
        choose(chrome, control, value)
        chrome.wait(f"decodeURIComponent({READY}).includes({json.dumps(value.split()[0])})")
    chrome.run("document.querySelector('#queries li:nth-child(2) a').click()")
    chrome.wait(f"{READY}.includes('query=')")
    seen = "document.body.innerText", "[...document.querySelectorAll('select')].map((s) => s.value)"
    before, address = [chrome.run(look) for look in seen], chrome.run("location.hash")
    show(chrome, page, address)
    assert [chrome.run(look) for look in seen] == before
    for part in ("method=dense", "other=bm25", "filter=lost", "by.relation=born"):
        assert part in state_of(chrome)
    chrome.run("history.replaceState(null, '', '#query=nobody')")
    chrome.run("apply()")
    assert texts(chrome, "main") == ["No query is called nobody."]


def test_the_leaderboard_leads_here(chrome: Browser, results: Path) -> None:
    chrome.open(results / "report" / "index.html")
    chrome.wait("document.querySelectorAll('tr.row').length === 2")
    chrome.run("document.querySelector('.open').click()")
    chrome.run("document.querySelector('.command a[href^=viewer]').click()")
    chrome.wait(READY)
    assert texts(chrome, "section.ranking h3") == ["bm25"]
    assert chrome.run("document.querySelector('header a').href").endswith("/report/index.html")


def test_the_keys(chrome: Browser, page: Path) -> None:
    show(chrome, page, "#method=bm25&other=dense")
    focused = "document.activeElement.dataset.query"
    for key, query in (("j", "1"), ("j", "2"), ("k", "1"), ("ArrowDown", "2"), ("ArrowUp", "1")):
        chrome.press(key)
        chrome.wait(f"{READY}.includes('query=q{query}')")
        assert chrome.run(focused) == query
        assert chrome.run("document.querySelectorAll('#queries [aria-current=true]').length") == 1
    chrome.press("x")
    chrome.wait(f"{READY}.includes('method=dense')")
    chrome.press("?")
    assert chrome.run("document.getElementById('help').open")
    chrome.press("Escape")
    chrome.wait("!document.getElementById('help').open")
    chrome.press("/")
    assert chrome.run("document.activeElement.id") == "search"
    chrome.type("j")
    assert "query=q1" in state_of(chrome), "what is written is no command"
    show(chrome, page, "#method=bm25&keys=off")
    chrome.press("j")
    assert "query" not in state_of(chrome)


def test_it_says_what_it_is_to_those_who_listen(chrome: Browser, page: Path) -> None:
    show(chrome, page, "#method=bm25&other=dense&query=q1")
    tree = chrome.call("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node["ignored"]
    ]
    roles = {role for role, _ in found}
    assert {"banner", "navigation", "search", "main", "status", "list", "table"} <= roles
    assert all(
        name for role, name in found if role in ("button", "link", "combobox", "searchbox", "table")
    )
    heads = [name for role, name in found if role == "columnheader"]
    assert {"rank", "correct", "passage", "score"} <= {head.strip() for head in heads} | {"rank"}
    live = "document.getElementById('count').getAttribute('aria-live')"
    assert chrome.run(live) == "polite"


def test_dark_narrow_and_print(chrome: Browser, page: Path) -> None:
    show(chrome, page, "#method=bm25&other=dense")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = chrome.run(paper)
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    chrome.call("Emulation.setEmulatedMedia", features=[dark])
    assert chrome.run(paper) != light
    chrome.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert chrome.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    chrome.call("Emulation.setEmulatedMedia", media="", features=[])
    try:
        chrome.size(400, 800)
        assert chrome.run("document.documentElement.scrollWidth") <= 400
    finally:
        chrome.size(1280, 900)


def test_it_opens_on_two_methods_that_disagree(chrome: Browser, page: Path) -> None:
    show(chrome, page)
    assert {"method=bm25", "other=dense"} <= set(state_of(chrome)[1:].split("&"))
    assert len(texts(chrome, "section.ranking h3")) == 2
    side = "document.querySelector('#queries [aria-current] .duel').title"
    assert chrome.run(side) in ("won", "lost")
    choose(chrome, "#other", "")
    chrome.wait(f"!{READY}.includes('other=')")
    assert texts(chrome, "section.ranking h3") == ["bm25"], "and is left by a choice"


def test_narrow_lists_are_stacked(chrome: Browser, page: Path) -> None:
    """Fault: at 420 pixels, passages were columns of broken words, 12,500 pixels long."""
    try:
        chrome.size(420, 900)
        show(chrome, page, "#method=bm25&other=dense&query=q1")
        assert chrome.run("document.documentElement.scrollWidth") <= 420
        widths = "[...document.querySelectorAll('td.passage')].map((one) => one.offsetWidth)"
        assert min(chrome.run(widths)) >= 280
        cut = "[...document.querySelectorAll('.rankings .scroll')]"
        assert chrome.run(f"{cut}.every((one) => one.scrollWidth <= one.clientWidth)")
        assert chrome.run("document.documentElement.scrollHeight") < 4000
        assert chrome.run("document.querySelectorAll('.proponents tbody tr').length") <= 15
    finally:
        chrome.size(1280, 900)


def test_thousands_of_queries_are_listed_as_they_come_into_sight(
    chrome: Browser, tmp_path: Path
) -> None:
    folder = write_cell(tmp_path, "bm25", n_queries=2000, top_k=3)
    made = write_viewer([group_of_files([folder])], tmp_path / "v")
    show(chrome, made)
    length = "document.querySelectorAll('#queries li').length"
    assert chrome.run(length) < 400
    chrome.run("document.querySelector('.listing').scrollTop = 1e6")
    chrome.wait(f"{length} > 250")
    show(chrome, made, "#query=q1999")
    assert chrome.run(length) < 400
    current = "document.querySelector('#queries [aria-current]')"
    chrome.wait(f"{current}.getBoundingClientRect().bottom <= innerHeight + 1")
    assert chrome.run(f"{current}.parentNode.getAttribute('aria-posinset')") == "2000"
    for _ in range(40):
        chrome.press("k")
    chrome.wait(f"{READY}.includes('query=q1959')")
    assert chrome.run(f"{current}.dataset.query") == "1959"


def test_a_missing_file_is_named(chrome: Browser, tmp_path: Path) -> None:
    made = write_viewer([group_of_files([write_cell(tmp_path)])], tmp_path / "v")
    (tmp_path / "v" / "data" / "g0-passages-00000.js").unlink()
    chrome.open(made)
    chrome.wait("document.querySelector('.failed') !== null")
    assert texts(chrome, ".failed") == [
        "data/g0-passages-00000.js is missing. Write the report again."
    ]


# ------------------------------------------------------------------ what it runs and asks for


def test_a_hostile_corpus_is_text(chrome: Browser, tmp_path: Path) -> None:
    hostile_cell(tmp_path)
    other = write_cell(tmp_path, "dense", names={"task": HOSTILE[:-2]})
    edit_result(other, lambda result: result["method"].update(name=HOSTILE))
    made = report(tmp_path, quiet=True).viewer
    assert made
    before = len(chrome.complaints())
    show(chrome, made)
    shown: list[Any] = [chrome.run("document.querySelector('.passage .text').textContent.length")]
    assert shown[0] < 1100, "a passage of a megabyte is cut"
    whole = HOSTILE.replace("\ud800", "\ufffd")
    second = "document.querySelectorAll('.passage .text')[1].textContent"
    assert chrome.run(second) == f"{whole} 1"
    assert chrome.run("document.querySelector('h2 bdi').textContent") == whole
    chrome.run("document.querySelector('button.more').click()")
    assert chrome.run("document.querySelector('.passage .text').textContent.length") == len(LONG)
    isolates = "getComputedStyle(document.querySelector('.passage .text')).unicodeBidi"
    assert chrome.run(isolates) == "isolate"
    label = chrome.run("document.getElementById('method').value")
    assert clean(HOSTILE[:-2])[:40] in label or clean(HOSTILE)[:40] in label
    options = "[...document.getElementById('other').options].map((option) => option.value)"
    choose(chrome, "#other", chrome.run(options)[1])
    chrome.wait(f"{READY}.includes('other=')")
    choose(
        chrome,
        "#slices select",
        chrome.run("document.querySelector('#slices option:last-child').value"),
    )
    chrome.wait(f"{READY}.includes('by.relation')")
    chrome.open(made, "#query=%3Cimg%20src%3Dx%20onerror%3Dwindow.hacked%3D7%3E")
    chrome.wait("document.querySelector('.failed') !== null")
    assert "<img src=x" in texts(chrome, "main")[0]
    assert chrome.run("window.hacked") is None
    assert chrome.run("document.querySelectorAll('img, svg, iframe, main script').length") == 0
    assert chrome.complaints()[before:] == []


def test_no_markup_can_be_made_even_by_mistake(chrome: Browser, page: Path) -> None:
    show(chrome, page)
    made = "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.hacked=8>')"
    with pytest.raises(RuntimeError, match="TrustedHTML"):
        chrome.run(made)
    with pytest.raises(RuntimeError, match="no name of a data file"):
        chrome.run("load('../../x')")
    assert chrome.run("window.hacked") is None


def test_nothing_outside_its_folder_was_asked_for(chrome: Browser, page: Path) -> None:
    """Of all pages that the tests above have opened; run alone, of this one."""
    show(chrome, page, "#method=bm25&other=dense&all=1")
    requested = chrome.requested() - {"about:blank"}
    assert requested
    assert [address for address in requested if not address.startswith("file:///")] == []
    folder = page.parent.resolve().as_uri()
    here = {a for a in requested if a.startswith(folder)}
    assert {a.partition("#")[0].rpartition(".")[2] for a in here} == {"html", "js"}
