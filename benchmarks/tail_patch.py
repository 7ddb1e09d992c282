"""Tail-patch beside the obvious way: a deep copy of the model for each pair of query and proponent.

    tdabench run -m experiment=quickstart results_dir=runs/quickstart
    python benchmarks/tail_patch.py runs/quickstart

Reads the finished cells of one task and model, takes the first 10 proponents of 100 queries from 8
methods, and measures the same pairs in both ways, in turns: all pairs of a part of the queries by
``metrics.tail_patch`` with an empty cache, and a sample of these pairs by deep copies
(``tests/oracles/deep_copy_tail_patch.py``), in the same dtype. Prints seconds a pair, their ratio,
and how far the two differ.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line has it
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.core import progress
from bench.engines.serial import Serial, SerialConfig
from bench.models.language_model import LanguageModel
from bench.models.second_moments import Factored
from bench.results.schema import CONFIG, RETRIEVALS, Cell, read_cells
from bench.run.evaluation import spread
from bench.run.parts import Parts
from bench.run.settings import settings_from
from bench.storage.mirror import Mirror
from bench.tasks import Query, Task
from bench.tasks.records import read_retrievals
from metrics.tail_patch import TailPatch, TailPatchConfig
from tests.oracles.deep_copy_tail_patch import log_probability, patched

Pair = tuple[Query, int]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("results", type=Path)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--methods", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="parts of the queries")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="of both ways")
    parser.add_argument("--sample", type=int, default=40, help="deep copies a round")
    options = parser.parse_args()
    progress.set_quiet(True)
    cells = _cells(options.results, options.methods)
    settings = settings_from(OmegaConf.load(cells[0].folder / CONFIG))
    parts = Parts(settings)
    task, model = parts.task, parts.model
    if options.dtype:
        model.gradient_dtype = getattr(torch, options.dtype)
    config = replace(settings.metric.tail_patch, top=options.top, n_queries=None)
    queries = spread(task.queries, options.queries)
    lists = [_lists(cell, task) for cell in cells]
    names = ", ".join(cell.result.method["name"] for cell in cells)
    print(f"{len(queries)} queries × {options.top} proponents × {len(cells)} methods ({names})")
    print(f"in {model.gradient_dtype}")
    print(
        "| pairs | passages | ms a pair | deep copy, ms a pair | times | largest difference of p |"
    )
    print("| --: | --: | --: | --: | --: | --: |")
    ratios = []
    for number in range(options.rounds):
        part = queries[number :: options.rounds]
        pairs = [(q, row) for one in lists for q in part for row in one[q.query_id][: options.top]]
        seconds, found = _shared(config, model, task, part, lists)
        seconds /= len(pairs)
        rng = np.random.default_rng(number)
        sample = [pairs[i] for i in rng.choice(len(pairs), options.sample, replace=False)]
        slow, difference = _copies(model, task, config, sample, found)
        ratios.append(slow / seconds)
        print(
            f"| {len(pairs):,} | {len({row for _, row in pairs}):,} | {1e3 * seconds:.2f} "
            f"| {1e3 * slow:.2f} | {slow / seconds:.1f} | {difference:.1e} |",
            flush=True,
        )
    print(f"median: {statistics.median(ratios):.1f} times as fast as a deep copy a pair")
    print(f"again: python {shlex.join(sys.argv)}")


def _cells(results: Path, n: int) -> list[Cell]:
    cells = [c for c in read_cells(results) if c.measured_by["tail_patch"]["enabled"]]
    first = (cells[0].result.task["sha256"], cells[0].result.model["name"])
    same = [c for c in cells if (c.result.task["sha256"], c.result.model["name"]) == first]
    if len(same) < n:
        sys.exit(f"{results} holds {len(same)} cells of one task and model, {n} are asked for")
    return same[:n]


def _lists(cell: Cell, task: Task) -> dict[str, list[int]]:
    rows = {passage.passage_id: passage.row for passage in task.passages}
    records = read_retrievals(cell.folder / RETRIEVALS)
    return {record.example_id: [rows[i] for i in record.proponent_ids] for record in records}


def _shared(
    config: TailPatchConfig,
    model: LanguageModel,
    task: Task,
    part: list[Query],
    lists: list[dict[str, list[int]]],
) -> tuple[float, dict[tuple[str, int], float]]:
    """Seconds of the project's own way, method after method as a sweep goes, and log p of each pair
    after the step."""
    found: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for proponents in lists:
            patch = TailPatch(
                config, model, task, Path(folder), Serial(SerialConfig()), lambda: model,
                Mirror(Path(folder)),
            )  # fmt: skip
            patched = patch.measure(part, proponents)
            for query_id, values in patched.after.items():
                rows = proponents[query_id][: config.top]
                pairs = zip(rows, values, strict=True)
                found |= {(query_id, row): one.log_probability for row, one in pairs}
        seconds = time.perf_counter() - start
    return seconds, found


def _copies(
    model: LanguageModel,
    task: Task,
    config: TailPatchConfig,
    sample: list[Pair],
    found: dict[tuple[str, int], float],
) -> tuple[float, float]:
    """Seconds a pair by deep copies, and the largest difference of p after the step."""
    rate = config.learning_rate or model.learning_rate
    moments = _moments(model) if config.optimizer == "saved" else None
    module = copy.deepcopy(model.module).to(model.gradient_dtype)
    largest = seconds = 0.0
    for query, row in sample:
        asked = model.query_tokens(query)
        prompt, target = asked.ids[: asked.loss_from], asked.ids[asked.loss_from :]
        passage = model.passage_tokens(task.passages[row].text).ids
        start = time.perf_counter()
        twin = patched(module, passage, rate, moments, config.clip_at)
        after = log_probability(twin, prompt, target)
        seconds += time.perf_counter() - start
        largest = max(largest, abs(math.exp(after) - math.exp(found[query.query_id, row])))
    return seconds / len(sample), largest


def _moments(model: LanguageModel) -> dict[str, tuple[Tensor, ...]]:
    """As ``patched`` takes them: row and column of matrices, V itself of the rest."""
    return {
        name: (m.row, m.col) if isinstance(m, Factored) else (m.value,)
        for name, m in model.required_moments().by_name.items()
    }


if __name__ == "__main__":
    main()
