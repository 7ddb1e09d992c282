"""Records in memory are the task that the same records in files are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.storage import jsonlines
from bench.tasks.base import Answers, load_task
from bench.tasks.given import Given, passage_records, query_records
from bench.tasks.jsonl import JsonLines, JsonLinesConfig

PASSAGES = [{"text": "Al Grey plays the trombone."}, {"passage_id": "x", "text": ""}, {"text": "é"}]
QUERIES = [
    {"prompt": "Al Grey plays the", "target": "trombone", "gold": ("0",), "relation": "plays"},
    {"query_id": "q", "prompt": "é ", "target": "é"},
]


def test_the_task_is_that_of_files(tmp_path: Path) -> None:
    queries, passages = query_records(QUERIES), passage_records(PASSAGES)
    for name, records in (("queries", queries), ("passages", passages)):
        (tmp_path / name).write_text("".join(map(jsonlines.dump, records)), encoding="utf-8")
    paths = {name: str(tmp_path / name) for name in ("queries", "passages")}
    config = JsonLinesConfig(
        **paths, separator=" ", chat=False, answers=Answers.target, n_queries=None, seed=0
    )
    ours = load_task("given", Given(queries, passages), tmp_path / "ours")
    theirs = load_task("jsonl", JsonLines(config), tmp_path / "theirs")
    assert list(ours.passages) == list(theirs.passages)
    assert replace(ours, name="", passages=theirs.passages) == replace(theirs, name="")
    assert [query.gold_rows for query in ours.queries] == [(0,), ()]


def test_the_fingerprint_is_of_every_record() -> None:
    def fingerprint(text: str, target: str, separator: str = " ") -> dict[str, object]:
        return Given(
            query_records([("a", target)]), passage_records([text]), separator
        ).fingerprint()

    kinds = [fingerprint("p", "t"), fingerprint("q", "t"), fingerprint("p", "u")]
    kinds.append(fingerprint("p", "t", ""))
    assert all(one != other for at, one in enumerate(kinds) for other in kinds[:at])
    assert fingerprint("p", "t") == kinds[0]
