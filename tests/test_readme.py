"""What the pages say holds: commands compose, links and paths lead somewhere, numbers are true."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from bench.cli.commands import COMMANDS, Parser
from bench.core.environment import __version__
from bench.run.extend_hydra import extend_hydra
from bench.run.settings import settings_from
from tests.fixtures.pages import (
    ROOT,
    WITH_NUMBERS,
    Claim,
    board,
    claims_of,
    renewed,
    unchecked_numbers,
)
from tests.fixtures.sources import FILES, imported, package_of

README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "results/README.md",
    *sorted(ROOT.glob("docs/*.md")),
]
# Not there, not installed, or a command's own beside the settings of a run.
LEFT_OUT = ("hydra.searchpath", "hydra/launcher", "hydra.launcher", "name=", "task=none")
OWN_METHOD = "method=longest"  # the example of CONTRIBUTING.md, which another test runs
PLACES = "bench|benchmarks|conf|docs|methods|metrics|results|tests"
NO_RESULTS = {"3.10", "3.13"}  # numbers of README that are no measurements: versions of Python


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# ------------------------------------------------------------------ commands


def commands(page: Path) -> list[list[str]]:
    """The words of every `tdabench` command of a page, continued lines joined."""
    text = text_of(page).replace("\\\n", " ")
    lines = re.findall(r"^ +(tdabench [a-z].*)$", text, re.MULTILINE)
    lines += re.findall(r"`(tdabench\s[a-z][^`]*)`", text)
    return [shlex.split(line, comments=True)[1:] for line in lines]


ALL = [words for page in PAGES for words in commands(page)]


def test_there_are_commands() -> None:
    assert len(ALL) > 30


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_settings_of_commands_compose(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one cell, where a command sweeps; the pages call a folder with a model DIR."""
    monkeypatch.chdir(tmp_path)
    for name in ("DIR", "ADAPTER"):
        (tmp_path / name).mkdir()
    for name in ("optimizer.pt", "second_moments.safetensors"):
        (tmp_path / "DIR" / name).touch()
    overrides = [
        word if word.startswith("hydra.") else re.sub(r"^([^=]+=[^,\[]*),.*$", r"\1", word)
        for word in words[1:]
        if "=" in word and word != OWN_METHOD and not word.startswith(LEFT_OUT)
    ]
    GlobalHydra.instance().clear()
    extend_hydra()
    with initialize_config_module("conf", version_base="1.3"):
        settings_from(compose("config", overrides))


def test_the_commands_exist() -> None:
    assert {words[0] for words in ALL} <= set(COMMANDS)


WITH_ARGUMENTS = [words for words in ALL if len(words) > 1 and words[0] != "run"]


@pytest.mark.parametrize("words", WITH_ARGUMENTS, ids=" ".join)
def test_arguments_of_commands_are_read(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command's own parser; those of `tdabench run` are all settings."""

    class UnderstoodError(Exception):
        """The parser took all words."""

    def understand(parser: Parser, given: list[str]) -> None:
        argparse.ArgumentParser.parse_args(parser, given)
        raise UnderstoodError

    monkeypatch.setattr(Parser, "parse_args", understand)
    given = [word for word in words[1:] if word != "…"]
    with pytest.raises(UnderstoodError):
        import_module(COMMANDS[words[0]].module).main(given)


@pytest.mark.parametrize("words", [words for words in ALL if words[0] == "run"], ids=" ".join)
def test_a_sweep_has_its_switch(words: list[str]) -> None:
    """Values with commas, and experiments, all of which sweep, are of `tdabench run -m`."""
    sweeps = any(re.match(r"experiment=|[^=]+=[^\[{]*,", word) for word in words)
    assert not sweeps or "-m" in words


# ------------------------------------------------------------------ links and paths


def anchors(page: Path) -> set[str]:
    """The names by which headings of a page are linked, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    named = re.findall(rf"(?<![\w/.:])((?:{PLACES})/[\w./-]*\w)", text_of(page))
    missing = {
        path for path in named if not any(ROOT.glob(re.sub(r"\b(NAME|FOLDER)\b", "*", path)))
    }
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_run_exist(page: Path) -> None:
    for module in re.findall(r"python -m ([a-z_.]+)", text_of(page)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize("page", WITH_NUMBERS, ids=lambda page: page.name)
def test_tables_and_numbers_are_those_of_the_results(page: Path) -> None:
    """`python -m tests.fixtures.pages` writes today's numbers into the pages."""
    text = text_of(page)
    assert "<!-- /" in text
    assert renewed(text) == text


@pytest.mark.parametrize("page", WITH_NUMBERS, ids=lambda page: page.name)
def test_every_number_of_the_prose_is_checked(page: Path) -> None:
    measured_elsewhere = text_of(ROOT / "benchmarks/README.md")
    unknown = {number for number in unchecked_numbers(text_of(page)) if number not in NO_RESULTS}
    assert {number for number in unknown if number not in measured_elsewhere} == set()


ALL_CLAIMS = [claim for page in WITH_NUMBERS for claim in claims_of(text_of(page))]


def test_there_are_claims() -> None:
    assert len(ALL_CLAIMS) > 30


@pytest.mark.parametrize("claim", ALL_CLAIMS, ids=str)
def test_claims_hold(claim: Claim) -> None:
    assert claim.faults() == []


def test_a_wrong_number_is_seen() -> None:
    page = "MRR is .10 [.20, .30].\n<!-- from results/\nquickstart / trackstar / mrr\n-->\n"
    row = next(row for row in board("quickstart") if row["label"] == "trackstar")
    value, low, high = (f"{float(row[f'mrr{part}']):.2f}"[1:] for part in ("", "_low", "_high"))
    assert renewed(page) == page.replace(".10 [.20, .30]", f"{value} [{low}, {high}]")
    assert unchecked_numbers(page + "\nIt was .42 once, and `.5` is code.\n") == [".42"]


@pytest.mark.parametrize(
    "claim",
    [
        Claim("quickstart", "mrr", ("bm25", "dense"), (">",)),
        Claim("quickstart", "mrr", ("dense", "bm25"), ("~",)),
        Claim("quickstart", "mrr", ("all ~",), ()),
    ],
    ids=str,
)
def test_a_claim_that_does_not_hold_is_seen(claim: Claim) -> None:
    assert claim.faults() != []


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*/leaderboard.csv")))
def test_results_are_sound(path: Path) -> None:
    for line in board(path.parent.name):
        assert int(line["n_scored"]) <= int(line["n_queries"])
        assert int(line["n_passages"]) >= int(line["top_k"]) > 0
        assert len(line["task_sha256"]) == 64
        for metric in (name.removesuffix("_low") for name in line if name.endswith("_low")):
            if line[metric]:
                low, value, high = (float(line[metric + part]) for part in ("_low", "", "_high"))
                rounding = 1e-9 * abs(value)  # of means of equal values, added up in other orders
                assert low - rounding <= value <= high + rounding, (line["label"], metric)
    assert path.with_suffix(".md").exists()
    assert f"{path.parent.name}/" in text_of(ROOT / "results/README.md")


# ------------------------------------------------------------------ the pages themselves


def test_the_floors_of_architecture_are_those_of_the_code() -> None:
    """Every room stands on the page, above each room that it imports."""
    floor, on_page = 0, {}
    for line in text_of(ROOT / "docs/architecture.md").splitlines():
        floor = int(number[1]) if (number := re.match(r"    ( \d|1\d)  \S", line)) else floor
        rooms = re.findall(r"(?<=  )(bench/[a-z]+|methods|metrics)(?=  )", line) if floor else []
        on_page |= {room.replace("/", "."): floor for room in rooms}
    assert set(on_page) == {"methods", "metrics"} | {
        f"bench.{path.parent.name}" for path in ROOT.glob("bench/*/__init__.py")
    }
    for path in FILES:
        here = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        known = map(room_of, imported(ast.parse(text_of(path)), package_of(path)))
        above = {one for one in known if here in on_page and on_page.get(one, 0) > on_page[here]}
        assert above == set(), path


def room_of(module: str) -> str:
    """The room that a module is in: a top-level package, or what stands directly in ``bench``."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "bench" else 1])


def test_readme_is_short() -> None:
    assert len(text_of(README).split()) <= 1300


def test_the_citation_is_of_this_version() -> None:
    """The fields that the Citation File Format 1.2.0 asks for, and the version in both places."""
    citation = yaml.safe_load(text_of(ROOT / "CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["authors"] == [{"name": "tdabench contributors"}]
    assert str(citation["version"]) == __version__
    assert f"version = {{{__version__}}}" in text_of(README)
    assert citation["title"] in text_of(README)
