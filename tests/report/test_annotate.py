"""The blinded sheet: what people see of it, and what comes back."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.cli.main import main
from bench.core.errors import UserError
from bench.report.annotate.read import read_answers
from bench.report.annotate.sheet import Item, make_sheet, pair_id
from bench.report.annotate.write import html, write
from metrics.stats.agreement import compare
from tests.fixtures.cells import edit_result, edit_retrievals, write_cell

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)> "q", =1+1\n\u202e\x1b[2J'
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two cells that judge equal pairs equally: ``bm25`` lists what ``trackstar`` lists."""
    folder = write_cell(tmp_path / "runs", "trackstar", strength=2, n_queries=12, top_k=5)
    shutil.copytree(folder, tmp_path / "runs" / "factworld" / "tiny" / "bm25" / folder.name)
    return tmp_path / "runs"


def edit_all(runs: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    for path in runs.glob("*/*/*/*"):
        edit_retrievals(path, change)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def export(runs: Path, *words: str) -> Path:
    out = runs.parent / "out"
    assert main(["annotate", "export", str(runs), "--out", str(out), *words]) == 0
    return out / "sheet.csv"


# ------------------------------------------------------------------ export


def test_a_sheet_merges_duplicates_and_hides_methods(runs: Path) -> None:
    sheet = rows(export(runs, "--queries", "4", "--top", "3"))
    assert len(sheet) == len({row["pair_id"] for row in sheet}) == 4 * 3
    assert len({row["claim"] for row in sheet}) == 4
    assert all(row["claim"].endswith(" plays the trombone") for row in sheet)
    assert list(sheet[0]) == ["pair_id", "passage", "claim", "answer"]
    page = (runs.parent / "out" / "annotate.html").read_text(encoding="utf-8")
    for text in (page, json.dumps(sheet)):
        for secret in ("trackstar", "bm25", "factworld", "score", '"q1"'):
            assert secret not in text


def test_an_answered_sheet_is_never_written_over(runs: Path, capsys: Capture) -> None:
    sheet = export(runs, "--queries", "4", "--top", "3")
    answered = sheet.read_bytes().replace(b",\n", b",y\n")
    sheet.write_bytes(answered)
    words = ["annotate", "export", str(runs), "--queries", "5", "--out", str(sheet.parent)]
    assert main(words) == 2
    assert "is there already; choose another --out" in capsys.readouterr().err
    assert sheet.read_bytes() == answered


def test_the_order_is_shuffled_by_the_seed(runs: Path) -> None:
    first, again, other = (make_sheet(runs, 12, 5, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert {item.pair_id for item in first} == {item.pair_id for item in other}
    claims = [item.claim for item in first]
    assert sum(a == b for a, b in itertools.pairwise(claims)) < len(claims) / 2
    few = [{item.claim for item in make_sheet(runs, 3, 5, seed)} for seed in range(5)]
    assert len(set(map(frozenset, few))) > 1


def test_a_cell_more_changes_no_id(runs: Path) -> None:
    before = make_sheet(runs, 5, 5, 0)
    write_cell(runs, "dense", strength=0.1, n_queries=12, top_k=5)
    after = make_sheet(runs, 5, 5, 0)
    assert {item.claim for item in after} == {item.claim for item in before}
    assert set(before) < set(after)


@pytest.mark.parametrize("words", [["--queries", "0"], ["--top", "0"], ["--top", "x"]])
def test_a_wrong_number(runs: Path, words: list[str], capsys: Capture) -> None:
    out = str(runs.parent / "out")
    assert main(["annotate", "export", str(runs), "--out", out, *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_hostile_text_is_text(runs: Path) -> None:
    def poison(records: list[dict[str, Any]]) -> None:
        for record in records:
            record["proponents"][0] = HOSTILE + record["example_id"]
            record["targets_plaintext"] = "=HYPERLINK(1)" + HOSTILE

    edit_all(runs, poison)
    path = export(runs, "--queries", "3", "--top", "2")
    for row in rows(path):
        assert not re.match(r"[=+@-]", row["passage"] + row["claim"])
        assert "\x1b" not in str(row)
        assert "\n" not in row["passage"]

    class Tags(HTMLParser):
        tags: list[tuple[str, dict[str, str | None]]] = []  # noqa: RUF012
        text = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append((tag, dict(attrs)))

        def handle_data(self, data: str) -> None:
            self.text += data

    page = Tags()
    page.feed((path.parent / "annotate.html").read_text(encoding="utf-8"))
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1
    assert "img" not in names
    assert not any(
        key.startswith("on") or key in ("src", "href") for _, a in page.tags for key in a
    )
    assert "<img src=x onerror=alert(2)>" in page.text
    assert "\u202e" not in page.text


def test_the_page_allows_its_own_script_and_style_alone() -> None:
    page = html([Item("ab", "a passage", "a claim")])
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag, kind in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert "http" not in page.replace("http-equiv", "")


# ------------------------------------------------------------------ import


def answered(runs: Path, answer: Callable[[int, dict[str, str]], str]) -> Path:
    path = export(runs, "--queries", "12", "--top", "5")
    sheet = rows(path)
    out = path.with_name("answered.csv")
    with open(out, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(sheet[0]))
        writer.writeheader()
        for i, row in enumerate(sheet):
            writer.writerow({**row, "answer": answer(i, row)})
    return out


def truths(runs: Path) -> dict[str, bool]:
    found = {}
    for path in runs.glob("*/*/*/*/retrievals.jsonl"):
        for record in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            claim = f"{record['inputs_plaintext']} {record['targets_plaintext']}"
            for passage, correct in zip(
                record["proponents"], record["proponent_correct"], strict=True
            ):
                found[pair_id(passage, claim)] = correct
    return found


def test_a_round_trip_agrees(runs: Path, capsys: Capture) -> None:
    """Also with text that CSV and HTML would have to escape: pairs are known by their hash."""
    edit_all(runs, lambda r: r[0].update(proponents=[f"{HOSTILE}{i}" for i in range(5)]))
    truth = truths(runs)
    path = answered(runs, lambda _, row: "yes" if truth[row["pair_id"]] else "N")
    capsys.readouterr()
    assert main(["annotate", "import", str(path), str(runs)]) == 0
    out = capsys.readouterr().out
    n = len(truth)
    yes = sum(truth.values())
    assert f"{n} pairs: {yes} yes, {n - yes} no, 0 unsure, 0 without an answer" in out
    assert f"annotation: {n} pairs: kappa 1.000 [1.000, 1.000], precision 1.000" in out


def test_disagreement_is_that_of_compare(runs: Path, capsys: Capture) -> None:
    truth = truths(runs)
    given: dict[str, str] = {}

    def answer(i: int, row: dict[str, str]) -> str:
        right = truth[row["pair_id"]] != (i % 4 == 0)
        text = "unsure" if i % 7 == 0 else "" if i % 11 == 0 else "y" if right else "n"
        given[row["pair_id"]] = text
        return text

    path = answered(runs, answer)
    capsys.readouterr()
    assert main(["annotate", "import", str(path), str(runs)]) == 0
    shared = [name for name, text in given.items() if text in ("y", "n")]
    expected = compare([given[n] == "y" for n in shared], [truth[n] for n in shared], samples=2)
    out = capsys.readouterr().out
    assert f"annotation: {len(shared)} pairs: kappa {expected.measures['kappa'].value:.3f} [" in out
    both, extra, missed, neither = expected.table
    line = f"yes: both {both}, only cells {extra}, only people {missed}, neither {neither}"
    assert line in out


def test_judges_are_compared_apart(runs: Path, capsys: Capture) -> None:
    truth = truths(runs)
    (cell,) = (runs / "factworld" / "tiny" / "bm25").iterdir()

    def judge(records: list[dict[str, Any]]) -> None:
        for record in records:
            correct = record.pop("proponent_correct")
            record["proponent_ais_scores"] = [0.85 if one else 0.8 for one in correct]

    edit_retrievals(cell, judge)
    record = {"name": "nli", "identity": "ab" * 32, "threshold": 0.82}
    edit_result(cell, lambda result: result["task"].update(judge=record))
    path = answered(runs, lambda _, row: "y" if truth[row["pair_id"]] else "n")
    capsys.readouterr()
    assert main(["annotate", "import", str(path), str(runs)]) == 0
    out = capsys.readouterr().out
    assert out.count("kappa 1.000") == 2, "each by its own threshold"
    assert "nli abababab: " in out


HEAD = "pair_id,passage,claim,answer\n"
PAIR = "00" * 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r":1, field 'pair_id': no such column"),
        ("pair_id,answr\n", r":1, field 'answer': no such column; did you mean answr"),
        ("pair_id,answer,answer\n", r":1, field 'answer': stands there twice"),
        (HEAD, "holds no line of a sheet"),
        (HEAD + "a,p,c,y\nb,p,c,perhaps\n", r":3, field 'answer': expected y, n or unsure, found"),
        (HEAD + '"a","two\nlines",c,y\nb,p,c,x\n', r":4, field 'answer'"),
        (HEAD + "a,p,c,y\n,p,c,y\n", r":3, field 'pair_id': is empty"),
        (HEAD + "a,p,c,y\na,p,c,n\n", r":3, field 'answer': 'n' contradicts 'y' at .*:2"),
        (HEAD + "a,p\n", r":2, field 'claim': missing: 2 of 4 columns"),
        (HEAD + 'a,"p,c,y\n', r"broken CSV"),
    ],
)
def test_a_faulty_sheet_names_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sheet.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_answers(path)


def test_what_spreadsheets_do_to_a_sheet(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    path.write_bytes(b"\xef\xbb\xbfanswer;pair_id\r\nYes;A\r\n;B\r\n?;C\r\n;\r\nn;B\r\ny;A\r\n")
    found = {name: answer for name, (_, answer) in read_answers(path).items()}
    assert found == {"a": "y", "b": "n", "c": "unsure"}
    path.write_text(HEAD + f"a,{'x' * 300_000},c,y\n")
    assert len(read_answers(path)) == 1
    path.write_bytes(b"pair_id,answer\n\xff,y\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_answers(path)
    with pytest.raises(UserError, match="cannot read it"):
        read_answers(tmp_path / "nothing.csv")


def test_a_sheet_of_other_results(runs: Path, capsys: Capture) -> None:
    path = runs.parent / "sheet.csv"
    path.write_text(HEAD + f"{PAIR},p,c,y\n")
    assert main(["annotate", "import", str(path), str(runs)]) == 2
    assert f"{path}:2, field 'pair_id': no cell lists" in capsys.readouterr().err


def test_a_sheet_without_answers(runs: Path, capsys: Capture) -> None:
    path = answered(runs, lambda *_: "unsure")
    assert main(["annotate", "import", str(path), str(runs)]) == 2
    assert "no pair is judged by both people and cells" in capsys.readouterr().err


# ------------------------------------------------------------------ the page's script

# A document with just what the script asks for.
_STUB = """
const store = {}; const listeners = {};
const element = (data) => ({ dataset: data, hidden: false, on: {}, setAttribute() {},
  addEventListener(kind, act) { this.on[kind] = act; } });
const pairs = PAIRS.map((pair) => element({ pair }));
const buttons = ["y", "n", "unsure"].map((answer) => element({ answer }));
const ids = { shown: element({}), bar: element({}), download: element({}), clear: element({}) };
let saved = "";
const setItem = (name, value) => { store[name] = value; };
globalThis.localStorage = { getItem: (name) => store[name] ?? null, setItem };
globalThis.confirm = () => true;
globalThis.Blob = class { constructor(parts) { saved = parts.join(""); } };
globalThis.URL = { createObjectURL: () => "blob:x", revokeObjectURL() {} };
globalThis.document = {
  body: { dataset: { sheet: "s" } },
  querySelectorAll: (what) => (what === "article" ? pairs : buttons),
  getElementById: (id) => ids[id], createElement: () => ({ click() {} }),
  addEventListener: (kind, act) => { listeners[kind] = act; },
};
const press = (key) => listeners.keydown({ key, preventDefault() {} });
const run = () => { SCRIPT };
run();
press("y"); press("N"); press("ArrowLeft"); press("u");
run();  // the page is opened again
const open = pairs.findIndex((pair) => !pair.hidden);
buttons[0].on.click();
ids.download.on.click();
console.log(JSON.stringify({ open, saved, shown: ids.shown.textContent }));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_keyboard_answers_and_the_browser_remembers(tmp_path: Path) -> None:
    page = write([Item(name, "p", "c") for name in ("aa", "bb", "cc")], tmp_path)[1]
    (script,) = re.findall(r"<script>(.*?)</script>", page.read_text(), re.DOTALL)
    code = _STUB.replace("PAIRS", '["aa", "bb", "cc"]').replace("SCRIPT", script)
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["open"] == 2, "it goes on where it was left"
    assert found["saved"] == "pair_id,answer\naa,y\nbb,unsure\ncc,y\n"
    assert "done, download the CSV" in found["shown"]
    (tmp_path / "answers.csv").write_text(found["saved"])
    assert [a for _, a in read_answers(tmp_path / "answers.csv").values()] == ["y", "unsure", "y"]
