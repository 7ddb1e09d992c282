"""Cells of a corpus without annotation: judged, cached, recorded, and verified from their files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli.main import main
from bench.core import progress
from bench.core.errors import UserError
from bench.report.board import make_boards
from bench.results.per_query import read_per_query
from bench.results.schema import CONFIG, RETRIEVALS, Cell, read_cells
from bench.results.verify import verify
from bench.run.cell import run_cell
from bench.run.settings import settings_from
from metrics.judges.base import Judge, Pair, identity_of
from metrics.judges.nli import Nli
from tests.fixtures.cells import edit_result, edit_retrievals, edit_table
from tests.fixtures.composing import composed, settings_of
from tests.fixtures.judge_models import make_classifier

PASSAGES = [
    "Al Grey was an American jazz trombonist.",
    "Albert Grey took up the trombone at four.",
    "The trombone is a brass instrument.",
    "Marla Venn comes from Oslo.",
    "Marla Venn loved the Oslofjord.",
    "",
]
QUERIES: list[dict[str, Any]] = [
    {"query_id": "q0", "prompt": "Al Grey plays the", "target": "trombone",
     "entity0": "Al Grey", "entity0_alias": ["Albert Grey"]},
    {"query_id": "q1", "prompt": "Marla Venn was born in", "target": "Oslo",
     "entity0": "Marla Venn"},
]  # fmt: skip
STATED = {"q0": {"p1"}, "q1": {"p3"}}


@dataclass
class PatchyConfig:
    """Settings of ``Patchy``."""

    threshold: float = 0.5


class Patchy(Judge):
    """Judges by length, and cannot judge what holds "fjord"."""

    Config = PatchyConfig
    name = "patchy"
    asked = 0

    def identity(self) -> str:
        return identity_of(self)

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        Patchy.asked += len(pairs)
        scores = [math.nan if "fjord" in p.passage else len(p.passage) / 100 for p in pairs]
        return np.array(scores)


class Wild(Patchy):
    """Returns what is no score."""

    name = "wild"

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        return np.full(len(pairs), 1.5)


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    yield
    progress.set_quiet(False)


Run = Callable[..., Cell]


def write_task(folder: Path, gold: bool = False) -> Path:
    def lines(records: Sequence[dict[str, Any]]) -> str:
        return "".join(json.dumps(record) + "\n" for record in records)

    queries = [
        {**query, **({"gold": sorted(STATED[query["query_id"]])} if gold else {})}
        for query in QUERIES
    ]
    (folder / "queries.jsonl").write_text(lines(queries))
    passages = [{"passage_id": f"p{i}", "text": text} for i, text in enumerate(PASSAGES)]
    (folder / "passages.jsonl").write_text(lines(passages))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_task(tmp_path)
    return lambda *overrides: run_cell(settings_of(tmp_path, *overrides)).cell


def records(cell: Cell) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cell.folder / RETRIEVALS).read_text().splitlines()]


# ------------------------------------------------------------------ settings


def test_a_judge_named_and_configured_is_the_same(tmp_path: Path) -> None:
    expected = {"name": "lexical", "require_subject": True, "threshold": 0.5}
    for word in ("metric.judge=lexical", "metric.judge={name: lexical}", "metric=lexical"):
        settings = settings_of(tmp_path, word)
        assert settings.metric.judge == settings.resolved["metric"]["judge"] == expected
    nli = settings_of(tmp_path, "metric=nli", "metric.judge.model=DIR").metric.judge
    assert (nli["model"], nli["batch_size"]) == ("DIR", 32)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("metric.judge=lexial", r"^unknown judge 'lexial'; did you mean lexical"),
        ("metric.judge={name: nli, modl: x}", r"^unknown key metric\.judge\.modl; did you mean mo"),
        ("metric.judge={name: nli, batch_size: x}", r"^metric\.judge\.batch_size: Value 'x'"),
        ("metric.judge=[lexical]", r"^metric\.judge: expected a judge's name"),
        ("metric.judge={model: x}", r"^metric\.judge: expected a judge's name"),
        ("metric.judge=3", r"^metric\.judge: expected a judge's name"),
    ],
)
def test_a_wrong_judge_is_one_line(tmp_path: Path, word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings_of(tmp_path, word)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["metric=nli"], "no model is given"),
        (["metric.judge=lexical", "metric.attribution=[recall@10]"], "nothing to score: with a"),
    ],
)
def test_what_cannot_be_judged_is_said_before_any_work(
    run: Run, tmp_path: Path, words: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(*words)
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------------ cells


def test_a_corpus_without_annotation_is_scored(run: Run, tmp_path: Path) -> None:
    plain, cell = run(), run("metric.judge=lexical")
    assert "mrr" not in plain.result.metrics
    assert plain.folder != cell.folder
    assert set(cell.result.metrics) >= {"mrr", "hit@1", "hit@10"}
    assert "recall@10" not in cell.result.metrics
    for record in records(cell):
        correct = [score > 0.5 for score in record["proponent_ais_scores"]]
        stated = [name in STATED[record["example_id"]] for name in record["proponent_ids"]]
        assert correct == stated
        assert "proponent_correct" not in record
        assert "has_trex_sentence" not in record
    judge = cell.result.task["judge"]
    assert (judge["name"], judge["threshold"], len(judge["identity"])) == ("lexical", 0.5, 64)
    assert judge["metrics_not_scored"] == ["recall@10"]
    assert judge["counts"]["queries_not_judged"] == 0
    assert cell.result.task["n_scored"] == 2
    assert np.isnan(read_per_query(cell.folder)["n_gold"]).all()
    assert list(verify(tmp_path / "runs")) == []


def test_another_method_pays_for_new_pairs_only(run: Run) -> None:
    run("metric.judge=lexical", "top_k=2", "metric.attribution=[mrr]")
    counts = run("metric.judge=lexical", "method=random").result.task["judge"]["counts"]
    assert counts["pairs"] == 12
    assert 0 < counts["pairs_from_cache"] < 12
    counts = run("metric.judge=lexical", "method=random", "seed=3").result.task["judge"]["counts"]
    assert counts["pairs_from_cache"] == 12


def test_a_finished_judgement_loads_no_model(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_classifier(tmp_path / "model")
    words = ("metric=nli", f"metric.judge.model={model}", "method=random")
    first = run(*words)
    assert list(verify(tmp_path / "runs")) == []

    def refuse(self: Nli) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(Nli, "_module", property(refuse))
    again = run(*words, "metric.bootstrap_samples=60")
    assert again.folder != first.folder
    assert [r["proponent_ais_scores"] for r in records(again)] == [
        r["proponent_ais_scores"] for r in records(first)
    ]
    moved = model.rename(tmp_path / "elsewhere")
    same = run("metric=nli", f"metric.judge.model={moved}", "method=random")
    assert same.folder == first.folder, "the key is of the files, not of where they are"


def test_a_threshold_is_part_of_the_cell(run: Run, tmp_path: Path) -> None:
    name = "name: 'tests.run.test_judging:Patchy'"
    words = ["task.n_queries=1", "method=random"]
    low = run(*words, f"metric.judge={{{name}, threshold: 0.05}}", "metric.attribution=[mrr]")
    high = run(*words, f"metric.judge={{{name}, threshold: 0.99}}", "metric.attribution=[mrr]")
    assert low.folder != high.folder
    assert list(verify(tmp_path / "runs")) == []


def test_what_could_not_be_judged_is_not_averaged(run: Run, tmp_path: Path) -> None:
    """Random lists every passage: each list has the one that Patchy cannot judge."""
    word = "metric.judge='tests.run.test_judging:Patchy'"
    Patchy.asked = 0
    cell = run(word)
    judge = cell.result.task["judge"]
    table = read_per_query(cell.folder)
    holes = [
        any("fjord" in text for text in record["proponents"]) for record in records(cell)
    ]  # fmt: skip
    assert any(holes)
    assert np.isnan(table["mrr"]).tolist() == holes
    assert ["proponent_ais_scores" not in record for record in records(cell)] == holes
    assert judge["counts"]["queries_not_judged"] == sum(holes)
    assert judge["counts"]["pairs_not_judged"] >= 1
    assert judge["queries_not_judged"] == table["query_id"][holes].tolist()
    assert cell.result.task["n_scored"] == 2 - sum(holes)
    everything = run(word, "method=random", "metric.no_gold=zero")
    assert "mrr" not in everything.result.metrics, "nor is it a failure of the method"
    assert everything.result.task["n_scored"] == 0
    assert list(verify(tmp_path / "runs")) == []
    before = Patchy.asked
    run(word, "method=random", "metric.no_gold=zero", "seed=1")
    assert Patchy.asked - before == 2, "NaN is not kept: a judge may be mended"


def test_a_judge_that_returns_no_scores(run: Run) -> None:
    with pytest.raises(UserError, match="wild returned no scores from 0 to 1"):
        run("metric.judge='tests.run.test_judging:Wild'")


def test_an_annotated_task_is_judged_only_if_asked(tmp_path: Path) -> None:
    write_task(tmp_path, gold=True)
    plain = run_cell(settings_of(tmp_path)).cell
    assert "judge" not in plain.result.task
    assert "recall@10" in plain.result.metrics
    judged = run_cell(settings_of(tmp_path, "metric.judge=lexical")).cell
    assert judged.result.metrics["mrr"] == plain.result.metrics["mrr"]
    found = judged.result.task["judge"]["agreement_with_annotation"]
    assert found["kappa"]["value"] == found["precision"]["value"] == 1
    assert list(verify(tmp_path / "runs")) == []
    boards = make_boards(read_cells(tmp_path / "runs"))
    assert len(boards) == 2, "numbers of two judges are not ranked together"
    assert "judged by lexical " in boards[1].task


def test_names_are_no_part_of_the_tasks_hash(tmp_path: Path) -> None:
    """Rankings do not depend on them, so cells from before there were names keep their key."""
    hashes = []
    for names in (True, False):
        folder = tmp_path / str(names)
        folder.mkdir()
        write_task(folder)
        if not names:
            bare = [{k: q[k] for k in ("query_id", "prompt", "target")} for q in QUERIES]
            text = "".join(json.dumps(query) + "\n" for query in bare)
            (folder / "queries.jsonl").write_text(text)
        hashes.append(run_cell(settings_of(folder)).cell)
    assert hashes[0].result.task["sha256"] == hashes[1].result.task["sha256"]
    assert hashes[0].folder.name == hashes[1].folder.name
    with pytest.raises(UserError, match="no query says what its subject is called"):
        run_cell(settings_of(tmp_path / "False", "metric.judge=lexical"))


# ------------------------------------------------------------------ verify


@pytest.fixture
def cell(run: Run) -> Cell:
    return run("metric.judge=lexical")


def problems(cell: Cell) -> str:
    return "\n".join(map(str, verify(cell.folder.parents[3])))


def test_verify_recomputes_from_the_scores(cell: Cell) -> None:
    def flip(all_records: list[dict[str, Any]]) -> None:
        scores = all_records[0]["proponent_ais_scores"]
        all_records[0]["proponent_ais_scores"] = [1 - score for score in scores]

    edit_retrievals(cell.folder, flip)
    assert "mrr of query q0: stored" in problems(cell)


def test_verify_notices_another_threshold(cell: Cell) -> None:
    edit_result(cell.folder, lambda r: r["task"]["judge"].update(threshold=0.4))
    assert "judge threshold: stored 0.4, recomputed 0.5" in problems(cell)


def test_verify_notices_a_judge_that_vanished(cell: Cell) -> None:
    edit_result(cell.folder, lambda r: r["task"].pop("judge"))
    assert "judge threshold: stored None" in problems(cell)
    text = (cell.folder / CONFIG).read_text()
    (cell.folder / CONFIG).write_text(text.replace("threshold: 0.5", "threshold: x"))
    assert "no valid metric settings" in problems(cell)


def test_verify_counts_what_was_not_judged(cell: Cell) -> None:
    edit_retrievals(cell.folder, lambda r: r[0].pop("proponent_ais_scores"))
    text = problems(cell)
    assert "queries_not_judged: stored 0, recomputed 1" in text
    assert "mrr of query q0" in text
    edit_table(cell.folder, lambda columns: columns["mrr"].__setitem__(0, math.nan))
    assert "mrr of query q0" not in problems(cell)


# ------------------------------------------------------------------ import


def test_rankings_made_elsewhere_are_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_task(tmp_path)
    (tmp_path / "x.run").write_text(
        "q0 Q0 p2 1 9 x\nq0 Q0 p1 2 8 x\nq1 Q0 p4 1 9 x\nq1 Q0 p5 2 8 x\n"
    )
    words = [
        "import", str(tmp_path / "x.run"), "metric.judge=lexical", "metric.attribution=[mrr]",
        f"results_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", "device=cpu",
    ]  # fmt: skip
    task = [f"task.{name}={tmp_path / name}.jsonl" for name in ("queries", "passages")]
    assert main([*words, "task=jsonl", *task]) == 0
    (cell,) = read_cells(tmp_path / "runs")
    assert cell.result.metrics["mrr"].value == 0.25
    assert cell.result.task["judge"]["name"] == "lexical"
    assert list(verify(tmp_path / "runs")) == []
    capsys.readouterr()
    assert main([*words, "task=none"]) == 2
    assert "metric.judge: means nothing with task=none" in capsys.readouterr().err


def test_facts_of_the_release_bring_their_names(tmp_path: Path) -> None:
    fact = {
        "fact_id": "f", "entity0": "Al Grey", "relation": "plays", "entity1": "trombone",
        "entity0_alias": ["Albert Grey"], "entity1_alias": ["sackbut"], "trex_sentences": ["s1"],
        **{f"prompt{i}": "Al Grey plays the" for i in range(3)},
    }  # fmt: skip
    texts = ["Nothing.", "Albert Grey and his sackbut"]
    sentences = [{"sentence_id": f"s{i}", "text": text} for i, text in enumerate(texts)]
    (tmp_path / "facts.jsonl").write_text(json.dumps(fact) + "\n")
    (tmp_path / "sentences.jsonl").write_text("".join(json.dumps(s) + "\n" for s in sentences))
    files = [f"task.{name}={tmp_path / name}.jsonl" for name in ("facts", "sentences")]
    words = ["task=trex", *files, "method=random", "metric=lexical", "top_k=10", "device=cpu"]
    folders = [f"results_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    cell = run_cell(settings_from(composed(*words, *folders))).cell
    (record,) = records(cell)
    found = dict(zip(record["proponent_ids"], record["proponent_ais_scores"], strict=True))
    assert found == {"s0": 0.0, "s1": 1.0}
