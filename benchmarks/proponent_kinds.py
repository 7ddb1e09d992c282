"""What a training step on a proponent does, by what the proponent says about the fact.

    tdabench run -m experiment=table1 results_dir=runs/table1
    python benchmarks/proponent_kinds.py runs/table1

Reads the rankings of finished cells that have both ``proponent_support`` and
``proponent_tail_patch``, and prints for each method and kind of support the mean change of the
target's probability, in percentage points, over the steps that were made, and how many these were.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from bench.results.schema import RETRIEVALS, Cell, read_cells
from bench.tasks.records import read_retrievals


def main() -> None:
    """Print a table with a line for each method and kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("results", type=Path)
    print("| method | kind | mean change (pp) | steps |\n| :-- | :-- | --: | --: |")
    for cell in read_cells(parser.parse_args().results):
        changes = _changes(cell)
        for kind in sorted(changes, key=lambda kind: -len(changes[kind])):
            mean = 100 * statistics.fmean(changes[kind])
            name = cell.result.method["name"]
            print(f"| {name} | {kind} | {mean:+.2f} | {len(changes[kind]):,} |")
    print(f"\nagain: python {shlex.join(sys.argv)}")


def _changes(cell: Cell) -> dict[str, list[float]]:
    """Kind of support → the change that each step on such a proponent made."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for record in read_retrievals(cell.folder / RETRIEVALS):
        if record.proponent_support and record.proponent_tail_patch:
            pairs = zip(record.proponent_support, record.proponent_tail_patch, strict=True)
            for kind, change in pairs:
                if change is not None:
                    found[kind].append(change)
    return found


if __name__ == "__main__":
    main()
