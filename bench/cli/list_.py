"""What there is: methods, metrics, tasks, models, experiments. Imports none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import resources

from rich.table import Table
from rich.text import Text

from bench.cli.commands import parser_of
from bench.core import console
from bench.core.errors import UserError, did_you_mean
from bench.core.escape import clean
from bench.core.registry import Registry
from metrics.measures import MEASURES

# In columns of a terminal. With the names, a table is then at most 120 wide.
_MAX_WIDTHS = {"what it does": 31, "needs": 15, "cost": 16, "source": 16}


def main(words: Sequence[str]) -> int:
    """Print one group, or all of them; returns 0.

    Raises:
        UserError: there is no such group.
    """
    parser = parser_of("list")
    names = ", ".join(GROUPS)
    parser.add_argument("group", nargs="?", metavar="GROUP", help=f"{names} (default: all)")
    group = parser.parse_args(words).group
    if group is not None and group not in GROUPS:
        raise UserError(f"nothing to list called {group!r}", fix=did_you_mean(group, GROUPS))
    screen = console.stdout()
    for name in GROUPS if group is None else [group]:
        screen.print(GROUPS[name]())
    return 0


def _methods() -> Table:
    from methods import METHODS

    rows = []
    for name in METHODS:
        entry = METHODS.entry(name)
        needs = ", ".join(entry.needs)
        rows.append((name, entry.family, entry.summary, needs, entry.cost, entry.source))
    # Families stand together, each in the order of its names.
    rows.sort(key=lambda row: (row[1], row[0]))
    return _table("methods", ("name", "family", "what it does", "needs", "cost", "source"), rows)


def _metrics() -> Table:
    rows = [(one.name, one.kind.value, one.meaning) for one in MEASURES if one.is_averaged]
    return _table("metrics", ("name", "kind", "meaning"), rows)


def _judges() -> Table:
    from metrics.judges import JUDGES

    entries = [(name, JUDGES.entry(name)) for name in JUDGES]
    rows = [(name, e.summary, ", ".join(e.needs), e.source) for name, e in entries]
    return _table("judges", ("name", "what it does", "needs", "source"), rows)


def _tasks() -> Table:
    from bench.tasks import TASKS

    return _table("tasks", ("name", "what it is", "source"), list(_summaries(TASKS)))


def _summaries(registry: Registry) -> Iterator[tuple[str, ...]]:
    for name in registry:
        entry = registry.entry(name)
        yield name, entry.summary, entry.source


def _engines() -> Table:
    from bench.engines import ENGINES

    return _table("engines", ("name", "what it does", "source"), list(_summaries(ENGINES)))


GROUPS: dict[str, Callable[[], Table]] = {
    "methods": _methods,
    "metrics": _metrics,
    "judges": _judges,
    "tasks": _tasks,
    "models": lambda: _table("models", ("name", "what it is"), _configs("model")),
    "engines": _engines,
    "experiments": lambda: _table("experiments", ("name", "what it runs"), _configs("experiment")),
}


def _configs(group: str) -> list[tuple[str, str]]:
    """Names of a config group's files, each with the first line of its comment."""
    folder = resources.files("conf") / group
    files = [file for file in folder.iterdir() if file.name.endswith(".yaml")]
    return sorted(
        (file.name.removesuffix(".yaml"), _first_comment(file.read_text(encoding="utf-8")))
        for file in files
    )


def _first_comment(text: str) -> str:
    for line in text.splitlines():
        # Hydra reads `# @package` lines; they say nothing to a reader.
        if line.startswith("#") and not line.startswith("# @"):
            return line.removeprefix("#").strip()
    return ""


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = console.titled_table(title)
    for head in heads:
        table.add_column(head, no_wrap=head == "name", max_width=_MAX_WIDTHS.get(head))
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    return table
