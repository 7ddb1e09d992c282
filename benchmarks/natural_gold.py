"""Attribution and tail-patch without the passages that a task generated, and with them alone.

    python benchmarks/natural_gold.py runs --out results/finetuned

``task.statements`` makes passages of a fact's other prompts and its answer. They are correct, and
share nearly all words with the query, so that whoever matches words has one in the first place.
This reads the rankings of finished cells, takes generated passages out of each list, and scores
what is left against the sentences of the files. Beside that stands what a step of tail-patch on a
listed passage changes, in percentage points, apart for generated passages, for sentences that are
annotated to state the fact, and for all others. It writes ``natural.csv`` and ``natural.md``.
Intervals resample clusters of queries of one relation and answer.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from swept import estimate

from bench.results.schema import RETRIEVALS, Cell, read_cells
from bench.tasks.records import RetrievalRecord, read_retrievals
from bench.tasks.trex import GENERATED
from metrics.attribution import parse_metric

SCORES = ("mrr", "hit@1", "hit@10")
KINDS = ("generated", "stating sentence", "other sentence")


@dataclass
class Lists:
    """What the lists of one cell come to.

    Attributes:
        method: the method's name.
        scores: each query's score, by metric.
        clusters: each query's relation and answer.
        changes: the changes of the target's probability by the kind of the passage.
    """

    method: str
    scores: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    clusters: list[str] = field(default_factory=list)
    changes: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def main() -> None:
    """Read the cells, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    cells = [lists_of(cell) for cell in read_cells(options.results)]
    cells.sort(key=lambda one: -statistics.fmean(one.scores["mrr"]))
    options.out.mkdir(parents=True, exist_ok=True)
    with open(options.out / "natural.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(_records(cells))
    command = f"python {shlex.join(sys.argv)}"
    text = "\n".join([*_lines(cells), "", f"    {command}", ""])
    (options.out / "natural.md").write_text(text, encoding="utf-8")
    print(text)


def lists_of(cell: Cell) -> Lists:
    """The scores of a cell's lists without generated passages, and the changes of all of them.

    A query is scored if an annotated sentence of the files is in its list or may lie behind it:
    every asked fact has one.
    """
    lists = Lists(cell.result.method["name"])
    for record in read_retrievals(cell.folder / RETRIEVALS):
        kinds = _kinds(record)
        natural = np.array([kind == KINDS[1] for kind in kinds if kind != KINDS[0]])
        for name in SCORES:
            lists.scores[name].append(parse_metric(name).score(natural, n_gold=1))
        lists.clusters.append(f"{record.relation} {record.targets_plaintext}")
        for kind, change in zip(kinds, record.proponent_tail_patch or (), strict=False):
            if change is not None:
                lists.changes[kind].append(100 * change)
    return lists


def _kinds(record: RetrievalRecord) -> list[str]:
    """What each listed passage is."""
    correct = record.proponent_correct
    assert correct is not None  # the corpus is annotated
    return [
        KINDS[0] if one.startswith(GENERATED) else KINDS[1] if states else KINDS[2]
        for one, states in zip(record.proponent_ids, correct, strict=True)
    ]


def _records(cells: Sequence[Lists]) -> list[list[object]]:
    head: list[object] = ["method", "queries"]
    head += [f"{name}{part}" for name in SCORES for part in ("", "_low", "_high")]
    head += [f"{part} {kind}" for kind in KINDS for part in ("mean change (pp)", "steps")]
    rows = [head]
    for one in cells:
        row: list[object] = [one.method, len(one.clusters)]
        for name in SCORES:
            found = estimate(np.array(one.scores[name]), np.array(one.clusters))
            row += [f"{value:.5f}" for value in (found.value, *found.ci95)]
        for kind in KINDS:
            changes = one.changes[kind]
            row += [f"{statistics.fmean(changes):.3f}" if changes else "", len(changes)]
        rows.append(row)
    return rows


def _lines(cells: Sequence[Lists]) -> list[str]:
    """The table for readers."""
    head = ["method", *SCORES, *(f"Δp, {kind} (pp)" for kind in KINDS)]
    lines = [f"| {' | '.join(head)} |", f"| :-- {'| --: ' * (len(head) - 1)}|"]
    for row in _records(cells)[1:]:
        scores = [float(str(value)) for value in row[2 : 2 + 3 * len(SCORES)]]
        told = [
            f"{value:.3f} [{low:.3f}, {high:.3f}]"
            for value, low, high in zip(scores[::3], scores[1::3], scores[2::3], strict=True)
        ]
        changes = row[2 + 3 * len(SCORES) :]
        for mean, steps in zip(changes[::2], changes[1::2], strict=True):
            told.append(f"{float(str(mean)):+.2f} ({steps})" if mean else "–")
        lines.append(f"| {row[0]} | {' | '.join(told)} |")
    return [
        "Scores against the sentences of the files, with generated passages taken out of the lists "
        f"({len(cells[0].clusters)} queries, 95% bootstrap intervals over relations × answers), "
        "and the mean change of the target's probability by a step on a listed passage of each "
        "kind (number of steps).",
        "",
        *lines,
    ]


if __name__ == "__main__":
    main()
