"""The viewer's data: what the rankings hold, once, and nothing that a browser could run."""

from __future__ import annotations

import json
import math
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.report.viewer import spill
from bench.report.viewer.__main__ import main
from bench.report.viewer.build import viewer_page, write_viewer
from bench.report.viewer.reading import flat_spans
from bench.report.viewer.sources import RankingGroup, RankingSource, group_of_files
from bench.report.viewer.values import numbers_json, rounded, valid_unicode
from bench.report.write import report
from bench.results.schema import PER_QUERY, RETRIEVALS
from tests.fixtures.cells import add_spans, edit_result, edit_retrievals, edit_table, write_cell
from tests.fixtures.viewer_data import HOSTILE, LONG, Data, edited, hostile_cell, records_of


def viewer_of(results: Path) -> Data:
    paths = report(results, quiet=True)
    assert paths.viewer == results / "report" / "viewer" / "index.html"
    return Data(paths.viewer.parent)


@pytest.fixture
def cells(tmp_path: Path) -> list[Path]:
    return [
        write_cell(tmp_path, "bm25", strength=0.9, tail_patch=0.002),
        write_cell(tmp_path, "trackstar", strength=0.3, tail_patch=0.006),
    ]


# ------------------------------------------------------------------ values and the spill


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=50).tolist(),
        (10.0 ** np.random.default_rng(1).uniform(-320, 308, 200)).tolist(),
        [1.0, 123456.0, 1e14, 1e15, 1e22, 99999.5, 0.000123455, -2.5e-7, 5e-324],
        [0.5, None, -1.25, None, None],
        [None, None],
        [0.0, -0.0, 1.5],
        [math.nan, 0.5],
        [math.inf, -math.inf, 0.5],
        [1.7976931348623157e308, -1.7976931348623157e308, 1.7976e308],
        [1, 2.5, True, "text", None, 10**30],
        [],
    ],
    ids=str,
)
def test_lists_of_numbers_are_written_as_their_rounded_values(values: list[object]) -> None:
    assert json.loads(numbers_json(values)) == [rounded(value) for value in values]
    assert "-0" not in numbers_json([-0.0])


def test_equal_passages_have_one_number_also_when_they_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = [
        [("a", "one"), ("b", "two")],
        [("a", "other"), ("a", "one"), ("a", "other")],
        [("b", "two"), ("c", "\ud800"), ("c", "\ufffd")],
        [("a", "one"), ("c", "\udfff")],
    ]
    passages = [("a", "one"), ("b", "two"), ("a", "other"), ("c", "\ufffd")]
    for most in (0, 1 << 17):
        monkeypatch.setattr(spill, "_MOST_KNOWN", most)
        folder = tmp_path / str(most)
        folder.mkdir()
        with closing(spill.Spill(folder)) as kept:
            for query in (0, 2, 1, 3):
                ids, texts = map(list, zip(*lists[query], strict=True))
                kept.add(0, query, ids, texts, f"é{query}")
            assert list(kept.passages()) == passages
            assert list(kept.rankings(0)) == [
                (query, [passages.index((i, valid_unicode(t))) for i, t in listed], f"é{query}")
                for query, listed in enumerate(lists)
            ]
            assert list(kept.rankings(1)) == []


# ------------------------------------------------------------------ what is there


def test_every_ranking_is_there_as_it_was_stored(cells: list[Path], tmp_path: Path) -> None:
    data = viewer_of(tmp_path)
    (group,) = data.groups
    assert [method["label"] for method in group["methods"]] == ["bm25", "trackstar"]
    assert (group["task"], group["model"], group["queries"]) == ("factworld", "tiny", 40)
    passages, queries = data.passages(), data.queries()
    for method, cell in enumerate(cells):
        for query, record in enumerate(records_of(cell)):
            entry = data.ranking(query, method)
            assert entry is not None
            shown = [passages[number] for number in entry["p"]]
            stored = list(zip(record["proponent_ids"], record["proponents"], strict=True))
            assert shown == stored
            assert entry["s"] == pytest.approx(record["proponent_scores"], rel=1e-4)
            assert [digit == "1" for digit in entry["c"]] == record["proponent_correct"]
            assert queries["id"][query] == record["example_id"]
            assert queries["prompt"][query] == record["inputs_plaintext"]
            assert queries["target"][query] == record["targets_plaintext"]


def test_passages_are_stored_once_for_all_methods(cells: list[Path], tmp_path: Path) -> None:
    passages = viewer_of(tmp_path).passages()
    stored = {
        pair
        for cell in cells
        for record in records_of(cell)
        for pair in zip(record["proponent_ids"], record["proponents"], strict=True)
    }
    assert len(passages) == len(set(passages))
    assert set(passages) == stored


def test_one_id_with_two_texts_is_two_passages(tmp_path: Path) -> None:
    edited(tmp_path, "bm25", {"proponents": ["a", "b"], "proponent_ids": ["s", "s"],
           "proponent_scores": [2, 1], "proponent_correct": [False, True]})  # fmt: skip
    data = viewer_of(tmp_path)
    entry = data.ranking(0)
    assert entry is not None
    assert [data.passages()[number] for number in entry["p"]] == [("s", "a"), ("s", "b")]
    assert data.measures()["first"][0] == 2


def test_measures_are_those_of_the_table(cells: list[Path], tmp_path: Path) -> None:
    measures = viewer_of(tmp_path).measures(1)
    columns = {column["name"]: column for column in measures["columns"]}
    assert list(columns)[:5] == ["mrr", "hit@10", "tail_patch", "recall@10", "hit@1"]
    assert columns["mrr"]["title"] == "reciprocal rank"
    assert columns["tail_patch"]["scale"] == 100
    assert columns["tail_patch"]["values"][0] is None, "this query was not patched"
    for first, value in zip(measures["first"], columns["mrr"]["values"], strict=True):
        assert value == pytest.approx(1 / first if first else 0, rel=1e-4)


def test_groups_and_support_come_from_the_table(cells: list[Path], tmp_path: Path) -> None:
    for cell in cells:
        edit_table(cell, lambda columns: columns.update({
            "frequency": ["16-32", "2-3"] * 20, "top10_support=entails": [0.25] * 40,
        }))  # fmt: skip
    data = viewer_of(tmp_path)
    slices = {part["name"]: part for part in data.queries()["slices"]}
    assert slices["frequency"]["labels"] == ["2-3", "16-32"], "by number, not by letter"
    assert slices["frequency"]["of"][:2] == [1, 0]
    assert set(slices["relation"]["labels"]) == {"born in", "instrument", "capital of"}
    assert data.measures()["kinds"] == [{"name": "entails", "shares": [0.25] * 40}]


def test_what_is_not_stored_is_not_there(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "bm25")
    edit_retrievals(folder, lambda records: [r.pop("proponent_correct") for r in records])
    (folder / PER_QUERY).unlink()
    data = viewer_of(tmp_path)
    entry, measures = data.ranking(0), data.measures()
    assert entry is not None
    assert set(entry) == {"p", "n", "s"}
    assert measures["columns"] == measures["kinds"] == []
    assert measures["first"] == [None] * 40


def test_further_fields_of_the_file_are_kept(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "bm25", top_k=2)
    edit_retrievals(folder, lambda records: records[0].update(
        opponents=["low", "high"], opponent_ids=["o1", "o2"], opponent_scores=[-2.5, -1],
        proponent_support=["entails", "denied"], proponent_tail_patch=[0.123456789, None],
        proponent_torn=[1], c4_frequency=7, fact_id="f1", **{"8b_confidence": 0.5},
        **{"8b_generations": ["a", "b"]}, nested={"a": 1},
    ))  # fmt: skip
    data = viewer_of(tmp_path)
    entry = data.ranking(0)
    assert entry is not None
    assert entry["x"] == {"support": ["entails", "denied"], "tail-patch (pp)": [12.346, None]}
    assert data.groups[0]["methods"][0]["columns"] == ["support", "tail-patch (pp)"]
    assert [data.passages()[number] for number in entry["p"][entry["n"] :]] == [
        ("o1", "low"), ("o2", "high"),
    ]  # fmt: skip
    assert entry["o"] == [-2.5, -1]
    assert entry["m"] == {
        "fact": "f1", "occurrences": "7", "8b_confidence": "0.5", "8b_generations": "a · b",
    }  # fmt: skip


def test_spans_are_in_the_units_that_a_browser_counts_in() -> None:
    assert flat_spans([[0, 2, 0.12345], [2, 4, -1.0]], "abcd") == [0, 2, 0.123, 2, 4, -1]
    # A character beyond the first 65,536 takes two; two tokens of its bytes are one span.
    assert flat_spans([[0, 1, 0.5], [1, 2, 0.25], [1, 2, 0.5], [2, 3, 2]], "a🎺b") == [
        0, 1, 0.5, 1, 3, 0.75, 3, 4, 2,
    ]  # fmt: skip
    assert flat_spans([[0, 0, 0.5], [0, 1, 0.25], [1, 1, 0]], "a") == [
        0,
        0,
        0.5,
        0,
        1,
        0.25,
        1,
        1,
        0,
    ]


def test_only_shares_that_are_there_are_kept(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "trackstar", top_k=12)
    add_spans(folder)
    entry = viewer_of(tmp_path).ranking(0)
    assert entry is not None
    record = json.loads((folder / RETRIEVALS).read_text().splitlines()[0])
    assert len(entry["t"]) == 10
    assert "u" not in entry
    assert entry["t"][0][0::3] == [start for start, _, _ in record["proponent_spans"][0]]


def test_entailment_scores_judge_as_everywhere(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "bm25", top_k=3)
    (folder / PER_QUERY).unlink()

    def judge(records: list[dict]) -> None:
        for record in records:
            del record["proponent_correct"]
            record["proponent_ais_scores"] = [0.5, 0.51, 0.9]

    edit_retrievals(folder, judge)
    data = viewer_of(tmp_path)
    entry = data.ranking(0)
    assert entry is not None
    assert entry["c"] == "011"
    assert entry["x"] == {"ais_scores": [0.5, 0.51, 0.9]}
    assert data.measures()["columns"][0]["values"][0] == 0.5


def test_the_judges_threshold_is_that_of_the_cell(tmp_path: Path) -> None:
    """Fault: marks and ranks by 0.5 stood beside an MRR by 0.9."""
    folder = write_cell(tmp_path, "bm25", top_k=3)

    def judge(records: list[dict]) -> None:
        for record in records:
            del record["proponent_correct"]
            record["proponent_ais_scores"] = [0.5, 0.6, 0.95]

    edit_retrievals(folder, judge)
    named = {"name": "nli", "identity": "ab" * 32, "threshold": 0.9}
    edit_result(folder, lambda record: record["task"].update(judge=named))
    entry = viewer_of(tmp_path).ranking(0)
    assert entry is not None
    assert entry["c"] == "001"


def test_methods_may_have_ranked_different_queries(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25", strength=9)
    other = write_cell(tmp_path, "dense")
    edit_retrievals(other, lambda records: records.pop(0))
    edit_retrievals(other, lambda records: records[-1].update(example_id="new"))
    data = viewer_of(tmp_path)
    assert data.groups[0]["queries"] == 41
    assert data.queries()["id"][-1] == "new"
    assert data.measures(1)["ranked"] == "0" + "1" * 38 + "01"
    assert data.ranking(0, 1) is None
    assert data.ranking(40, 1) is not None
    assert data.measures(0)["first"][40] is None


def test_tasks_and_models_are_groups(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25")
    write_cell(tmp_path, "bm25", model="small")
    data = viewer_of(tmp_path)
    assert [(g["task"], g["model"]) for g in data.groups] == [
        ("factworld", "small"), ("factworld", "tiny"),
    ]  # fmt: skip
    assert data.passages(0) == data.passages(1)


# ------------------------------------------------------------------ files


def test_bare_ranking_files_have_a_viewer_too(
    cells: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(cell / RETRIEVALS) for cell in cells]
    assert main([*files, str(cells[0]), "--out", str(tmp_path / "v")]) == 0
    assert "viewer:" in capsys.readouterr().out
    data = Data(tmp_path / "v")
    labels = [method["label"] for method in data.groups[0]["methods"]]
    assert labels[:2] == ["retrievals.jsonl [1]", "retrievals.jsonl [2]"]
    assert labels[2].startswith("bm25/")
    first, column = data.measures()["first"], data.measures()["columns"][0]
    assert column["name"] == "mrr"
    assert column["values"] == [rounded(1 / rank) if rank else 0 for rank in first]
    assert main([str(tmp_path / "absent"), "--out", str(tmp_path / "w")]) == 2
    assert "neither a ranking file" in capsys.readouterr().err


def test_a_cell_without_rankings_is_left_out(cells: list[Path], tmp_path: Path) -> None:
    (cells[0] / RETRIEVALS).unlink()
    data = viewer_of(tmp_path)
    assert [method["label"] for method in data.groups[0]["methods"]] == ["trackstar"]
    (cells[1] / RETRIEVALS).unlink()
    paths = report(tmp_path, tmp_path / "other", quiet=True)
    assert paths.viewer is None
    assert "viewer/index.html" not in paths.html.read_text(encoding="utf-8")


def test_a_new_viewer_replaces_the_old_one_and_is_the_same(
    cells: list[Path], tmp_path: Path
) -> None:
    data = viewer_of(tmp_path)
    before = {path.name: path.read_bytes() for path in data.folder.iterdir()}
    (data.folder / "g9-passages-00000.js").write_text("stale")
    viewer_of(tmp_path)
    assert {path.name: path.read_bytes() for path in data.folder.iterdir()} == before
    assert [path.name for path in (tmp_path / "report").iterdir() if ".partial" in path.name] == []


def test_nothing_but_a_viewer_is_replaced(cells: list[Path], tmp_path: Path) -> None:
    own = tmp_path / "report" / "viewer" / "thesis.tex"
    own.parent.mkdir(parents=True)
    own.write_text("years of work")
    with pytest.raises(UserError, match="holds something that is no viewer"):
        report(tmp_path, quiet=True)
    assert own.read_text() == "years of work"


@pytest.mark.parametrize(
    ("line", "what"),
    [("{torn", "broken JSON"), ('{"example_id": "q0"}', "proponents"), (None, "twice")],
)
def test_a_damaged_ranking_names_its_line_and_leaves_the_old_viewer(
    cells: list[Path], tmp_path: Path, line: str | None, what: str
) -> None:
    before = viewer_of(tmp_path).folder / "catalog.js"
    path = cells[0] / RETRIEVALS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[0] if line is None else line]))
    with pytest.raises(UserError, match=rf"retrievals.jsonl:41.*{what}"):
        report(tmp_path, quiet=True)
    assert before.exists()
    assert [p.name for p in (tmp_path / "report").iterdir() if ".partial" in p.name] == []


# ------------------------------------------------------------------ safety


def test_no_text_reaches_a_file_but_as_data(tmp_path: Path) -> None:
    hostile_cell(tmp_path)
    data = viewer_of(tmp_path)
    for path in data.folder.iterdir():
        assert re.fullmatch(r"[a-z0-9-]+\.js", path.name)
        assert re.fullmatch(
            rf'tdabench\("{path.stem}","[A-Za-z0-9+/=]+"\);\n', path.read_text(encoding="ascii")
        )
    assert (data.folder.parent / "index.html").read_text(encoding="utf-8") == viewer_page(
        "../index.html"
    )
    whole = HOSTILE.replace("\ud800", "\ufffd")
    entry = data.ranking(0)
    assert entry is not None
    texts = [data.passages()[number] for number in entry["p"]]
    assert texts[0] == (f"{whole} 0", LONG)
    assert texts[1] == (f"{whole} 1", f"{whole} 1")
    assert data.queries()["prompt"][0] == whole
    assert list(entry["m"].values())[-1] == whole[:500]


def test_the_page_runs_its_own_script_and_takes_no_markup() -> None:
    html = viewer_page("../index.html")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy[1]
    assert rules["require-trusted-types-for"] == "'script'"
    assert html.count("<script>") == html.count("</script>") == 1
    for forbidden in (
        "innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "fetch(",
        "XMLHttp", "http:", "https:", "style=", " onclick=",
    ):  # fmt: skip
        assert forbidden not in html
    assert "Leaderboard" not in viewer_page(None)


# ------------------------------------------------------------------ size


@pytest.mark.slow
def test_the_largest_case_is_small_enough(tmp_path: Path) -> None:
    """5,400 queries, 100 proponents, 3 methods that share a part of half a million sentences."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, n)) for n in rng.integers(2, 10, 40_000)]
    chances = 1 / np.arange(1, len(words) + 1)
    drawn = rng.choice(len(words), size=(500_000, 30), p=chances / chances.sum()).astype(np.uint16)

    def sentence(row: int) -> str:
        return " ".join([words[i] for i in drawn[row, : 14 + row % 16].tolist()])

    sources = []
    for method in range(3):
        path = tmp_path / f"method{method}.jsonl"
        with open(path, "w", encoding="utf-8") as stream:
            for query in range(5400):
                near = rng.permutation(60)[:40] + 60 * query  # which the methods share
                rows = [*near.tolist(), *rng.integers(0, 500_000, 60).tolist()]
                record = {
                    "example_id": f"q{query}", "query_set": "synthetic",
                    "inputs_plaintext": sentence(-1 - query)[:60],
                    "targets_plaintext": words[query], "relation": f"relation {query % 30}",
                    "c4_frequency_bucket": query % 6,
                    "proponents": [sentence(row) for row in rows],
                    "proponent_ids": [f"s{row}" for row in rows],
                    "proponent_scores": np.sort(rng.normal(size=len(rows)))[::-1].tolist(),
                    "proponent_correct": (rng.random(len(rows)) < 0.05).tolist(),
                }  # fmt: skip
                stream.write(json.dumps(record) + "\n")
        sources.append(RankingSource(f"method{method}", path))
    made = write_viewer([RankingGroup("synthetic", "tiny", sources)], tmp_path / "viewer")
    sizes = {path.name: path.stat().st_size for path in (made.parent / "data").iterdir()}
    assert sum(sizes.values()) + made.stat().st_size < 60_000_000
    assert made.stat().st_size < 100_000
    first = ("catalog.js", "g0-queries.js", "g0-m0-measures.js", "g0-m0-ranks-00000.js")
    assert sum(sizes[name] for name in first) < 600_000
    assert max(size for name, size in sizes.items() if "passages" in name) < 120_000


def test_group_of_files_names_equal_files_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text("")
    group = group_of_files([tmp_path / "a" / "x.jsonl", tmp_path / "b" / "x.jsonl"])
    assert [source.label for source in group.sources] == ["x.jsonl [1]", "x.jsonl [2]"]
