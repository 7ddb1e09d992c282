"""A small task in files, rankings of it in every format, and ``tdabench import`` over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli import main

N_QUERIES, N_PASSAGES, K = 6, 40, 12


class World:
    """Queries ``q0``…, each stated by two passages of ``p0``…; a ranking with ties among scores.

    Attributes:
        rows: the ranked rows of each query, by score, then by row: int64 ``[queries, K]``.
        scores: likewise.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "runs"
        self.queries = [
            {
                "query_id": f"q{i}",
                "prompt": f"Person {i} plays the",
                "target": f"horn {i}",
                "gold": [f"p{3 * i}", f"p{3 * i + 1}"],
                "relation": "ab"[i % 2],
            }
            for i in range(N_QUERIES)
        ]
        self.texts = [
            f"Sentence {row} of the corpus." + " So." * (row % 5) for row in range(N_PASSAGES)
        ]
        self.write("queries.jsonl", self.queries)
        passages = [{"passage_id": f"p{i}", "text": text} for i, text in enumerate(self.texts)]
        self.write("passages.jsonl", passages)
        rng = np.random.default_rng(0)
        dense = rng.integers(0, 9, (N_QUERIES, N_PASSAGES)) / 8  # ties everywhere
        self.dense = dense.astype(np.float32)
        rows = np.broadcast_to(np.arange(N_PASSAGES), dense.shape)
        self.rows = np.lexsort((rows, -dense))[:, :K]
        self.scores = np.take_along_axis(dense, self.rows, axis=1)

    def write(self, name: str, records: list[dict[str, Any]]) -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    # -------------------------------------------------------------- rankings

    def records(self) -> list[dict[str, Any]]:
        """The ranking in the release's format, without a judgement."""
        return [
            {
                "example_id": query["query_id"],
                "query_set": "toy",
                "inputs_plaintext": query["prompt"],
                "targets_plaintext": query["target"],
                "proponents": [self.texts[row] for row in rows],
                "proponent_ids": [f"p{row}" for row in rows],
                "proponent_scores": scores,
            }
            for query, rows, scores in zip(
                self.queries, self.rows.tolist(), self.scores.tolist(), strict=True
            )
        ]

    def judged_records(self) -> list[dict[str, Any]]:
        """The same with the task's judgement."""
        records = self.records()
        for record, query in zip(records, self.queries, strict=True):
            gold = query["gold"]
            record["proponent_correct"] = [name in gold for name in record["proponent_ids"]]
            record["has_trex_sentence"] = True
            record["relation"] = query["relation"]
        return records

    def trec_lines(self) -> list[str]:
        return [
            f"q{i} Q0 p{row} {rank} {score!r} mine"
            for i in range(N_QUERIES)
            for rank, (row, score) in enumerate(
                zip(self.rows[i].tolist(), self.scores[i].tolist(), strict=True), start=1
            )
        ]

    def release(self, records: list[dict[str, Any]] | None = None, name: str = "x.jsonl") -> Path:
        return self.write(name, self.records() if records is None else records)

    def trec(self, lines: list[str] | None = None, name: str = "x.run") -> Path:
        path = self.folder / name
        path.write_text("\n".join(self.trec_lines() if lines is None else lines) + "\n")
        return path

    # -------------------------------------------------------------- the command

    def run(self, *words: object, task: str = "jsonl") -> int:
        places = [f"results_dir={self.results}", f"cache_dir={self.folder / 'cache'}"]
        if task == "jsonl":
            files = [f"task.{kind}={self.folder}/{kind}.jsonl" for kind in ("queries", "passages")]
            places += ["task=jsonl", *files]
        elif task:
            places.append(f"task={task}")
        return main(["import", *map(str, words), *places])

    def cells(self) -> list[Path]:
        return sorted(path.parent for path in self.results.glob("*/*/*/*/result.json"))

    def refusal(
        self, capsys: pytest.CaptureFixture[str], *words: object, task: str = "jsonl"
    ) -> str:
        """The one error line of a command that must fail and leave nothing behind."""
        before = self.cells()
        capsys.readouterr()
        assert self.run(*words, task=task) == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert self.cells() == before
        assert not [path for path in self.results.rglob("*") if ".partial-" in path.name]
        return line


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def imported(world: World, *words: object, task: str = "jsonl") -> dict[str, Any]:
    """The result of the one cell that an import makes."""
    before = set(world.cells())
    assert world.run(*words, task=task) == 0
    (folder,) = set(world.cells()) - before
    return result(folder)


def ranked(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "retrievals.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
