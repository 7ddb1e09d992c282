"""A plan as tables, which are plain lines in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from bench.core import console
from bench.core.escape import clean

if TYPE_CHECKING:
    from bench.plan.planning import Plan

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def print_plan(plan: Plan) -> None:
    """Print the plan on standard output."""
    screen = console.stdout()
    screen.print(Text(f"plan: {clean(plan.title)}", style="bold"), "", sep="\n")
    for table in (_inputs(plan), _passes(plan), _storage(plan), _memory(plan)):
        screen.print(table)
    if plan.device_memory is not None:
        screen.print(_fits(plan, plan.device_memory))
    step, kind, longest = plan.bottleneck
    slowest = f"bottleneck: {step.name}, {kind}: {hours(longest)} h"
    lines = [slowest, clean(plan.rate), *plan.notes]
    screen.print(*map(Text, lines), sep="\n", soft_wrap=True)


def in_decimal(n_bytes: float) -> str:
    """Bytes in powers of 1,000, as disks are sold: ``"95.7 TB"``."""
    return _scaled(n_bytes, 1000, _DECIMAL)


def in_binary(n_bytes: float) -> str:
    """Bytes in powers of 1,024, as memory is counted: ``"87.0 TiB"``."""
    return _scaled(n_bytes, 1024, _BINARY)


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if value < base:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= base
    return f"{value:,.1f} {units[-1]}"


def hours(value: float) -> str:
    """Hours with about three digits."""
    if 0 < value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _inputs(plan: Plan) -> Table:
    table = numbers_table("what there is", ("", "number", "from"))
    for name, fact in plan.counted.items():
        number = f"{fact.value:,.1f}" if name.startswith("tokens") else f"{fact.value:,.0f}"
        table.add_row(name, number, clean(fact.source))
    sizes = sorted(set(plan.blocks))
    width = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    table.add_row("parameters", f"{plan.architecture.parameters:,}", "model")
    table.add_row("gradient-carrying matrices", f"{len(plan.architecture.matrices):,}", "model")
    shape = f"{len(plan.blocks)} blocks of {width}"
    table.add_row("feature dimensions a passage", f"{sum(plan.blocks):,}", shape)
    return table


def _passes(plan: Plan) -> Table:
    table = numbers_table("passes", ("", "rows", "FLOPs", "read", "hours", "disk hours"))
    for step in plan.passes:
        read = in_decimal(step.bytes_read) if step.bytes_read else ""
        disk = plan.disk_hours(step)
        computed = (f"{step.flops:.3g}", hours(plan.hours(step))) if step.flops else ("", "")
        moved = hours(disk) if disk else ""
        table.add_row(step.name, f"{step.rows:,}", computed[0], read, computed[1], moved)
    table.add_section()
    read = in_decimal(sum(step.bytes_read for step in plan.passes))
    total = sum(step.flops for step in plan.passes)
    sums = [hours(sum(map(count, plan.passes))) for count in (plan.hours, plan.disk_hours)]
    table.add_row("all", "", f"{total:.3g}", read, *sums, style="bold")
    return table


def _storage(plan: Plan) -> Table:
    table = numbers_table("index", ("storage", "bytes a passage", "decimal", "binary", ""))
    for name, per_row in plan.storage.items():
        total = per_row * plan.passages
        marked = name == plan.chosen
        row = (
            name,
            f"{per_row:,}",
            in_decimal(total),
            in_binary(total),
            "chosen" if marked else "",
        )
        table.add_row(*row, style="bold" if marked else None)
    if plan.chosen not in plan.storage:
        table.add_row(plan.chosen, "0", "0 B", "0 B", "chosen", style="bold")
    return table


def _memory(plan: Plan) -> Table:
    table = numbers_table("memory", ("", "binary"))
    for name, n_bytes in plan.memory.items():
        table.add_row(name, in_binary(n_bytes))
    table.add_section()
    table.add_row("all, if held at once", in_binary(sum(plan.memory.values())), style="bold")
    return table


def _fits(plan: Plan, memory: float) -> Table:
    number = plan.model_devices
    size = in_binary(memory)
    title = f"memory of each phase, on {number} {'devices' if number > 1 else 'device'} of {size}"
    heads = ("", "with the layers", "on one device", "fullest device", "fits", "devices it takes")
    table = numbers_table(title, heads)
    for phase in plan.phases:
        fullest, least = phase.fullest(number), phase.least_devices(memory)
        table.add_row(
            phase.name,
            in_binary(sum(phase.by_layer.values())),
            in_binary(sum(phase.on_one.values())),
            in_binary(fullest),
            "yes" if fullest <= memory else "no",
            "none is enough" if least is None else f"{least:,}",
        )
    return table


def numbers_table(title: str, heads: Sequence[str]) -> Table:
    """A table of numbers, whose first column holds words, as do ``from`` and ``storage``."""
    table = console.titled_table(title)
    for place, head in enumerate(heads):
        words = head in ("", "from", "storage") or place == 0
        table.add_column(head, justify="left" if words else "right", no_wrap=head != "from")
    return table
