"""Registries: names are checked, nothing is imported before it is used."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from bench.core.errors import UserError
from bench.core.registry import Entry, Registry, file_sha256_of

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


# ------------------------------------------------------------------ a file by its path


OWN = """
from dataclasses import dataclass
from bench.tasks.base import TaskBuilder
from {beside} import NAME

@dataclass
class Config:
    depth: int

class Own(TaskBuilder):
    name = NAME
"""


def test_a_class_in_a_file_needs_no_path_of_imports(registry, tmp_path, monkeypatch, capsys):
    (tmp_path / "own.py").write_text(OWN.format(beside="own_words"))
    (tmp_path / "own_words.py").write_text("NAME = 'own'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    found = registry.get("own.py:Own")
    assert found.name == "own"
    assert registry.get(str(tmp_path / "own.py:Own")) is found
    digest = hashlib.sha256((tmp_path / "own.py").read_bytes()).hexdigest()
    assert file_sha256_of(found) == digest
    assert file_sha256_of(Registry) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"task of your own, whose code is run: Own of {tmp_path / 'own.py'}"
    assert "own" not in sys.modules, "a file hides no module of its name"


def test_a_file_that_changed_is_loaded_anew(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "from bench.tasks.base import TaskBuilder\nclass Own(TaskBuilder):\n    depth = {}\n"
    for depth in (1, 2):
        (tmp_path / "changing.py").write_text(text.format(depth))
        assert registry.get("changing.py:Own").depth == depth


def test_what_is_registered_is_not_announced(registry, capsys):
    registry.get("trex")
    registry.get("bench.tasks.trex:TRex")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("absent.py:Own", r"no such file for task 'absent\.py'; give its path"),
        ("broken.py:Own", r"cannot import task 'broken\.py:Own' \(ZeroDivisionError"),
        ("plain.py:Own", r"cannot import task 'plain\.py:Own' \(AttributeError"),
        ("plain.py:Other", r"'plain\.py:Other' is not a subclass of bench\.tasks"),
    ],
)
def test_a_file_that_does_not_do_is_one_line(registry, tmp_path, monkeypatch, target, message):
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "plain.py").write_text("class Other: ...")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        registry.get(target)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ YAML files


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A function that writes a package's YAML files for tasks, and a registry of that package."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(package: str, **files: str) -> Registry:
        folder = tmp_path / package / "task"
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / package / "__init__.py").touch()
        for name, text in files.items():
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
        return Registry("task", BASE, package=package)

    return write


def test_a_yaml_is_an_entry_and_builds_on_others(packaged):
    registry = packaged(
        "confs_of_tasks",
        _shared="target: a.b:C\nsummary: shared\nneeds: [model, state]\ncost: much\nseed: ${seed}",
        one="defaults:\n  - _shared\n  - /model@first: tiny\n  - _self_\nsummary: one: ∇\n".replace(
            "one: ∇", '"one: ∇"'
        ),
        two="# a reason\nname: two\ntarget: bench.tasks.trex:TRex\nsummary: two\ndepth: 3 # why\n",
        three="defaults: [/task/two]\nfamily: other\nneeds: nothing\n",
    )
    assert list(registry) == ["one", "three", "two"]
    assert registry.entry("one") == Entry("a.b:C", "one: ∇", needs=("model", "state"), cost="much")
    assert registry.entry("three") == Entry(
        "bench.tasks.trex:TRex", "two", family="other", needs=("nothing",)
    )
    assert registry.get("two").__name__ == "TRex"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("summary: s", r"task/faulty\.yaml, target: has no value; add target: …"),
        ("target: a:B\nsummary: ", r"task/faulty\.yaml, summary: has no value"),
        ("- a list", r"task/faulty\.yaml: is no YAML mapping"),
        ("target: [", r"task/faulty\.yaml: is no YAML mapping"),
    ],
)
def test_a_faulty_yaml_is_one_line(packaged, text, message):
    registry = packaged(f"confs_{abs(hash(text))}", faulty=text)
    with pytest.raises(UserError, match=message) as caught:
        list(registry)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(UserError, match="no_such_package: an entry point names a package without"):
        list(Registry("task", BASE, package="no_such_package"))


def test_installed_packages_join_and_take_no_name_over(packaged, tmp_path):
    packaged("confs_at_home", own="target: a:Home\nsummary: home")
    packaged(
        "confs_of_a_guest",
        own="target: a:Guest\nsummary: guest",
        more="defaults: [own]\nsummary: more",
    )
    dist = tmp_path / "guest-1.0.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
    (dist / "entry_points.txt").write_text("[tdabench.tests]\nguest = confs_of_a_guest\n")
    registry: Registry = Registry("task", BASE, "confs_at_home", "tdabench.tests")
    assert registry.installed == ("confs_of_a_guest",)
    assert {name: registry.entry(name).target for name in registry} == {
        "more": "a:Home", "own": "a:Home"
    }  # fmt: skip


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
