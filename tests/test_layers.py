"""Which room may import which, read from the source: a room imports only rooms further down."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.fixtures.sources import FILES, ROOT, imported, package_of, parsed

# From the ground up. Rooms of one line do not know each other, and no room knows one above it.
FLOORS = (
    ("bench.core",),
    ("bench.storage",),
    ("bench.engines", "bench.tasks", "bench.fetch"),
    ("bench.models",),
    ("metrics", "methods"),
    ("bench.results",),
    ("bench.run",),
    ("bench.importing", "bench.plan", "bench.report"),
    ("bench.api", "bench.cli"),
    ("tdabench",),
    ("bench.__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def rooms_of(modules: set[str]) -> set[str]:
    """The rooms that modules are in."""
    return {room for module in modules for room in LEVEL if f"{module}.".startswith(f"{room}.")}


def wrong(source: str, package: str, room: str) -> set[str]:
    """Rooms that a file of ``room`` imports and must not know."""
    known = rooms_of(imported(ast.parse(source), package)) - {room}
    return {other for other in known if LEVEL[other] >= LEVEL[room]}


@pytest.mark.parametrize("room", LEVEL)
def test_a_room_knows_only_rooms_below_it(room: str) -> None:
    files = [path for path in FILES if rooms_of({module_of(path)}) == {room}]
    assert files
    faults = {path: wrong(path.read_text("utf-8"), package_of(path), room) for path in files}
    assert {path: rooms for path, rooms in faults.items() if rooms} == {}


def test_a_wrong_import_is_seen_wherever_it_stands() -> None:
    text = "def f():\n import bench.run.cell as c\n from bench import cli\n from . import base"
    assert wrong(text, "methods", "methods") == {"bench.run", "bench.cli"}
    assert wrong("from metrics import tail_patch", "methods", "methods") == {"metrics"}
    assert wrong("from bench.core import errors", "methods", "methods") == set()


def test_no_test_imports_a_test() -> None:
    tests = {module_of(path) for path in (ROOT / "tests").rglob("test_*.py")}
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    faults = {path: tests & imported(parsed(path), package_of(path)) for path in files}
    assert len(tests) > 100
    assert {path: modules for path, modules in faults.items() if modules} == {}


def test_every_file_is_in_one_room() -> None:
    homeless = [path for path in FILES if len(rooms_of({module_of(path)})) != 1]
    assert {path.relative_to(ROOT).as_posix() for path in homeless} == {
        "bench/__init__.py", "conf/__init__.py"
    }  # fmt: skip


def module_of(path: Path) -> str:
    """The dotted name of a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
