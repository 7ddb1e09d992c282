"""A stream written down as shards: whole files, the same however often it was stopped."""

from __future__ import annotations

import gzip
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.cli.main import main
from bench.core.errors import UserError
from bench.fetch import streaming
from bench.fetch.streaming import Stream, write_shards
from bench.run.composing import composed
from bench.run.parts import task_builder
from bench.run.settings import settings_from
from bench.storage import jsonlines
from bench.storage.hashes import file_sha256
from tests.fixtures.fact_files import fact

Capture = pytest.CaptureFixture[str]
DOCUMENTS = [
    {"text": f"Document {n} — naïve.", "url": f"https://example.org/{n}", "timestamp": "2019"}
    for n in range(23)
]
STREAM = Stream("owner/c4", "en", "train", None)


class Source:
    """Stands in for what ``datasets`` opens: iterable, and it can skip."""

    def __init__(self, records: list[Any], start: int = 0, stop: int | None = None) -> None:
        self.records, self.start, self.stop = records, start, stop

    def skip(self, n: int) -> Source:
        return Source(self.records, n, self.stop)

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.start, len(self.records)):
            if number == self.stop:
                raise ConnectionError("the line is dead\nfor now")
            yield self.records[number]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stand-in has, and how often it was opened."""
    state: dict[str, Any] = {"source": Source(DOCUMENTS), "times": 0}

    def stub(_: Stream) -> Source:
        state["times"] += 1
        return state["source"]

    monkeypatch.setattr(streaming, "_opened", stub)
    return state


def read(shards: list[Path]) -> list[dict]:
    return [record for shard in shards for _, record in jsonlines.read(shard)]


def test_shards_hold_the_first_documents_in_order(opened: dict, tmp_path: Path) -> None:
    shards = write_shards(STREAM, 12, tmp_path, 5)
    assert [shard.name for shard in shards] == [f"c4-train.0000{n}.json.gz" for n in range(3)]
    assert read(shards) == DOCUMENTS[:12]
    assert gzip.decompress(shards[0].read_bytes()).count(b"\n") == 5
    assert [record.get("text") for record in read(shards)][3] == "Document 3 — naïve."


def test_what_is_there_is_not_streamed_again(opened: dict, tmp_path: Path) -> None:
    first = [file_sha256(path) for path in write_shards(STREAM, 12, tmp_path, 5)]
    assert [file_sha256(path) for path in write_shards(STREAM, 12, tmp_path, 5)] == first
    assert [file_sha256(path) for path in write_shards(STREAM, 7, tmp_path, 5)] == first
    assert opened["times"] == 1
    opened["source"] = Source([None] * 10 + DOCUMENTS[10:])  # whole shards are skipped
    more = write_shards(STREAM, 20, tmp_path, 5)
    assert read(more) == DOCUMENTS[:20]
    assert [file_sha256(path) for path in more[:2]] == first[:2]


def test_a_stream_that_breaks_off_goes_on(opened: dict, tmp_path: Path) -> None:
    opened["source"] = Source(DOCUMENTS, stop=12)
    with pytest.raises(UserError, match=r"^owner/c4: broke off after document 11 \(the line is de"):
        write_shards(STREAM, 20, tmp_path, 5)
    there = sorted(path.name for path in tmp_path.glob("*.gz"))
    assert there == ["c4-train.00000.json.gz", "c4-train.00001.json.gz"], "whole ones only"
    before = [os.stat(tmp_path / name).st_mtime_ns for name in there]
    opened["source"] = Source(DOCUMENTS)
    assert read(write_shards(STREAM, 20, tmp_path, 5)) == DOCUMENTS[:20]
    assert [os.stat(tmp_path / name).st_mtime_ns for name in there] == before


def test_fewer_than_asked_for_are_all(opened: dict, tmp_path: Path) -> None:
    assert read(write_shards(STREAM, 100, tmp_path, 10)) == DOCUMENTS
    assert read(write_shards(STREAM, 100, tmp_path, 10)) == DOCUMENTS


@pytest.mark.parametrize(
    ("records", "n", "message"),
    [
        ([], 5, "^owner/c4: holds no document"),
        ([{"text": "x"}, {"words": "y"}], 5, "^owner/c4: document 1 has no text; only data sets"),
        ([{"text": "x"}], 0, "^--documents: expected at least 1, found 0"),
    ],
)
def test_what_is_refused(opened: dict, tmp_path: Path, records: list, n: int, message: str) -> None:
    opened["source"] = Source(records)
    with pytest.raises(UserError, match=message) as caught:
        write_shards(STREAM, n, tmp_path, 5)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.gz"))


def test_another_stream_is_not_mixed_in(opened: dict, tmp_path: Path) -> None:
    write_shards(STREAM, 5, tmp_path, 5)
    with pytest.raises(UserError, match=r"holds another stream \(owner/c4 en train None\); choose"):
        write_shards(Stream("owner/c4", "de", "train", None), 5, tmp_path, 5)
    (tmp_path / "stream.json").write_text("[")
    with pytest.raises(UserError, match=r"stream\.json: cannot read it .*; delete this folder"):
        write_shards(STREAM, 5, tmp_path, 5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trex", "--stream", "x"], "--stream: writes shards for task=c4, and takes neither"),
        (["c4", "a.jsonl", "--stream", "x"], "--stream: writes shards for task=c4, and takes"),
        (["c4", "--stream", "x"], "--documents: how many?; add --documents N"),
        (["c4", "--stream", "x", "--documents", "5"], "nothing is downloaded unasked; add --yes"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: Capture) -> None:
    assert main(["fetch", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_without_the_package_it_is_named(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    words = ("fetch", "c4", "--stream", "x", "--documents", "5", "--yes", "--out", str(tmp_path))
    assert main(list(words)) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: --stream: streaming needs the package datasets; pip install 'tdabench[datasets]'"
    )


# ------------------------------------------------------------------ with the package


@pytest.fixture
def local(tmp_path: Path) -> Path:
    pytest.importorskip("datasets")
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = [json.dumps(document) + "\n" for document in DOCUMENTS]
    (folder / "train-a.jsonl").write_text("".join(lines[:15]), encoding="utf-8")
    (folder / "train-b.jsonl").write_text("".join(lines[15:]), encoding="utf-8")
    return folder


def test_a_local_data_set_becomes_a_task(local: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "shards"
    words = ["fetch", "c4", "--stream", str(local), "--yes", "--out", str(out)]
    assert main([*words, "--documents", "10"]) == 0
    assert main([*words, "--documents", "20"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("shards: 1; use them: ")
    chosen = shlex.split(line.split(": ")[2])
    assert chosen == ["task=c4", f"task.passages={out}/mine-train.*.json.gz"]
    (tmp_path / "facts.jsonl").write_text(json.dumps(fact(0, "a")))
    overrides = [*chosen, f"task.facts={tmp_path}/facts.jsonl"]
    made = task_builder(settings_from(composed(overrides, "test")))
    passages = list(made.passages())
    assert [p.text for p in passages] == [d["text"] for d in DOCUMENTS[:20]]
    assert passages[3].passage_id == "mine-train.00000:4:0"


def test_a_data_set_that_is_not_there(tmp_path: Path, local: Path, capsys: Capture) -> None:
    words = ["--documents", "5", "--yes", "--out", str(tmp_path / "shards")]
    assert main(["fetch", "c4", "--stream", str(tmp_path / "no"), *words]) == 2
    assert f"error: {tmp_path / 'no'}: cannot be opened (" in capsys.readouterr().err
    assert main(["fetch", "c4", "--stream", str(local), "--split", "tset", *words]) == 2
    assert "check --stream, --subset and --split" in capsys.readouterr().err


def test_code_of_a_data_set_is_not_run(tmp_path: Path, local: Path, capsys: Capture) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    (local / "mine.py").write_text(code)
    words = ["--documents", "5", "--yes", "--out", str(tmp_path / "shards")]
    main(["fetch", "c4", "--stream", str(local), *words])
    assert not (tmp_path / "ran").exists()
