"""The site: rows of bundles on boards of equal hashes, and pages that follow from the package."""

from __future__ import annotations

import csv
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.cli.main import main
from bench.core.errors import UserError
from bench.core.registry import DESCRIPTION
from bench.report.publishing.bundle import _LAYOUT, KIND, write_bundle
from bench.report.publishing.documents import read_documents
from bench.report.publishing.prose import prose, slug
from bench.report.publishing.reference import GROUPS, methods_section, metrics_page, settings_in
from bench.report.recorded import record_cells
from bench.report.write import report
from bench.storage.sealed import MANIFEST, seal
from methods import METHODS
from metrics.measures import MEASURES
from tests.fixtures.cells import edit_result, edit_retrievals, edit_table, write_cell

GOLD = 25  # passages that state each fact: the same in all cells of a task
LINK = "https://example.org/code?a=1&b=2"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Results of one's own in ``results/mine``, and bundles of two other clones in ``bundles``."""
    clones = {"own": ("bm25", 0.6), "one": ("dense", 0.9), "two": ("trackstar", 0.2)}
    for clone, (method, strength) in clones.items():
        write_cell(tmp_path / clone, method, strength=strength, tail_patch=0.01, n_gold=GOLD)
    report(tmp_path / "own", tmp_path / "results/mine", quiet=True)
    record_cells(tmp_path / "own", tmp_path / "results/mine")
    write_bundle(tmp_path / "one", tmp_path / "bundles/one.zip", "Ada & <b>Co</b>", LINK)
    write_bundle(tmp_path / "two", tmp_path / "bundles/two", "Ben")
    return tmp_path


def build(place: Path, *words: str, results: str = "results") -> int:
    folders = [str(place / results)] if results else []
    command = ["site", *folders, "--out", str(place / "site"), "--no-figures", *words]
    return main([*command, "--docs", str(place / "docs")] if (place / "docs").is_dir() else command)


def rows(place: Path, name: str = "mine") -> dict[str, dict[str, str]]:
    with open(place / "site/results" / name / "leaderboard.csv", encoding="utf-8") as stream:
        return {row["label"]: row for row in csv.DictReader(stream)}


@pytest.fixture
def elsewhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, where there are no documents."""
    monkeypatch.chdir(place)
    return place


# ------------------------------------------------------------------ rows of others


def test_bundles_of_two_clones_stand_on_one_board(elsewhere: Path) -> None:
    assert build(elsewhere, "--bundles", str(elsewhere / "bundles")) == 0
    assert set(rows(elsewhere)) == {"bm25", "dense (by Ada & <b>Co</b>)", "trackstar (by Ben)"}
    pairs = (elsewhere / "site/results/mine/significance.csv").read_text()
    assert "dense (by Ada" in pairs
    assert "trackstar (by Ben)" in pairs
    page = (elsewhere / "site/results/mine/index.html").read_text()
    assert "Handed in by <bdi>Ada &amp; &lt;b&gt;Co&lt;/b&gt;</bdi>" in page
    assert 'href="https://example.org/code?a=1&amp;b=2" rel="nofollow noopener"' in page
    assert re.search(r"recomputed from its lists .* on 20\d\d-\d\d-\d\d by tdabench", page)
    home = (elsewhere / "site/index.html").read_text()
    assert "Ada &amp; &lt;b&gt;Co&lt;/b&gt;" in home
    assert "<b>Co" not in home


def test_numbers_and_tests_are_those_of_one_results_folder(elsewhere: Path) -> None:
    """A board with rows of others says what a report over all of the cells says."""
    build(elsewhere, "--bundles", str(elsewhere / "bundles"))
    for method, strength in (("bm25", 0.6), ("dense", 0.9), ("trackstar", 0.2)):
        write_cell(elsewhere / "all", method, strength=strength, tail_patch=0.01, n_gold=GOLD)
    report(elsewhere / "all", elsewhere / "whole", quiet=True, viewer=False)
    letters = []
    for folder in ("whole", "site/results/mine"):
        text = (elsewhere / folder / "significance.csv").read_text()
        letters.append(re.sub(r" \(by [^,\"]*\)", "", text))
    assert letters[0] == letters[1]


@pytest.mark.parametrize("part", ["task", "model"])
def test_a_row_of_another_hash_has_a_board_of_its_own(elsewhere: Path, part: str) -> None:
    (cell,) = (elsewhere / "two").glob("*/*/*/*")
    edit_result(cell, lambda result: result[part].update(sha256="ef" * 32))
    write_bundle(elsewhere / "two", elsewhere / "other.zip", "Ben")
    assert build(elsewhere, "--bundles", str(elsewhere / "other.zip")) == 0
    assert set(rows(elsewhere)) == {"bm25"}
    assert set(rows(elsewhere, "handed-in")) == {"trackstar (by Ben)"}


def test_the_hash_decides_whatever_the_names(elsewhere: Path) -> None:
    write_cell(elsewhere / "named", "dense", model="theirs", task="their-facts", n_gold=GOLD)
    write_bundle(elsewhere / "named", elsewhere / "named.zip", "Cy")
    assert build(elsewhere, "--bundles", str(elsewhere / "named.zip")) == 0
    assert rows(elsewhere)["dense (by Cy)"]["model"] == "tiny"


def test_bundles_alone_make_one_board(elsewhere: Path) -> None:
    (elsewhere / "results/mine").rename(elsewhere / "kept")
    write_cell(elsewhere / "results/else/x", "bm25", task="else", task_sha256="0" * 64)
    words = ["--bundles", str(elsewhere / "bundles")]
    assert build(elsewhere, *words, results="results/else/x") == 0
    assert len(rows(elsewhere, "handed-in")) == 2


def test_one_cell_twice_is_one_row_and_two_sayings_are_refused(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(elsewhere / "two", elsewhere / "bundles/two-again.zip", "Ben")
    (cell,) = (elsewhere / "two").glob("*/*/*/*")
    edit_result(cell, lambda result: result.update(date="2026-01-01T00:00:00Z"))
    write_bundle(elsewhere / "two", elsewhere / "bundles/two-else.zip", "Ben")
    assert build(elsewhere, "--bundles", str(elsewhere / "bundles")) == 1
    assert len(rows(elsewhere)) == 3
    assert "two-else.zip: refused" in capsys.readouterr().err


def test_a_tampered_bundle_is_left_out_with_the_reason(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = elsewhere / "bundles/two"
    (cell,) = bundle.glob("cells/*/*/*/*")
    edit_result(cell, lambda result: result["metrics"]["mrr"].update(value=0.99))
    assert build(elsewhere, "--bundles", str(elsewhere / "bundles")) == 1
    said = capsys.readouterr().err
    assert "two: refused: damaged bundle: cells/factworld/tiny/trackstar/" in said
    assert "result.json" in said
    assert set(rows(elsewhere)) == {"bm25", "dense (by Ada & <b>Co</b>)"}
    assert "Left out, two: refused: damaged bundle" in (elsewhere / "site/index.html").read_text()


def test_a_tampered_bundle_that_was_sealed_again_is_left_out(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = elsewhere / "bundles/two"
    (cell,) = bundle.glob("cells/*/*/*/*")
    edit_result(cell, lambda result: result["metrics"]["mrr"].update(value=0.99))
    facts = json.loads((bundle / MANIFEST).read_text())["facts"]
    seal(bundle, KIND, KIND, _LAYOUT, facts)
    assert build(elsewhere, "--bundles", str(elsewhere / "bundles")) == 1
    assert "mrr: stored 0.99, recomputed" in capsys.readouterr().err


def other_ids(cell: Path) -> None:
    edit_table(cell, lambda table: table["query_id"].__setitem__(0, "q9999"))
    edit_retrievals(cell, lambda records: records[0].update(example_id="q9999"))


STRANGE = {
    "the queries": (other_ids, "query 'q9999' is in no other cell"),
    "the corpus": (
        lambda cell: edit_result(
            cell,
            lambda result: (
                result["task"].update(n_passages=1000),
                result["index"].update(bytes_per_passage=128.0),
            ),
        ),
        "n_passages is 1000, and 500 in other cells",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_bundle_of_another_task_than_it_says(
    elsewhere: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, reason = STRANGE[name]
    (cell,) = (elsewhere / "two").glob("*/*/*/*")
    change(cell)
    assert write_bundle(elsewhere / "two", elsewhere / "other.zip", "Ben") == []
    assert build(elsewhere, "--bundles", str(elsewhere / "other.zip")) == 1
    assert reason in capsys.readouterr().err
    assert set(rows(elsewhere)) == {"bm25"}


def test_fewer_passages_to_find_than_others_had(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cell(elsewhere / "fewer", "dense", n_gold=GOLD - 1)
    write_bundle(elsewhere / "fewer", elsewhere / "fewer.zip", "Ben")
    assert build(elsewhere, "--bundles", str(elsewhere / "fewer.zip")) == 1
    assert "n_gold of query 'q0' is 24, and 25 in other cells" in capsys.readouterr().err


# ------------------------------------------------------------------ whole or not at all


def test_nothing_is_written_over_and_nothing_half(elsewhere: Path) -> None:
    assert build(elsewhere) == 0
    assert build(elsewhere) == 2
    (elsewhere / "docs").mkdir()
    (elsewhere / "docs/a.md").write_text("[gone](gone.md)")
    words = ["site", str(elsewhere / "results"), "--out", str(elsewhere / "new"), "--no-figures"]
    assert main(words) == 2
    assert not (elsewhere / "new").exists()


def test_where_there_are_no_documents_it_says_so(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(elsewhere) == 0
    assert "no documents" in capsys.readouterr().out
    assert (elsewhere / "site/docs/settings.html").exists()


def test_lists_that_are_there_have_a_viewer_and_others_a_sentence(elsewhere: Path) -> None:
    assert build(elsewhere, results="own") == 0
    page = (elsewhere / "site/results/own/index.html").read_text()
    assert "Read the rankings in the viewer" in page
    assert (elsewhere / "site/results/own/viewer/index.html").exists()
    assert "retrievals.jsonl" not in page, "they are not on the site"
    (elsewhere / "site").rename(elsewhere / "first")
    assert build(elsewhere) == 0
    page = (elsewhere / "site/results/mine/index.html").read_text()
    assert "There is no viewer here" in page
    assert "retrievals.jsonl" not in page
    assert "viewer/index.html" not in page


# ------------------------------------------------------------------ documents


def test_links_follow_the_pages(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "conf").mkdir()
    (tmp_path / "docs/a.md").write_text(
        "# A\n[b](../B.md#part) [c](https://e.org) ![p](p.png) [conf](../conf/) [own](#a)"
    )
    (tmp_path / "docs/p.png").write_bytes(b"png")
    (tmp_path / "B.md").write_text("## Part\n[back](docs/a.md)")
    documents = read_documents(tmp_path / "docs", {}, {"conf": "docs/settings.html"})
    assert set(documents.pages) == {"docs/a.md", "B.md"}
    assert documents.files == {"docs/p.png": b"png"}
    html = documents.pages["docs/a.md"].html
    for target in ("../B.html#part", "https://e.org", "p.png", "settings.html", "#a"):
        assert f'"{target}"' in html


@pytest.mark.parametrize("target", ["gone.md", "../../outside.md", "/etc/hostname", "sub"])
def test_a_link_to_nothing_is_an_error(tmp_path: Path, target: str) -> None:
    (tmp_path / "root/docs/sub").mkdir(parents=True)
    (tmp_path / "outside.md").write_text("x")
    (tmp_path / "root/docs/a.md").write_text(f"[x]({target})")
    with pytest.raises(UserError, match=r"(links to|leads out of)"):
        read_documents(tmp_path / "root/docs", {}, {})


def test_anchors_are_those_of_the_repository() -> None:
    assert slug("9. On real sentences too, attribution favours retrieval; what `p` says") == (
        "9-on-real-sentences-too-attribution-favours-retrieval-what-p-says"
    )
    html = prose("# Twice\n## Twice\n").html
    assert 'id="twice"' in html
    assert 'id="twice-1"' in html


# ------------------------------------------------------------------ what follows from the package


def keys_of(values: dict[str, Any], above: str = "") -> set[str]:
    """Every leaf of a configuration by its dotted name; settings that are tables are no leaves."""
    keys: set[str] = set()
    for key, value in values.items():
        inner = isinstance(value, dict) and value
        keys |= keys_of(value, f"{above}{key}.") if inner else {f"{above}{key}"}
    return keys


CONF = [
    (group, file.name, file.read_text(encoding="utf-8"))
    for group in GROUPS
    if group != "experiment"
    for file in sorted((resources.files("conf") / group).iterdir(), key=lambda one: one.name)
    if file.name.endswith(".yaml")
]


@pytest.mark.parametrize(("group", "name", "text"), CONF, ids=[f"{g}/{n}" for g, n, _ in CONF])
def test_every_setting_is_told_with_its_reason(group: str, name: str, text: str) -> None:
    _, settings = settings_in(text)
    values = yaml.safe_load(text) or {}
    values.pop("defaults", None)
    assert {one.name for one in settings} - {"defaults"} == keys_of(values)
    assert len({one.name for one in settings}) == len(settings)
    no_settings = {"name", "source", *DESCRIPTION}
    without = [
        one.name
        for one in settings
        if not one.reason and one.name.rpartition(".")[2] not in no_settings
    ]
    assert without == []


def test_comments_are_read_as_they_stand() -> None:
    text = (
        "# What it is,\n# in two lines.\nname: x\n\n# Why both.\na: 1\nb: 'x # y' # its own\nc: 2\n"
        "\nd: 3\n# About e\ne: 4 # and more\nf:\n  g: [1, 2] # inner\n"
    )
    about, settings = settings_in(text)
    assert about == "What it is, in two lines."
    assert [(one.name, one.default, one.reason) for one in settings] == [
        ("name", "x", ""), ("a", "1", "Why both."), ("b", "'x # y'", "its own"),
        ("c", "2", "Why both."), ("d", "3", ""), ("e", "4", "About e. And more"),
        ("f.g", "[1, 2]", "inner"),
    ]  # fmt: skip


def test_methods_and_metrics_are_all_there() -> None:
    text = methods_section()
    assert all(f"[`{name}`](settings.html#" in text for name in METHODS)
    text = metrics_page()
    assert all(f"| `{one.name}` |" in text for one in MEASURES if one.is_averaged)
