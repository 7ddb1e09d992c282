"""What README and results/ say holds: commands compose, links lead somewhere, figures are those."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from bench.cli.main import COMMANDS
from bench.run.settings import settings_from
from metrics import measures

MORE = {"ground_truth": ("removal_effect_log", "lds")}  # columns of a table beside the four
LEFT_OUT = ("hydra.searchpath", "hydra/launcher", "hydra.launcher")  # not there, or not installed
ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/engines.md", "results/README.md")
]


def commands(page: Path) -> list[list[str]]:
    """The words of every `tdabench` command of a page, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^\s*(?:[A-Z]+=\S+ )?(tdabench [a-z].*)$", text, re.MULTILINE)
    lines += re.findall(r"`(tdabench [a-z][^`]*)`", text)
    return [shlex.split(line)[1:] for line in lines]


ALL = [w for page in PAGES for w in commands(page) if not any("[-m]" in x or "[R" in x for x in w)]


def test_there_are_commands() -> None:
    assert len(ALL) > 8


@pytest.mark.parametrize("words", [w for w in ALL if w[0] == "run"], ids=" ".join)
def test_run_commands_compose(words: list[str]) -> None:
    overrides = [
        word if word.startswith("hydra.") else re.sub(r"^([^=]+=[^,\[]*),.*$", r"\1", word)
        for word in words[1:]
        if word not in ("-m", "…", "method=longest") and not word.startswith(LEFT_OUT)
    ]
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        settings_from(compose("config", overrides))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_commands_exist(words: list[str]) -> None:
    assert words[0] in COMMANDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


# ------------------------------------------------------------------ figures


def board(name: str) -> list[dict[str, str]]:
    """The lines of ``results/NAME/leaderboard.csv``, best MRR first."""
    with open(ROOT / "results" / name / "leaderboard.csv", encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    return sorted(lines, key=lambda line: (-float(line["mrr"] or 0), line["label"]))


def shown(metric: str, line: dict[str, str]) -> str:
    """As README prints it: three digits with the interval, tail-patch in percentage points."""
    if not line.get(metric):
        return "–"
    sign, digits = ("+", 2) if measures.of(metric).signed else ("", 3)
    digits = 3 if metric == "lds" else digits
    bounds = (float(line[metric + part]) for part in ("", "_low", "_high"))
    value, low, high = (measures.of(metric).scale * bound for bound in bounds)
    text = f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return text.replace("-", "−")


def table(name: str) -> str:
    """The README's table of one results folder, best MRR first."""
    lines = board(name)
    if len({line["model"] for line in lines}) > 1:
        return table_by_model(lines)
    metrics = ("mrr", "hit@10", "recall@10", "tail_patch", *MORE.get(name, ()))
    rows = [[line["label"], *(shown(metric, line) for metric in metrics)] for line in lines]
    return piped(["method", *(measures.of(metric).head for metric in metrics)], rows)


def table_by_model(lines: list[dict[str, str]]) -> str:
    """A column for each metric and model, models in the order of their sizes."""
    models = [name for name in ("micro", "tiny", "small") if name in {x["model"] for x in lines}]
    columns = [(metric, model) for metric in ("mrr", "tail_patch") for model in models]
    by_cell = {(line["label"], line["model"]): line for line in lines}
    methods = list(dict.fromkeys(line["label"] for line in lines))
    rows = [
        [method, *(shown(metric, by_cell[method, model]) for metric, model in columns)]
        for method in methods
    ]
    heads = [f"{measures.of(metric).head}, {model}" for metric, model in columns]
    return piped(["method", *heads], rows)


def piped(heads: list[str], rows: list[list[str]]) -> str:
    ruler = f"| :-- |{' --: |' * (len(heads) - 1)}"
    return "\n".join([f"| {' | '.join(heads)} |", ruler, *(f"| {' | '.join(r)} |" for r in rows)])


@pytest.mark.parametrize("name", ["quickstart", "trex", "ground_truth", "scaling"])
def test_the_readmes_tables_are_the_results(name: str) -> None:
    """To renew a table: `python -m tests.test_readme NAME` prints it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", text, re.DOTALL)
    assert found is not None
    assert found[1] == table(name)


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*/leaderboard.csv")))
def test_results_are_sound(path: Path) -> None:
    for line in board(path.parent.name):
        assert int(line["n_scored"]) <= int(line["n_queries"])
        assert int(line["n_passages"]) >= int(line["top_k"]) > 0
        assert len(line["task_sha256"]) == 64
        for metric in (name.removesuffix("_low") for name in line if name.endswith("_low")):
            if line[metric]:
                low, value, high = (float(line[metric + part]) for part in ("_low", "", "_high"))
                assert low <= value <= high, (line["label"], metric)
    assert path.with_suffix(".md").exists()
    assert f"{path.parent.name}/" in (ROOT / "results/README.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    import sys

    print(table(sys.argv[1]))
