"""``tdabench predict``: what a model answers, written as queries that a run can trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.models import predictions
from bench.storage.jsonlines import dump
from tests.fixtures.models import TEXTS, make_model

Capture = pytest.CaptureFixture[str]
QUERIES = [
    {"query_id": "q0", "prompt": "Al Grey plays the", "target": "trombone"},
    {"query_id": "q1", "prompt": "Marla Venn was born in", "target": "Oslo"},
    {"query_id": "q2", "prompt": "The language of Free Birds is", "target": "English"},
]
ANSWERS = {"Al Grey plays the": " drums.", "Marla Venn was born in": " Oslo, they say"}


@pytest.fixture(autouse=True)
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A task and a model whose answers are known: one wrong, one right, one empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TDABENCH_CACHE", str(tmp_path / "cache"))
    make_model(tmp_path / "model")
    Path("q.jsonl").write_text("".join(map(dump, QUERIES)))
    sentences = [{"sentence_id": f"s{i}", "text": text} for i, text in enumerate(TEXTS)]
    Path("s.jsonl").write_text("".join(map(dump, sentences)))

    def say(model, prompts, room):
        return [ANSWERS.get(model.tokenizer.decode(ids), " .") for ids in prompts]

    monkeypatch.setattr(predictions, "_generate", say)
    return [
        "task=jsonl", "task.queries=q.jsonl", "task.passages=s.jsonl", "model=hf",
        "model.path=model", "quiet=true",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("which", "ids"), [("wrong", ["q0"]), ("right", ["q1"]), ("all", ["q0", "q1"])]
)
def test_which_answers_are_written(words, capsys: Capture, which: str, ids: list[str]) -> None:
    assert main(["predict", "out.jsonl", f"which={which}", *words]) == 0
    records = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert sorted(record["query_id"] for record in records) == ids
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 queries: 1 right, 1 wrong by generation"
    assert lines[2] == "1 answers are empty, and left out"
    assert lines[-1] == f"queries: out.jsonl ({len(ids)}, {which})"


def test_a_wrong_answer_is_traced(words, tmp_path: Path) -> None:
    assert main(["predict", "out.jsonl", *words]) == 0
    run = ["run", *words[2:], "task=jsonl", "task.queries=out.jsonl", "method=bm25"]
    sgd = ["metric.tail_patch.optimizer=sgd", "metric.tail_patch.learning_rate=0.1"]
    assert main([*run, *sgd, "results_dir=r"]) == 0
    (result,) = (json.loads(path.read_text()) for path in Path("r").rglob("result.json"))
    assert result["task"]["n_queries"] == 1
    assert "mrr" not in result["metrics"], "nobody annotated what states a wrong answer"
    assert "tail_patch" in result["metrics"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["max_tokens=0"], "max_tokens: expected at least 1, found 0"),
        (["max_tokens=x"], "predict.max_tokens"),
        (["which"], "which: expected KEY=VALUE"),
        (["model.path=nowhere"], "model.path"),
        (["task=jsonl,trex"], "predict takes one value each"),
        (["which=rigth"], "which: unknown answers 'rigth'; did you mean right"),
    ],
)
def test_a_mistake_is_one_line(words, capsys: Capture, more: list[str], message: str) -> None:
    assert main(["predict", "out.jsonl", *words, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path("out.jsonl").exists()


def test_an_address_is_refused(words, capsys: Capture) -> None:
    assert main(["predict", "s3://b/out.jsonl", *words]) == 2
    assert "OUT=s3://b/out.jsonl: needs a folder" in capsys.readouterr().err
    assert not Path("s3:").exists()


def test_a_file_that_is_there_is_kept(words, capsys: Capture) -> None:
    Path("out.jsonl").write_text("mine")
    assert main(["predict", "out.jsonl", *words]) == 2
    assert Path("out.jsonl").read_text() == "mine"
    assert "out.jsonl: is there already" in capsys.readouterr().err
