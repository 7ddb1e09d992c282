"""Which part may know of which, and what no file may do, read from the source itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bench", "methods", "metrics", "conf")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HARNESS = frozenset(
    f"bench.{name}"
    for name in (
        "annotate.compare", "annotate.sheet", "judging", "export.card", "export.trec",
        "figures.catalog", "figures.write",
        "run", "train", "predict", "composing", "cell", "cli", "evaluation", "report",
        "leaderboard", "page",
        "result_writer", "loggers", "plan", "plan_corpus", "plan_costs", "plan_model", "plan_sweep",
        "plan_table",
        "importing.cells", "importing.command", "importing.judged", "importing.matching",
        "importing.settings", "importing.sources",
    )
)  # fmt: skip
PICKLES = frozenset({"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"})
MAX_LINES = 400


def imported(tree: ast.AST, package: str = "") -> set[str]:
    """Every module that is imported anywhere in a file, also inside functions.

    ``from a import b`` may mean a module ``a.b`` or a name in ``a``: both are given.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parts, node.module or ""]).strip(".") if node.level else node.module
            found |= {str(base), *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("import_module"):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return found


def below(modules: set[str], parents: frozenset[str]) -> set[str]:
    return {
        module
        for module in modules
        for parent in parents
        if module == parent or module.startswith(f"{parent}.")
    }


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults(tree: ast.AST) -> Iterator[str]:
    """Calls that would execute what a data file or a model folder says."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        options = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        if options.get("trust_remote_code", False) is not False:
            yield f"line {node.lineno}: trust_remote_code"
        if name == "torch.load" and options.get("weights_only") is not True:
            yield f"line {node.lineno}: torch.load without weights_only=True"
        if name in ("np.load", "numpy.load") and options.get("allow_pickle") is not False:
            yield f"line {node.lineno}: np.load without allow_pickle=False"
        if name in ("eval", "exec", "yaml.load", "yaml.unsafe_load"):
            yield f"line {node.lineno}: {name}"


def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parent.parts)


def test_the_rules_see_what_they_forbid() -> None:
    text = "def f():\n import bench.cell as c\n from bench import run\n from . import loggers"
    found = imported(ast.parse(text), "bench")
    assert below(found, HARNESS) == {"bench.cell", "bench.run", "bench.loggers"}
    assert imported(ast.parse("from ..x import y"), "a.b") == {"a.x", "a.x.y"}
    assert below({"bench.cells", "methods.base"}, HARNESS) == set()
    wrong = (
        "torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)",
        "np.load(p, allow_pickle=True)", "f(trust_remote_code=True)", "f(trust_remote_code=x)",
        "eval(p)",
    )  # fmt: skip
    assert [len(list(faults(ast.parse(line)))) for line in wrong] == [1] * len(wrong)
    right = "np.load(p, allow_pickle=False); f(trust_remote_code=False); json.load(p)"
    assert list(faults(ast.parse(right))) == []


def test_every_package_is_looked_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(PACKAGES)
    assert all((ROOT / f"{module.replace('.', '/')}.py").is_file() for module in HARNESS)


def modules_of(path: Path, package: str) -> set[str]:
    """What a file of ``package`` imports; nothing for a file of another package."""
    if path.relative_to(ROOT).parts[0] != package:
        return set()
    return imported(parsed(path), package_of(path))


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("methods", HARNESS), ("metrics", HARNESS), ("metrics", frozenset({"methods"}))],
)
def test_methods_and_metrics_do_not_know_the_harness(
    package: str, forbidden: frozenset[str]
) -> None:
    found = {path: below(modules_of(path, package), forbidden) for path in FILES}
    assert {path: modules for path, modules in found.items() if modules} == {}


def test_nothing_in_a_file_is_executed() -> None:
    for path in FILES:
        tree = parsed(path)
        assert below(imported(tree, package_of(path)), PICKLES) == set(), path
        assert list(faults(tree)) == [], path


def test_files_stay_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}
