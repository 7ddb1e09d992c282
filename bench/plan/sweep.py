"""The plan of one cell, or of a sweep with its sum.

Cells of the same features share an index, the sums of R, and the reading of a search: the first to
need one pays, as in a run.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich.table import Table
from rich.text import Text

from bench.core import console
from bench.core.errors import UserError
from bench.core.escape import clean
from bench.plan.measuring import TRAIN
from bench.plan.planning import Known, Plan, PlanConfig, is_planned, make_plan, plan_settings
from bench.plan.table import hours, in_decimal, numbers_table, print_plan
from bench.run.settings import Settings
from methods.costs import CHECK_INDEX, ENCODE_CORPUS, Pass

_EXACT = "fp32"  # the format from which an index of any other is made without encoding


@dataclass(frozen=True)
class CellCost:
    """What one cell adds to a sweep.

    Attributes:
        label: the words that tell it from the other cells.
        plan: its plan as if it were alone.
        passes: the steps that it takes itself.
        index_bytes: bytes of its index, 0 if a cell before it has made that.
        shares_with: label of the cell whose features it takes; None if it encodes its own.
    """

    label: str
    plan: Plan
    passes: list[Pass]
    index_bytes: int
    shares_with: str | None


def show_plan(cells: Sequence[Sequence[str]]) -> None:
    """Print the plan of a cell or, of several, one table of all.

    Raises:
        UserError: wrong overrides, or no method among them that is planned.
    """
    if len(cells) == 1:
        print_plan(make_plan(*plan_settings(cells[0])))
        return
    labels = _labels(cells)
    settings = [plan_settings(cell) for cell in cells]
    planned = [is_planned(one) for one, _ in settings]
    left_out = [
        one.method["name"] for (one, _), known in zip(settings, planned, strict=True) if not known
    ]
    if not any(planned):
        raise UserError(
            "plan covers gradient methods only, and there is none among the cells",
            where="method",
            fix="add method=trackstar, or another one that projects gradients",
        )
    chosen = [pair for pair, known in zip(settings, planned, strict=True) if known]
    kept = [label for label, known in zip(labels, planned, strict=True) if known]
    print_sweep(costs(kept, chosen), left_out)


def show_cells(cells: Sequence[Sequence[str]]) -> None:
    """Print the cells that would run, in their order, and the plan of those that have one.

    Raises:
        UserError: wrong overrides, with the cell that they are of.
    """
    screen = console.stdout()
    shown = [shlex.join(cell) for cell in cells]
    count = f"{len(cells)} cells" if len(cells) > 1 else "1 cell"
    heading = f"{count} would run, each kept below results_dir once it is done:"
    screen.print(Text(heading, style="bold"), *map(Text, map(clean, shown)), "",
                 sep="\n", soft_wrap=True)  # fmt: skip
    if any(is_planned(settings) for settings, _ in map(plan_settings, cells)):
        show_plan(cells)
    else:
        screen.print("No cost is foreseen: `tdabench plan` covers gradient methods.")


def costs(labels: Sequence[str], cells: Iterable[tuple[Settings, PlanConfig]]) -> list[CellCost]:
    """The cost that each cell adds, in the order in which they run.

    Raises:
        UserError: as ``make_plan``, with the cell's label.
    """
    known = Known()
    made: dict[tuple[str, str], str] = {}  # features and format → who made the index
    trained: set[str] = set()
    shared: set[tuple[str, str, str]] = set()  # features, format, and what is done for all
    cell_costs = []
    for label, (settings, config) in zip(labels, cells, strict=True):
        try:
            plan = make_plan(settings, config, known)
        except UserError as error:
            raise UserError(f"{label}: {error.what}", where=error.where, fix=error.fix) from error
        if plan.model_key in trained:  # a cell before this one has trained the model
            plan = replace(plan, passes=[step for step in plan.passes if step.name != TRAIN])
        trained.add(plan.model_key)
        cost = _cost(label, plan, made)
        features = (plan.index_key, plan.chosen)
        own = [left for step in cost.passes if (left := _left(step, features, shared)) is not None]
        shared |= {(*features, step.shares) for step in plan.passes if step.shares}
        cell_costs.append(replace(cost, passes=own))
        if plan.index_bytes:
            made.setdefault((plan.index_key, plan.chosen), label)
    return cell_costs


def _cost(label: str, plan: Plan, made: dict[tuple[str, str], str]) -> CellCost:
    same = made.get((plan.index_key, plan.chosen))
    donor = same or made.get((plan.index_key, _EXACT))
    if not plan.index_bytes or donor is None:
        return CellCost(label, plan, plan.passes, plan.index_bytes, None)
    later = [step for step in plan.passes if step.name != ENCODE_CORPUS]
    if same:  # this process has written or checked it already
        own = [step for step in later if step.name != CHECK_INDEX]
        return CellCost(label, plan, own, 0, same)
    return CellCost(label, plan, [_translation(plan), *later], plan.index_bytes, donor)


def _left(step: Pass, features: tuple[str, str], shared: set[tuple[str, str, str]]) -> Pass | None:
    """What is left of a step for a cell after the others; None if they have done all of it."""
    if (*features, step.shares) not in shared:
        return step
    if not step.own_rows:
        return None
    flops = step.flops * step.own_rows / step.rows
    return replace(step, rows=step.own_rows, flops=flops, bytes_read=0)


def _translation(plan: Plan) -> Pass:
    """The step that makes an index of another format from one in full precision.

    Workers check a shard before they translate it; they read it from disk once for both.
    """
    read = plan.storage[_EXACT] * plan.passages
    name = f"translate the index from {_EXACT}"
    return Pass(name, plan.passages, 0.0, read, plan.index_bytes, spread=True)


def _labels(cells: Sequence[Sequence[str]]) -> list[str]:
    """The words in which the cells differ; of the method and the model, the name alone."""
    differing = [set(words) for words in zip(*cells, strict=True)]
    return [
        " ".join(
            word.removeprefix("method=").removeprefix("model=")
            for word, values in zip(cell, differing, strict=True)
            if len(values) > 1
        )
        for cell in cells
    ]


def print_sweep(cells: Sequence[CellCost], left_out: Sequence[str]) -> None:
    """Print the cells, the passes of all together, and what is not counted."""
    screen = console.stdout()
    title = f"plan: {len(cells)} cells with gradients"
    screen.print(Text(title, style="bold"), "", sep="\n")
    screen.print(_of_cells(cells))
    screen.print(_of_passes(cells))
    notes = list(dict.fromkeys(note for cell in cells for note in cell.plan.notes))
    if left_out:
        names = ", ".join(dict.fromkeys(left_out))
        notes.append(f"Not counted, no gradient method: {names}.")
    rates = list(dict.fromkeys(cell.plan.rate for cell in cells))
    screen.print(*map(Text, map(clean, (*rates, *notes))), sep="\n", soft_wrap=True)


def _of_cells(cells: Sequence[CellCost]) -> Table:
    heads = ("", "passages", "FLOPs", "read", "index", "device-hours", "features")
    table = numbers_table("cells, each without what one above it has made", heads)
    for cell in cells:
        flops, read, spent = _sums([cell])
        index = in_decimal(cell.index_bytes) if cell.index_bytes else ""
        features = f"of {cell.shares_with}" if cell.shares_with else "own"
        table.add_row(
            clean(cell.label), f"{cell.plan.passages:,}", f"{flops:.3g}", in_decimal(read), index,
            hours(spent), clean(features),
        )  # fmt: skip
    table.add_section()
    flops, read, spent = _sums(cells)
    index = in_decimal(sum(cell.index_bytes for cell in cells))
    table.add_row("all", "", f"{flops:.3g}", in_decimal(read), index, hours(spent), "",
                  style="bold")  # fmt: skip
    return table


def _of_passes(cells: Sequence[CellCost]) -> Table:
    table = numbers_table(
        "passes of all cells", ("", "cells", "rows", "FLOPs", "read", "device-hours")
    )
    names = dict.fromkeys(step.name for cell in cells for step in cell.passes)
    for name in names:
        steps = [(cell.plan, step) for cell in cells for step in cell.passes if step.name == name]
        read = sum(step.bytes_read for _, step in steps)
        flops = sum(step.flops for _, step in steps)
        spent = sum(plan.device_hours(step) for plan, step in steps)
        table.add_row(
            name, f"{len(steps)}", f"{sum(step.rows for _, step in steps):,}",
            f"{flops:.3g}" if flops else "", in_decimal(read) if read else "",
            hours(spent) if flops else "",
        )  # fmt: skip
    return table


def _sums(cells: Sequence[CellCost]) -> tuple[float, int, float]:
    """FLOPs, bytes read and device-hours of some cells."""
    steps = [(cell.plan, step) for cell in cells for step in cell.passes]
    return (
        sum(step.flops for _, step in steps),
        sum(step.bytes_read for _, step in steps),
        sum(plan.device_hours(step) for plan, step in steps),
    )
