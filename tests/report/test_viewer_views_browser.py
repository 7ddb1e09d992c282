"""The viewer in a browser: shading, search of passages, export, three methods, wins by group."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.report.viewer.build import write_viewer
from bench.report.viewer.sources import group_of_files
from bench.report.write import report
from tests.fixtures.browser import Browser
from tests.fixtures.cells import add_spans, edit_retrievals, write_cell
from tests.fixtures.viewer_data import HOSTILE, records_of
from tests.fixtures.viewer_pages import READY, choose, show, state_of, texts

METHODS = ("trackstar", "bm25", "dense")
CORPUS = [
    "Al Grey played the 🎺 trombone in a band of Virginia for years, as every listener knows.",
    "naïve 日本 text",
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for method, strength in zip(METHODS, (0.5, 0.9, 0.3), strict=True):
        cell = write_cell(folder, method, strength=strength, top_k=30)

        def change(records: list[dict[str, Any]], method: str = method) -> None:
            for record in records:
                record.update(
                    opponents=["it is not so", "nor so"], opponent_ids=["o1", "o2"],
                    opponent_scores=[-0.5, -0.25],
                )  # fmt: skip
            records[1].update(
                inputs_plaintext="Al Grey's instrument is the",
                proponents=[*CORPUS, *records[1]["proponents"][2:]],
                proponent_scores=[8.0, 4.0, *records[1]["proponent_scores"][2:]],
            )
            records[7]["proponents"][24] = f"only in a list of {method}: Xylophone | *star*"

        edit_retrievals(cell, change)
        if method == "trackstar":
            add_spans(cell)
    report(folder, quiet=True)
    return folder


@pytest.fixture
def page(results: Path) -> Path:
    return results / "report" / "viewer" / "index.html"


def cell_of(results: Path, method: str) -> Path:
    return next(results.glob(f"factworld/tiny/{method}/*"))


def first_correct(record: dict[str, Any]) -> int:
    correct = record["proponent_correct"]
    return correct.index(True) + 1 if True in correct else 0


# ------------------------------------------------------------------ shading


def test_tokens_are_shaded_by_their_shares(chrome: Browser, results: Path, page: Path) -> None:
    show(chrome, page, "#method=trackstar&query=q1")
    record = records_of(cell_of(results, "trackstar"))[1]
    shown = chrome.run(
        "[...document.querySelectorAll('.proponents')].map((table) => "
        "[...table.querySelectorAll('td.passage')].map((cell) => "
        "[...cell.querySelectorAll('.share')].map((one) => "
        "[one.textContent, one.className, one.title])))"
    )
    assert len(shown) == 2, "proponents and opponents"
    for side, table in zip(("proponent", "opponent"), shown, strict=True):
        lists = zip(record[f"{side}s"], record[f"{side}_scores"], record[f"{side}_spans"],
                    table, strict=False)  # fmt: skip
        for text, score, spans, found in lists:
            if spans is None:
                assert found == []
                continue
            most = max(abs(share) for *_, share in spans)
            kinds = [
                f"{'adds' if share > 0 else 'takes'}{round(5 * abs(share) / most)}"
                for *_, share in spans
            ]
            # A word that is marked within its token is a piece of its own.
            covered = "".join(text[start:end] for start, end, _ in spans)
            assert "".join(piece for piece, *_ in found) == covered
            seen = itertools.groupby(kind.split()[1] for _, kind, _ in found)
            assert [kind for kind, _ in seen] == [kind for kind, _ in itertools.groupby(kinds)]
            percents = [int(re.search(r"(\d+)% of the score", title)[1]) for *_, title in found]
            assert max(percents) == pytest.approx(100 * most / abs(score), abs=1.1)
    assert "🎺" in "".join(piece for piece, *_ in shown[0][0])
    told = texts(chrome, ".told")
    assert len(told) == 12
    assert told[0].endswith("Al +1.26 played +1.26 🎺 +1.26"), "8 in 19 parts, of which each has 3"
    legend = " ".join(texts(chrome, ".legend"))
    assert "Shaded: what a token adds to the score" in legend
    assert texts(chrome, "td mark.target") == ["trombone"]
    assert {"Al", "Grey"} <= set(texts(chrome, "td mark.prompt"))
    show(chrome, page, "#method=bm25&query=q1")
    assert texts(chrome, "main .share") == [], "only the help has samples"
    assert "Shaded" not in " ".join(texts(chrome, ".legend"))


def test_shading_is_seen_in_the_light_and_in_the_dark(chrome: Browser, page: Path) -> None:
    show(chrome, page, "#method=trackstar&query=q1")
    look = (
        "['td .adds5', 'td .takes2', 'td mark.target'].map((one) => {"
        "const style = getComputedStyle(document.querySelector(one));"
        "return one.includes('mark') ? style.borderBottomColor : style.backgroundColor })"
    )
    seen = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        chrome.call("Emulation.setEmulatedMedia", features=[feature])
        seen.append(chrome.run(look))
        assert len(set(seen[-1])) == 3
        assert not any("rgba(0, 0, 0, 0)" in color for color in seen[-1])
    chrome.call("Emulation.setEmulatedMedia", features=[])
    assert all(light != dark for light, dark in zip(*seen, strict=True))


def test_a_hostile_passage_with_shares_is_text(chrome: Browser, tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "trackstar", n_queries=2, top_k=3)
    text = HOSTILE.replace("\ud800", "")

    def spoil(records: list[dict[str, Any]]) -> None:
        for record in records:
            record.update(proponents=[text, f"{text} 1", "x" * 3000], targets_plaintext=text)
            spans = [[at, at + 3, 0.5] for at in range(0, len(text) - 3, 3)]
            record["proponent_spans"] = [spans, spans, [[0, 900, 1.0], [900, 3000, -1.0]]]

    edit_retrievals(cell, spoil)
    made = write_viewer([group_of_files([cell])], tmp_path / "v")
    show(chrome, made)
    assert chrome.run("window.hacked") is None
    assert chrome.run("document.querySelectorAll('main script, main img, main svg').length") == 0
    seen = chrome.run("document.querySelector('td.passage .text').textContent")
    assert seen == text
    long = "[...document.querySelectorAll('td.passage')][2]"
    assert chrome.run(f"{long}.querySelector('.text').textContent.length") == 1001
    chrome.run(f"{long}.querySelector('.more').click()")
    assert chrome.run(f"{long}.querySelector('.takes5').textContent.length") == 2100


# ------------------------------------------------------------------ search, export, comparison


def test_passages_are_searched(chrome: Browser, results: Path, page: Path) -> None:
    show(chrome, page, "#method=trackstar")
    chrome.run("document.getElementById('in').click()")
    chrome.run("document.getElementById('search').focus()")
    chrome.type("XYLOPHONE list")
    chrome.wait("document.querySelectorAll('#queries li').length === 1")
    chrome.wait(f"{READY}.includes('in=passages')")
    assert texts(chrome, "#count") == ["1 of 40 queries"]
    chrome.wait("document.querySelector('.found') !== null")
    assert texts(chrome, ".found") == ["The words searched for are in: 25."]
    chrome.run("document.getElementById('clear').click()")
    chrome.wait("document.querySelectorAll('#queries li').length === 40")
    chrome.wait("document.querySelector('.found') === null")
    # Every list shown counts, opponents too, and a link restores the search.
    word = records_of(cell_of(results, "bm25"))[3]["proponents"][4]
    records = {method: records_of(cell_of(results, method)) for method in METHODS}
    words = word.split()
    for shown in (["bm25"], ["bm25", "dense"]):
        holding = {
            record["example_id"]
            for method in shown
            for record in records[method]
            if any(
                all(one in text for one in words)
                for text in (*record["proponents"], *record["opponents"])
            )
        }
        other = "&other=dense" if len(shown) > 1 else ""
        show(chrome, page, f"#method=bm25{other}&in=passages&search={word.replace(' ', '+')}")
        listed = chrome.run(
            "[...document.querySelectorAll('#queries a')].map((one) => 'q' + one.dataset.query)"
        )
        assert set(listed) == holding
        assert 0 < len(holding) < 40
    show(chrome, page, "#method=bm25&in=passages&search=nor+so")
    assert len(texts(chrome, "#queries li")) == 40
    assert texts(chrome, ".found") == ["The words searched for are in: opponent 2."]
    chrome.open(page, "#method=bm25&in=passages&search=nowhere+at+all")
    chrome.wait("document.querySelector('main .note') !== null")
    assert texts(chrome, "main") == ["No query to show."]


def downloaded(chrome: Browser, folder: Path, form: str) -> Path:
    chrome.run(f"document.querySelector('.export [data-format={form}]').click()")
    end = time.monotonic() + 15
    while time.monotonic() < end:
        if found := [path for path in folder.glob(f"*.{form}") if path.stat().st_size]:
            return found[0]
        time.sleep(0.05)
    raise TimeoutError("nothing was saved")


def test_a_query_is_exported(chrome: Browser, results: Path, page: Path, tmp_path: Path) -> None:
    show(chrome, page, "#method=trackstar&other=bm25&query=q7&all=1")
    chrome.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    path = downloaded(chrome, tmp_path, "json")
    assert path.name == "query-q7.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    record = records_of(cell_of(results, "trackstar"))[7]
    assert (data["query"], data["prompt"]) == ("q7", record["inputs_plaintext"])
    assert [one["method"] for one in data["methods"]] == ["trackstar", "bm25"]
    listed = data["methods"][0]["proponents"]
    assert [one["text"] for one in listed] == record["proponents"]
    assert [one["id"] for one in listed] == record["proponent_ids"]
    assert [one["correct"] for one in listed] == record["proponent_correct"]
    assert [one["score"] for one in listed] == pytest.approx(record["proponent_scores"], rel=1e-4)
    assert [len(one.get("shares", ())) for one in listed[9:11]] == [2, 0]
    assert sum(share for *_, share in listed[0]["shares"]) == pytest.approx(
        record["proponent_scores"][0], rel=1e-2
    )
    opponents = data["methods"][0]["opponents"]
    assert [one["text"] for one in opponents] == record["opponents"]
    assert opponents[0]["shares"]
    assert data["methods"][1]["measures"]["mrr"] is not None
    text = downloaded(chrome, tmp_path, "md").read_text(encoding="utf-8")
    assert text.startswith("# Person 7 plays the **trombone**\n")
    line = next(line for line in text.splitlines() if "Xylophone" in line)
    assert r"Xylophone \| \*star\*" in line
    rows = [line for line in text.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 2 * (30 + 2)
    show(chrome, page, "#method=trackstar&query=q7")
    short = "exported(shownView, 7, readState()).then((data) => data.methods[0].proponents.length)"
    assert chrome.run(short) == 20, "what is not shown is not saved"


def test_three_methods(chrome: Browser, results: Path, page: Path) -> None:
    show(chrome, page, "#method=trackstar&other=bm25&query=q2")
    choose(chrome, "#third", "dense")
    chrome.wait(f"{READY}.includes('third=dense')")
    assert texts(chrome, "section.ranking h3") == list(METHODS)
    assert chrome.run("document.querySelectorAll('#queries li:first-child .rank').length") == 3
    assert len(texts(chrome, ".scores tbody tr")) == 3
    own = records_of(cell_of(results, "trackstar"))[2]["proponent_ids"]
    for method in ("bm25", "dense"):
        others = records_of(cell_of(results, method))[2]["proponent_ids"]
        head = json.dumps(f'td[data-head="in {method}"]')
        first = f"document.querySelectorAll('section.ranking')[0].querySelectorAll({head})"
        ranks = chrome.run(f"[...{first}].map((one) => one.innerText.trim())")
        assert ranks == [str(others.index(i) + 1) if i in others else "–" for i in own[:20]]
    choose(chrome, "#method", "dense")
    chrome.wait(f"{READY}.includes('method=dense')")
    assert texts(chrome, "section.ranking h3") == ["dense", "bm25"], "a method is not its own rival"
    choose(chrome, "#other", "")
    chrome.wait(f"!{READY}.includes('other=')")
    assert chrome.run("document.getElementById('third').parentNode.hidden")


def test_wins_by_group(chrome: Browser, results: Path, page: Path) -> None:
    show(chrome, page, "#method=trackstar&other=bm25")
    assert texts(chrome, "#wins-table table") == [], "nothing is made before it is opened"
    chrome.run("document.querySelector('#wins summary').click()")
    chrome.wait("document.querySelector('#wins-table table') !== null")
    lists = [records_of(cell_of(results, method)) for method in ("trackstar", "bm25")]
    expected: dict[str, Counter[str]] = {}
    for one, other in zip(*lists, strict=True):
        own, its = (1 / rank if (rank := first_correct(record)) else 0 for record in (one, other))
        side = "won" if own > its else "lost" if own < its else "tied"
        expected.setdefault(one["relation"], Counter())[side] += 1
    rows = [text.split("\t") for text in texts(chrome, "#wins-table tbody tr")]
    found = {name.strip(): [int(n) for n in counts] for name, *counts in rows}
    sides = ("won", "lost", "tied")
    assert found == {label: [n[side] for side in sides] for label, n in expected.items()}
    leads = [counts[0] - counts[1] for counts in found.values()]
    assert leads == sorted(leads, reverse=True)
    label = next(iter(found))
    chrome.run("document.querySelector('#wins-table tbody button').click()")
    chrome.wait(f"document.querySelectorAll('#queries li').length === {sum(found[label])}")
    assert f"by.relation={label.replace(' ', '+')}" in state_of(chrome)
    assert len(texts(chrome, "#wins-table tbody tr")) == len(found), "others can still be chosen"


# ------------------------------------------------------------------ screens, keys, many queries


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1366, 420])
@pytest.mark.parametrize("others", ["", "&other=bm25", "&other=bm25&third=dense"])
def test_nothing_is_cut(chrome: Browser, page: Path, scheme: str, width: int, others: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    chrome.call("Emulation.setEmulatedMedia", features=[feature])
    try:
        chrome.size(width, 900)
        show(chrome, page, f"#method=trackstar{others}&query=q1&wins=relation")
        assert chrome.run("document.documentElement.scrollWidth") <= width
        cut = "[...document.querySelectorAll('.rankings .scroll, main, nav, #wins-table')]"
        assert chrome.run(f"{cut}.every((one) => one.scrollWidth <= one.clientWidth)")
        widths = "[...document.querySelectorAll('td.passage')].map((one) => one.offsetWidth)"
        assert min(chrome.run(widths)) >= (200 if width > 1000 else 280)
    finally:
        chrome.call("Emulation.setEmulatedMedia", features=[])
        chrome.size(1366, 900)


def test_everything_is_reached_by_keys(chrome: Browser, page: Path) -> None:
    show(chrome, page, "#method=trackstar&other=bm25&third=dense&query=q0")
    reached = []
    for _ in range(80):
        chrome.press("Tab")
        reached.append(
            chrome.run("""(() => {
            const one = document.activeElement;
            return one.id || one.dataset.format || one.closest('[id]')?.id || one.className })()""")
        )
    for name in ("search", "in", "third", "filters", "wins", "json", "md", "duel-buttons"):
        assert name in reached, name
    for control, pressed, shown in (
        ("document.getElementById('in')", " ", "in=passages"),
        ("document.querySelector('#wins summary')", " ", "wins=relation"),
        ("document.querySelector('#wins-table tbody button')", " ", "by.relation="),
    ):
        chrome.run(f"{control}.focus()")
        chrome.press(pressed)
        chrome.wait(f"decodeURIComponent({READY}).includes({json.dumps(shown)})")


@pytest.mark.slow
def test_thousands_of_queries_of_three_methods_are_never_all_made(
    chrome: Browser, tmp_path: Path
) -> None:
    cells = [write_cell(tmp_path, method, n_queries=5000, top_k=10) for method in METHODS]
    add_spans(cells[0])
    made = write_viewer([group_of_files(cells)], tmp_path / "v")
    labels = [f"{cell.parent.name}/{cell.name[:8]}" for cell in cells]
    chosen = "&".join(
        f"{name}={label}" for name, label in zip(("method", "other", "third"), labels, strict=True)
    )
    nodes = "document.querySelectorAll('*').length"
    before = len(chrome.requested())
    show(chrome, made, f"#{chosen}&query=q2500")
    assert chrome.run(nodes) < 6000
    asked = chrome.requested()
    # The page, the catalog, queries, measures and one chunk of lists a method, some of passages.
    assert len(asked) - before <= 3 + 2 * 3 + 30 * 3
    all_files = len(list((tmp_path / "v" / "data").iterdir()))
    for number in range(2501, 2506):
        chrome.press("j")
        chrome.wait(f"{READY}.includes('query=q{number}')")
    assert len(chrome.requested() - asked) < all_files / 10
    assert chrome.run(nodes) < 6000
