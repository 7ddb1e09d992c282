"""Registries: names are checked, nothing is imported before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.core.errors import UserError
from bench.core.registry import Entry, Registry

BASE = "bench.tasks.base:TaskBuilder"


@pytest.fixture
def registry():
    registry: Registry = Registry("task", BASE)
    registry.add("trex", Entry("bench.tasks.trex:TRex", "facts"))
    registry.add("jsonl", Entry("bench.tasks.jsonl:JsonLines", "own"))
    registry.add("absent", Entry("bench.no_such_module:X", "broken"))
    return registry


def test_names_are_sorted_and_described_without_an_import(registry):
    assert list(registry) == ["absent", "jsonl", "trex"]
    assert "trex" in registry
    assert "trax" not in registry
    assert registry.entry("absent").summary == "broken"


def test_an_unknown_name_gets_the_nearest(registry):
    for ask in (registry.entry, registry.get):
        with pytest.raises(UserError, match="unknown task 'trax'; did you mean trex"):
            ask("trax")
    with pytest.raises(UserError, match="known: absent, jsonl, trex"):
        registry.entry("zzz")


def test_get_imports_by_name_and_by_module_and_class(registry):
    from bench.tasks.trex import TRex

    assert registry.get("trex") is TRex
    assert registry.get("bench.tasks.trex:TRex") is TRex


def test_a_name_is_never_taken_over(registry):
    with pytest.raises(ValueError, match=r"'trex' is already registered as bench\.tasks\.trex"):
        registry.add("trex", Entry("other:TRex", "other"))
    registry.add("trex", Entry("bench.tasks.trex:TRex", "the same again is harmless"))


@pytest.mark.parametrize(
    "target", ["bench.core.errors:UserError", "bench.core.errors:did_you_mean"]
)
def test_a_class_of_another_kind_is_refused(registry, target):
    with pytest.raises(UserError, match=f"task {target!r} is not a subclass of {BASE}"):
        registry.get(target)


@pytest.mark.parametrize(
    "target",
    ["absent", "no_such_module:X", "bench.core.errors:NoSuch", ":X", "bench.core.errors:", "..x:Y"],
)
def test_what_cannot_be_imported_is_one_line(registry, target):
    with pytest.raises(UserError, match="cannot import task") as caught:
        registry.get(target)
    assert "\n" not in str(caught.value)
    assert "PYTHONPATH" in caught.value.fix


def test_a_module_that_fails_to_load_is_named(registry, tmp_path, monkeypatch):
    (tmp_path / "own_broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="ZeroDivisionError: division by zero"):
        registry.get("own_broken_module:Task")


@pytest.mark.parametrize(
    "listing",
    [
        "from methods import METHODS as R",
        "from bench.tasks import TASKS as R",
    ],
)
def test_listing_imports_nothing_heavy(listing):
    heavy = ("torch", "transformers", "pandas", "sentence_transformers", "hydra")
    code = (
        f"import sys; {listing}\n"
        "assert [R.entry(name).summary for name in R], 'an empty registry'\n"
        f"print(*[name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
