"""What a smaller index costs in quality: bytes a passage beside MRR, hit@10 and the exact top 10.

    tdabench run -m experiment=storage results_dir=/tmp/storage
    python benchmarks/storage.py /tmp/storage

Reads finished cells that differ in ``method.storage`` and ``method.rerank`` only, and compares each
with the one of ``storage=fp32`` without rerank, of the same task and model:

    overlap     share of the ten best passages of fp32 that are among the ten best, mean of queries
    MRR change  mean over queries, with a 95% bootstrap interval of the paired differences
    within      whether the MRR lies inside the 95% interval of fp32's own MRR
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.results.per_query import read_per_query
from bench.results.schema import RETRIEVALS, Cell, read_cells
from bench.tasks.records import read_retrievals
from metrics.stats.sampling import Sampling

TOP = 10
SAMPLES = 1000


def main() -> None:
    """Read the cells and print a table for each task and model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("results", type=Path)
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in read_cells(parser.parse_args().results):
        if "storage" in cell.result.method["config"]:
            key = (cell.result.task["name"], cell.result.model["name"])
            groups.setdefault(key, []).append(cell)
    for (task, model), cells in groups.items():
        print(f"\n{task} × {model}\n")
        _table(cells)
    print(f"\nagain: python {shlex.join(sys.argv)}")


def _table(cells: list[Cell]) -> None:
    exact = next(cell for cell in cells if _setting(cell) == ("fp32", None))
    facts = exact.result.task
    print(
        f"{exact.result.method['name']}, {facts['n_passages']:,} passages, "
        f"{facts['n_queries']:,} queries, {facts['n_scored']:,} scored\n"
    )
    print(
        "| storage | rerank | bytes a passage | smaller by | MRR | MRR change | within | hit@10 "
        "| overlap | search s |\n| --- | --- | --: | --: | --- | --- | --- | --- | --: | --: |"
    )
    reference = _tops(exact)
    for cell in sorted(cells, key=_order):
        _row(cell, exact, reference)


def _row(cell: Cell, exact: Cell, reference: dict[str, list[str]]) -> None:
    size, whole = (one.result.index["bytes_per_passage"] for one in (cell, exact))
    mrr, of_exact = cell.result.metrics["mrr"], exact.result.metrics["mrr"]
    storage, rerank = _setting(cell)
    change = Sampling(SAMPLES).estimate("mrr", _mrr(cell) - _mrr(exact))
    assert change is not None
    within = of_exact.ci95[0] <= mrr.value <= of_exact.ci95[1]
    shares = [
        len(set(tops) & set(reference[query])) / len(reference[query])
        for query, tops in _tops(cell).items()
    ]
    search = sum(p["seconds"] for p in cell.result.phases if p["name"] == "search")
    print(
        f"| {storage} | {rerank or '–'} | {size:,.0f} | {f'{whole / size:.1f} ×' if size else '–'} "
        f"| {mrr.value:.3f} [{mrr.ci95[0]:.3f}, {mrr.ci95[1]:.3f}] "
        f"| {change.value:+.4f} [{change.ci95[0]:+.4f}, {change.ci95[1]:+.4f}] "
        f"| {'yes' if within else 'no'} | {cell.result.metrics['hit@10'].value:.3f} "
        f"| {np.mean(shares):.3f} | {search:.1f} |"
    )


def _setting(cell: Cell) -> tuple[str, int | None]:
    config: dict[str, Any] = cell.result.method["config"]
    return config["storage"], config["rerank"]


def _order(cell: Cell) -> tuple[float, int]:
    size = cell.result.index["bytes_per_passage"]
    return (-size if size else 1.0), _setting(cell)[1] or 0


def _mrr(cell: Cell) -> np.ndarray:
    return read_per_query(cell.folder)["mrr"]


def _tops(cell: Cell) -> dict[str, list[str]]:
    records = read_retrievals(cell.folder / RETRIEVALS)
    return {record.example_id: record.proponent_ids[:TOP] for record in records}


if __name__ == "__main__":
    main()
