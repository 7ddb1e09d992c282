"""Texts that are none: every reader refuses NUL and lone surrogates, with file, line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.importing.release import read_records
from bench.importing.trec import read_trec
from bench.storage import jsonlines
from bench.tasks.base import Answers, load_task
from bench.tasks.jsonl import JsonLines, JsonLinesConfig
from bench.tasks.query_list import QueryList
from bench.tasks.records import read_facts, read_sentences
from tests.fixtures.fact_files import fact, sentence, write

WRONG = {"a lone surrogate": "\ud800", "NUL": "\0", "another lone surrogate": "\udfff"}


def passage(i: int, text: str) -> dict[str, Any]:
    return {"passage_id": f"p{i}", "text": text}


def query(i: int, prompt: str = "who plays") -> dict[str, Any]:
    return {"query_id": f"q{i}", "prompt": prompt, "target": "jazz"}


def mine(folder: Path, queries: list[dict], passages: list[dict]) -> None:
    files = []
    for name, rows in (("queries", queries), ("passages", passages)):
        files.append(str(folder / f"{name}.jsonl"))
        write(folder / f"{name}.jsonl", rows)
    load_task(
        "mine",
        JsonLines(JsonLinesConfig(*files, " ", False, Answers.target, None, 0)),
        folder / "cache",
    )


def listed(folder: Path, wrong: str) -> None:
    rows = [{"inputs_plaintext": text, "targets_plaintext": "b"} for text in ("a", f"a {wrong}")]
    write(folder / "x.jsonl", rows)
    QueryList([folder / "x.jsonl"])


def records(folder: Path, rows: list[dict], reader: Any) -> None:
    write(folder / "x.jsonl", rows)
    list(reader([folder / "x.jsonl"]))


def retrieval(i: int, text: str) -> dict[str, Any]:
    return {
        "example_id": str(i), "query_set": "s", "inputs_plaintext": "a", "targets_plaintext": "b",
        "proponents": [text], "proponent_ids": ["s1"], "proponent_scores": [1.0],
    }  # fmt: skip


def run_file(folder: Path, wrong: str) -> None:
    text = f"q0 Q0 p1 1 2.5 tag\nq0 Q0 p{wrong} 2 1.5 tag\n"
    (folder / "x.run").write_bytes(text.encode("utf-8", "surrogatepass"))
    list(read_trec([folder / "x.run"]))


READERS = {
    "passage of task=jsonl": (
        lambda f, w: mine(f, [query(0)], [passage(0, "a"), passage(1, f"bad {w} Paris")]),
        "passages.jsonl:2, field 'text'",
    ),
    "id of task=jsonl": (
        lambda f, w: mine(f, [query(0)], [passage(0, "a"), {"passage_id": w, "text": "b"}]),
        "passages.jsonl:2, field 'passage_id'",
    ),
    "prompt of task=jsonl": (
        lambda f, w: mine(f, [query(0), query(1, f"who {w}")], [passage(0, "a")]),
        "queries.jsonl:2, field 'prompt'",
    ),
    "label of task=jsonl": (
        lambda f, w: mine(f, [query(0), {**query(1), "slices": {w: "x"}}], [passage(0, "a")]),
        "queries.jsonl:2, field 'slices'",
    ),
    "fact": (
        lambda f, w: records(f, [fact(0), fact(1, entity1_alias=["x", w])], read_facts),
        "x.jsonl:2, field 'entity1_alias'",
    ),
    "sentence": (
        lambda f, w: records(f, [sentence(0), sentence(1, text=f"a {w}")], read_sentences),
        "x.jsonl:2, field 'text'",
    ),
    "list of queries": (listed, "x.jsonl:2, field 'inputs_plaintext'"),
    "imported ranking": (
        lambda f, w: records(f, [retrieval(0, "a"), retrieval(1, w)], read_records),
        "x.jsonl:2, field 'proponents'",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_it(tmp_path: Path, reader: str, wrong: str) -> None:
    read_file, place = READERS[reader]
    with pytest.raises(UserError) as caught:
        read_file(tmp_path, WRONG[wrong])
    message = str(caught.value)
    assert f"{tmp_path}/{place}: holds {'NUL' if wrong == 'NUL' else 'a lone surrogate'}" in message
    assert "replace or delete the character" in message
    assert "\0" not in message


def test_a_trec_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.run:2, field 'docid': holds NUL"):
        run_file(tmp_path, "\0")
    with pytest.raises(UserError, match="not UTF-8"):
        run_file(tmp_path, "\ud800")


def test_what_is_text_is_read(tmp_path: Path) -> None:
    texts = ["\U0001f600 paired", "\\ud800 spelt out", "\t\x01\x7f", "", "\u2028\ufffe"]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert [record["text"] for _, record in jsonlines.read_texts(path)] == texts
