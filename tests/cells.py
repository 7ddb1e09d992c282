"""Synthetic finished cells: real files whose numbers follow from their rankings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from bench import jsonlines
from bench.records import RetrievalRecord
from bench.result import CONFIG, PER_QUERY, RESULT, RETRIEVALS, Result
from bench.storage import file_sha256
from metrics.attribution import parse_metric
from metrics.bootstrap import estimate

METRICS = ("mrr", "hit@1", "hit@10", "recall@10")
RELATIONS = ("born in", "instrument", "capital of")
N_PASSAGES = 500
SAMPLES = 200  # bootstrap resamples


def write_cell(
    results_dir: Path,
    method: str = "bm25",
    *,
    config: dict[str, Any] | None = None,
    seed: int = 0,
    strength: float = 0.3,
    tail_patch: float | None = None,
    n_queries: int = 40,
    top_k: int = 20,
    task: str = "factworld",
    task_sha256: str = "ab" * 32,
    model: str = "tiny",
    names: dict[str, str] | None = None,
    relations: Sequence[str] = RELATIONS,
) -> Path:
    """Write one cell and return its folder.

    Args:
        strength: how likely the first proponents are to be correct; 0 finds nothing.
        tail_patch: mean change of the target's probability, None if it was not measured.
        names: names of ``task``, ``model`` or ``method`` in the result, where they differ from
            those of the folders.
    """
    config = {"k1": 1.5, **(config or {})}
    key = f"{abs(hash_of([method, config, seed])):016x}"[:16]
    folder = results_dir / task / model / method / key
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, n_queries, *map(ord, method)])
    records, n_gold = _rankings(rng, strength, n_queries, top_k, relations)
    scores: dict[str, np.ndarray] = {
        name: _metric(name, records, n_gold, top_k) for name in METRICS
    }
    if tail_patch is not None:
        scores["tail_patch"] = tail_patch + rng.normal(0, 0.004, n_queries)
        scores["tail_patch_log"] = 5 * scores["tail_patch"]
        scores["tail_patch"][::4] = np.nan  # only some queries are patched
    (folder / RETRIEVALS).write_text("".join(jsonlines.dump(r.to_json()) for r in records))
    columns = {"query_id": [r.example_id for r in records], "n_gold": n_gold, **scores}
    columns["relation"] = [r.relation for r in records]
    write_table(folder, columns)
    shown = {"task": task, "model": model, "method": method, **(names or {})}
    result = _result(shown, config, key, seed, top_k, task_sha256, scores, records)
    result = replace(result, rankings_sha256=file_sha256(folder / RETRIEVALS))
    (folder / RESULT).write_text(json.dumps(result.to_json()))
    (folder / CONFIG).write_text(
        f"seed: {seed}\nmetric:\n  bootstrap_samples: {SAMPLES}\n  no_gold: skip\n"
    )
    return folder


def hash_of(value: Any) -> int:
    """A number that depends on the value alone, unlike ``hash``."""
    return sum(31**i * ord(c) for i, c in enumerate(json.dumps(value))) % (1 << 63)


def write_table(folder: Path, columns: dict[str, Any]) -> None:
    parquet.write_table(pa.table(columns), folder / PER_QUERY)


def edit_result(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Load ``result.json``, let ``change`` alter it in place, and write it back."""
    path = folder / RESULT
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def edit_retrievals(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Load the rankings, let ``change`` alter the list in place, and write it back.

    The hash in the result follows, so that what is tested is the check of the content.
    """
    path = folder / RETRIEVALS
    records = [json.loads(line) for line in path.read_text().splitlines()]
    change(records)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    edit_result(folder, lambda result: result.update(rankings_sha256=file_sha256(path)))


def edit_table(folder: Path, change: Callable[[dict[str, list[Any]]], None]) -> None:
    """Load the per-query table, let ``change`` alter its columns in place, and write it back."""
    columns = parquet.read_table(folder / PER_QUERY, partitioning=None).to_pydict()
    change(columns)
    write_table(folder, columns)


def _rankings(
    rng: np.random.Generator, strength: float, n_queries: int, top_k: int, relations: Sequence[str]
) -> tuple[list[RetrievalRecord], list[int]]:
    records, n_gold = [], []
    for i in range(n_queries):
        rows = rng.permutation(N_PASSAGES)[:top_k]
        chance = strength / (1 + np.arange(top_k))
        correct = rng.random(top_k) < chance
        n_gold.append(int(correct.sum()) + int(rng.integers(1, 4)))
        records.append(
            RetrievalRecord(
                example_id=f"q{i}",
                query_set="synthetic",
                inputs_plaintext=f"Person {i} plays the",
                targets_plaintext="trombone",
                proponents=[f"passage {row}" for row in rows],
                proponent_ids=[f"s{row}" for row in rows],
                proponent_scores=sorted(map(float, rng.normal(size=top_k)), reverse=True),
                relation=relations[i % len(relations)],
                proponent_correct=correct.tolist(),
            )
        )
    return records, n_gold


def _metric(name: str, records: list[RetrievalRecord], n_gold: list[int], top_k: int) -> np.ndarray:
    metric = parse_metric(name)
    return np.array(
        [
            metric.score(np.array(record.proponent_correct, dtype=bool), n)
            for record, n in zip(records, n_gold, strict=True)
        ]
    )


def _result(
    names: dict[str, str],
    config: dict[str, Any],
    key: str,
    seed: int,
    top_k: int,
    task_sha256: str,
    scores: dict[str, np.ndarray],
    records: list[RetrievalRecord],
) -> Result:
    relations = sorted({record.relation or "" for record in records})
    of = np.array([record.relation for record in records])
    return Result(
        task={
            "name": names["task"],
            "version": 1,
            "sha256": task_sha256,
            "n_queries": len(records),
            "n_scored": len(records),
            "n_passages": N_PASSAGES,
            "counts": {"facts left out, no prompt": 3},
        },
        model={"name": names["model"], "n_params": 1_204_224, "sha256": "cd" * 32},
        method={"name": names["method"], "config": config, "key": key},
        metrics={name: estimate(values, SAMPLES, seed=seed) for name, values in scores.items()},
        slices={
            "relation": {
                relation: {"mrr": estimate(scores["mrr"][of == relation], SAMPLES, seed=seed)}
                for relation in relations
            }
        },
        phases=[
            {"name": "index", "seconds": 1.25, "peak_mib": 310.0},
            {"name": "rank", "seconds": 0.5, "peak_mib": 402.5},
        ],
        index={"bytes": 256 * N_PASSAGES, "bytes_per_passage": 256.0, "shards": 1},
        env={"python": "3.11.7", "torch": "2.6.0", "device": "cpu", "git_sha": "0" * 40},
        date="2025-01-02T03:04:05Z",
        top_k=top_k,
        seed=seed,
        command="tdabench run " + " ".join(f"{part}={name}" for part, name in names.items()),
    )
