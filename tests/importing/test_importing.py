"""``tdabench import`` end to end: what a run made comes back with the same numbers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.importing.sources import find_rankings
from bench.results.verify import verify
from tests.fixtures.imports import K, World, imported, ranked, result

TASK = ("task=factworld", "task.n_passages=400", "task.n_facts=40", "metric.bootstrap_samples=50")
MODEL = (
    "model=tiny", "model.hidden_size=16", "model.num_layers=2", "model.num_heads=2",
    "model.epochs=2", "model.vocab_size=400", "model.projection_dim=4",
    "metric.tail_patch.n_queries=6", "metric=default",
)  # fmt: skip
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def as_trec(folder: Path, path: Path) -> Path:
    """A cell's rankings as a TREC run."""
    lines = [
        f"{record['example_id']} Q0 {passage} {rank} {score!r} tag"
        for record in ranked(folder)
        for rank, (passage, score) in enumerate(
            zip(record["proponent_ids"], record["proponent_scores"], strict=True), start=1
        )
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


# ------------------------------------------------------------------ the same numbers


@pytest.mark.parametrize("method", ["bm25", "gold", "random"])
@pytest.mark.parametrize("kind", ["release", "trec"])
def test_a_run_exported_and_imported_has_the_same_numbers(
    tmp_path: Path, cache: Path, method: str, kind: str
) -> None:
    runs, back = tmp_path / "runs", tmp_path / "back"
    common = [*TASK, f"cache_dir={cache}"]
    words = [f"method={method}", "metric=attribution", f"results_dir={runs}"]
    assert main(["run", *common, *words]) == 0
    (cell,) = (path.parent for path in runs.glob("*/*/*/*/result.json"))
    file = cell / "retrievals.jsonl" if kind == "release" else as_trec(cell, tmp_path / "x.run")
    assert main(["import", str(file), *common, f"name={method}", f"results_dir={back}"]) == 0
    (copy,) = (path.parent for path in back.glob("factworld/imported/*/*/result.json"))
    old, new = result(cell), result(copy)
    assert new["metrics"] == old["metrics"]
    assert new["slices"] == old["slices"]
    assert (copy / "retrievals.jsonl").read_bytes() == (cell / "retrievals.jsonl").read_bytes()
    assert {**new["task"]} == {**old["task"]}
    assert (old["imported"], new["imported"]) == (False, True)
    assert verify(back) == []


def test_with_a_model_tail_patch_is_measured_as_in_a_run(tmp_path: Path, cache: Path) -> None:
    common = [*TASK, *MODEL, f"cache_dir={cache}", f"results_dir={tmp_path}"]
    assert main(["run", "method=bm25", *common]) == 0
    (cell,) = (path.parent for path in tmp_path.glob("*/*/bm25/*/result.json"))
    assert main(["import", str(cell / "retrievals.jsonl"), "name=elsewhere", *common]) == 0
    (copy,) = (path.parent for path in tmp_path.glob("factworld/tiny/elsewhere/*/result.json"))
    assert result(copy)["metrics"] == result(cell)["metrics"]
    assert "tail_patch" in result(copy)["metrics"]
    assert result(copy)["model"] == result(cell)["model"]
    assert verify(tmp_path) == []


def test_every_format_gives_the_same_cell(world: World) -> None:
    one = imported(world, world.release())
    two = imported(world, world.trec())
    assert one["metrics"] == two["metrics"]
    assert one["top_k"] == two["top_k"] == K
    first, second = world.cells()
    assert ranked(first) == ranked(second)
    assert [record["proponent_ids"] for record in ranked(first)] == [
        [f"p{row}" for row in rows] for rows in world.rows
    ]


# ------------------------------------------------------------------ cells and rows


def test_importing_twice_reuses(world: World, capsys: Capture) -> None:
    imported(world, world.release(), "name=mine")
    assert world.run(world.release(name="copy.jsonl"), "name=mine") == 0  # by content
    assert len(world.cells()) == 1
    assert "already there" in capsys.readouterr().err
    assert world.run(world.release(), "name=mine", "top_k=10") == 0
    assert world.run(world.release(), "name=mine", "seed=1") == 0
    assert len(world.cells()) == 3


def test_the_cell_has_all_files_and_says_where_it_is_from(world: World) -> None:
    found = imported(world, world.release(), "name=a/b ../c")
    (folder,) = world.cells()
    assert folder.relative_to(world.results).parts[:3] == ("jsonl", "imported", "a_b_.._c")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.yaml", "per_query.parquet", "result.json", "retrievals.jsonl",
    ]  # fmt: skip
    assert found["method"]["name"] == "a/b ../c"
    assert found["method"]["facts"]["files"] == ["x.jsonl"]
    assert found["method"]["counts"]["queries_joined_by_id"] == 6
    assert found["method"]["counts"]["passages_joined_by_id"] == 6 * K
    assert found["phases"] == []
    assert found["command"].startswith("tdabench import ")


def test_verify_recomputes_and_report_shows_the_mark_in_every_format(
    world: World, capsys: Capture
) -> None:
    world.run(world.release(), "name=mine")
    world.run(world.trec(), "name=bm25")
    world.run(world.release(world.judged_records(), "j.jsonl"), "name=judged", task="none")
    assert verify(world.results) == []
    assert main(["report", str(world.results)]) == 0
    out = capsys.readouterr().out
    assert "mine (imported)" in out
    for name in ("leaderboard.md", "leaderboard.csv", "leaderboard.tex", "index.html"):
        text = (world.results / "report" / name).read_text(encoding="utf-8")
        assert all(f"{label} (imported)" in text for label in ("mine", "bm25", "judged")), name
    record = world.cells()[0] / "result.json"
    record.write_text(record.read_text().replace('"value": 0.', '"value": 0.9', 1))
    assert main(["verify", str(world.results)]) == 1


def test_a_run_and_an_import_of_one_name_are_told_apart_by_the_mark_alone(world: World) -> None:
    files = [f"task.{kind}={world.folder}/{kind}.jsonl" for kind in ("queries", "passages")]
    places = [f"results_dir={world.results}", f"cache_dir={world.folder / 'cache'}"]
    words = ["task=jsonl", *files, "method=bm25", "metric=attribution", *places]
    assert main(["run", *words]) == 0
    assert world.run(world.release(), "name=bm25", "model=tiny") == 0
    assert main(["report", str(world.results), "--quiet"]) == 0
    text = (world.results / "report" / "leaderboard.md").read_text()
    assert "| bm25 |" in text
    assert "| bm25 (imported) |" in text
    assert world.run(world.trec(), "name=bm25", "model=tiny") == 0
    assert main(["report", str(world.results), "--quiet"]) == 0
    text = (world.results / "report" / "leaderboard.md").read_text()
    assert "| bm25 (imported, format=trec, source=" in text


# ------------------------------------------------------------------ several files


def test_several_files_are_several_rows_and_one_failure_does_not_stop_them(
    world: World, capsys: Capture
) -> None:
    good, bad = world.release(name="r_bm25.jsonl"), world.release([], "r_none.jsonl")
    bad.write_text('{"example_id": 1}\n')
    assert world.run(world.folder / "r_*.jsonl", world.trec(name="t.run")) == 1
    assert [folder.parent.name for folder in world.cells()] == ["r_bm25", "t"]
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert f"{bad}:1, field 'proponents': missing" in line
    assert "one name for 2 rankings" in world.refusal(capsys, good, bad, "name=x")
    assert "is given twice" in world.refusal(capsys, good, good)


def test_shards_are_one_ranking(world: World, capsys: Capture) -> None:
    records = world.records()
    names = [f"big.jsonl-0000{i}-of-00002" for i in range(2)]
    first = world.release(records[:2], names[0])
    packed = world.folder / names[1]
    packed.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records[2:]).encode()))
    assert "1 of its 2 shards" in world.refusal(capsys, first)
    whole = imported(world, world.folder / "big*", "name=x")
    assert whole["metrics"] == imported(world, world.release(), "name=y")["metrics"]
    (source,) = find_rankings([str(world.folder / "big*")], None)
    assert source.name == "big"


# ------------------------------------------------------------------ the words


@pytest.mark.parametrize(
    ("words", "task", "parts"),
    [
        ((), "", ["task: nothing is chosen", "task=none"]),
        (("nam=x",), "jsonl", ["unknown key 'nam'", "did you mean name"]),
        (("resultsdir=x",), "jsonl", ["unknown key 'resultsdir'", "results_dir"]),
        (("format=trek",), "jsonl", ["unknown format 'trek'", "did you mean trec"]),
        (("missing=skp",), "jsonl", ["unknown missing 'skp'", "did you mean skip"]),
        ((), "jsonlines", ["unknown task 'jsonlines'", "did you mean jsonl"]),
        (("method=bm25",), "jsonl", ["method", "set name=NAME"]),
        (("method.k1=2",), "jsonl", ["method.k1", "set name=NAME"]),
        (("metric=default",), "jsonl", ["tail-patch needs a model"]),
        (("model.epochs=2",), "jsonl", ["add model=NAME"]),
        (("model=tiny",), "none", ["means nothing with task=none"]),
        (("task.n_queries=2",), "none", ["means nothing with task=none"]),
        (("name=",), "jsonl", ["name: is empty"]),
        ((f"name={'x' * 300}",), "jsonl", ["name: has 300 characters"]),
        (("name=a", "name=b"), "jsonl", ["name: is given twice"]),
        (("top_k=0",), "jsonl", ["top_k: expected at least 1"]),
        (("top_k=many",), "jsonl", ["top_k", "many"]),
        (("top_k=5",), "jsonl", ["longest list has 5", "metric.attribution=[mrr,hit@1]"]),
        (("seed=1,2",), "jsonl", ["no sweep"]),
        (("nofile.jsonl",), "jsonl", ["nofile.jsonl: no such file"]),
        (("--nope",), "jsonl", ["--nope"]),
    ],
)
def test_wrong_words_are_one_line(
    world: World, capsys: Capture, words: tuple[str, ...], task: str, parts: list[str]
) -> None:
    line = world.refusal(capsys, world.release(), *words, task=task)
    assert all(part in line for part in parts), line


def test_no_file_and_a_path_with_an_equals_sign(world: World, capsys: Capture) -> None:
    assert "no file to import" in world.refusal(capsys)
    odd = world.folder / "b=0.4"
    odd.mkdir()
    path = world.release().rename(odd / "x.jsonl")
    assert imported(world, path)["method"]["name"] == "x"


def test_short_lists_are_measured_as_deep_as_they_are(world: World) -> None:
    found = imported(world, world.release(), "top_k=5", "metric.attribution=[mrr,hit@1]")
    assert found["top_k"] == 5
    assert found["method"]["counts"]["lists_cut_to_top_k"] == 6
    assert {len(record["proponents"]) for record in ranked(world.cells()[0])} == {5}
