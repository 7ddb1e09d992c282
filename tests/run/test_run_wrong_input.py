"""``tdabench run`` on wrong words and faulty files: one line each, and nothing half done."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pandas as pd
import pytest

from bench.cli.main import main
from tests.fixtures.models import make_model
from tests.fixtures.runs import SMALL, cells, error_line, result, run


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests here: the model is trained once."""
    return tmp_path_factory.mktemp("cache")


def lines_of(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Ten facts and ten sentences in the release's format."""
    prompts = {f"prompt{i}": "Al Grey plays the" for i in range(3)}
    facts = [
        {"fact_id": f"f{i}", "entity0": "Al Grey", "relation": "instrument", "entity1": "trombone",
         "trex_sentences": [f"s{i}"], **prompts}
        for i in range(10)
    ]  # fmt: skip
    sentences = [
        {"sentence_id": f"s{i}", "text": f"Al Grey plays trombone number {i}."} for i in range(10)
    ]
    return lines_of(tmp_path / "f.jsonl", facts), lines_of(tmp_path / "s.jsonl", sentences)


def trex(facts: Path, sentences: Path, *words: str) -> tuple[str, ...]:
    return (
        "task=trex", f"task.facts={facts}", f"task.sentences={sentences}", "method=bm25",
        "metric=attribution", *words,
    )  # fmt: skip


def break_line_7(facts: Path, sentences: Path) -> None:
    lines = sentences.read_text().splitlines()
    lines[6] = lines[6][:-3]
    sentences.write_text("\n".join(lines))


def unknown_sentence(facts: Path, sentences: Path) -> None:
    facts.write_text(facts.read_text().replace('"s3"', '"nowhere"'))


def directory(facts: Path, sentences: Path) -> None:
    facts.unlink()
    facts.mkdir()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (lambda f, s: f.unlink(), ["f.jsonl: no such file", "task.facts"]),
        (directory, ["f.jsonl: is a directory"]),
        (break_line_7, ["s.jsonl:7: broken JSON", "mend or delete the line"]),
        (unknown_sentence, ["f.jsonl:4", "'trex_sentences'", "'nowhere'", "task.sentences"]),
        (lambda f, s: s.write_text(""), ["no sentences file holds"]),
        (lambda f, s: (s.write_text(""), f.write_text("")), ["no fact is left to ask"]),
    ],
)
def test_faulty_files(tmp_path: Path, cache: Path, files, fault, expected, capsys) -> None:
    facts, sentences = files
    assert run(tmp_path / "good", cache, *trex(facts, sentences), small=False) == 0
    capsys.readouterr()
    fault(facts, sentences)
    assert run(tmp_path / "bad", cache, *trex(facts, sentences), small=False) == 2
    line = error_line(capsys)
    assert all(word in line for word in expected), line
    assert cells(tmp_path / "bad") == {}


@pytest.mark.parametrize("name", ["n_gold", "mrr", "tail_patch", "top10_support=states"])
def test_a_group_called_like_a_column(tmp_path: Path, cache: Path, name: str, capsys) -> None:
    """Fault: a traceback after all the work, at every try."""
    asked = {"query_id": "q", "prompt": "a", "target": "b", "gold": ["p"], "slices": {name: "x"}}
    queries = lines_of(tmp_path / "q.jsonl", [asked])
    passages = lines_of(tmp_path / "p.jsonl", [{"passage_id": "p", "text": "a b"}])
    words = ("task=jsonl", f"task.queries={queries}", f"task.passages={passages}", "method=bm25")
    assert run(tmp_path / "r", cache, *words, "metric=attribution", small=False) == 2
    assert "slices of query q" in error_line(capsys)
    assert cells(tmp_path / "r") == {}


def test_a_cell_without_its_result_is_not_believed(tmp_path: Path, cache: Path, capsys) -> None:
    """Fault: all was worked out, thrown away, and called done."""
    words = ("method=bm25", "metric=attribution")
    assert run(tmp_path, cache, *words) == 0
    (cells(tmp_path)["bm25"] / "result.json").unlink()
    capsys.readouterr()
    assert run(tmp_path, cache, *words) == 2
    assert "delete the folder to run this cell again" in error_line(capsys)


@pytest.mark.parametrize("sweep", [(), ("-m",)])
def test_a_results_folder_that_cannot_be(tmp_path: Path, cache: Path, sweep, capsys) -> None:
    (tmp_path / "file").write_text("")
    words = ["method=random", f"results_dir={tmp_path / 'file'}", f"cache_dir={cache}"]
    assert main(["run", *sweep, *SMALL, *words]) == 2
    assert "set results_dir to a folder of yours" in error_line(capsys)


def test_control_characters_of_a_corpus_do_not_reach_the_terminal(tmp_path, cache, capsys) -> None:
    asked = {"query_id": "q\x1b[2J", "prompt": "", "target": "b", "slices": {"mrr": "x"}}
    queries = lines_of(tmp_path / "q.jsonl", [{**asked, "prompt": "a", "gold": ["p"]}])
    passages = lines_of(tmp_path / "p.jsonl", [{"passage_id": "p", "text": "a b"}])
    words = ("task=jsonl", f"task.queries={queries}", f"task.passages={passages}", "method=bm25")
    assert run(tmp_path / "r", cache, *words, "metric=attribution", small=False) == 2
    assert "\x1b" not in error_line(capsys)


def test_an_empty_corpus(tmp_path: Path, cache: Path, capsys) -> None:
    queries = lines_of(tmp_path / "q.jsonl", [{"query_id": "q", "prompt": "a", "target": "b"}])
    passages = lines_of(tmp_path / "p.jsonl", [])
    words = ("task=jsonl", f"task.queries={queries}", f"task.passages={passages}", "method=bm25")
    assert run(tmp_path / "r", cache, *words, "metric=attribution", small=False) == 2
    assert "the corpus is empty" in error_line(capsys)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["method=trakstar"], ["unknown method 'trakstar'", "did you mean trackstar"]),
        (["method.unit_nrom=true"], ["method.unit_nrom", "did you mean unit_norm"]),
        (["modle=tiny"], ["'modle'", "did you mean model"]),
        (["top_k=many"], ["top_k"]),
        (["metric.attribution=[mmr]"], ["unknown metric 'mmr'", "mrr"]),
        (["top_k=5"], ["hit@10", "top_k=10"]),
        (["method.hessian=trian"], ["hessian"]),
        (["task.n_facts=0"], ["task.n_facts"]),
        (["task=null"], ["task=null: nothing is chosen"]),
        (
            ["method=bm25", "spans=true"],
            ["spans: the scores of bm25 are not", "cos_optimizer_hessian, datainf", "trackstar"],
        ),
        (["method=repsim", "spans=true"], ["spans: the scores of repsim are not"]),
        (["method=trackstar", "method.storage=int8", "spans=true"], ["method.storage: spans="]),
        (["--multi"], ["unknown option '--multi'", "did you mean --multirun"]),
    ],
)
def test_wrong_words(tmp_path: Path, cache: Path, words: list[str], expected: list[str], capsys):
    assert run(tmp_path, cache, *words) == 2
    line = error_line(capsys)
    assert all(word in line for word in expected), line
    assert cells(tmp_path) == {}


def test_a_disk_that_fills_up_leaves_no_half_result(tmp_path, cache, monkeypatch, capsys) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    assert run(tmp_path, cache, "method=random", "metric=attribution") == 2
    assert "the disk is full" in error_line(capsys)
    assert list(tmp_path.glob("factworld/tiny/random/*")) == []


def test_passages_longer_than_the_context_are_cut_and_counted(tmp_path: Path, cache: Path) -> None:
    model = make_model(tmp_path / "model")  # 64 tokens of context
    texts = [{"passage_id": "long", "text": "Al Grey plays the trombone. " * 40},
             {"passage_id": "short", "text": "Marla Venn was born in Oslo."}]  # fmt: skip
    query = {"query_id": "q", "prompt": "Al Grey plays the", "target": "trombone", "gold": ["long"]}
    passages = lines_of(tmp_path / "p.jsonl", texts)
    queries = lines_of(tmp_path / "q.jsonl", [query])
    words = (
        "task=jsonl", f"task.queries={queries}", f"task.passages={passages}", "model=hf",
        f"model.path={model}", "method=grad_cos", "model.projection_dim=4", "metric=attribution",
    )  # fmt: skip
    assert run(tmp_path / "r", cache, *words, small=False) == 0
    assert result(cells(tmp_path / "r")["grad_cos"])["method"]["counts"]["passages_truncated"] == 1


@pytest.mark.parametrize("value", ["s3://b/x", "'s3://b/x'"])
def test_results_at_an_address_are_refused_and_leave_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "method=random", f"results_dir={value}"]) == 2
    assert "results_dir=s3://b/x: needs a folder of this machine" in error_line(capsys)
    assert not list(tmp_path.iterdir())


def test_each_failed_cell_of_a_sweep_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["task=jsonl", "task.queries=q.jsonl", "task.passages=p.jsonl", "method=bm25,random"]
    assert main(["run", "-m", *words, f"results_dir={tmp_path / 'r'}"]) == 2
    first, second, last = capsys.readouterr().err.splitlines()
    for line, method in ((first, "bm25"), (second, "random")):
        assert f"method={method}" in line
        assert "q.jsonl: no such file; set task.queries to an existing file or glob" in line
    assert last.startswith("2 of 2 cells failed")
