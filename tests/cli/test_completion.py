"""Tab completion: the words that are offered, and a real bash that asks for them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli.commands import COMMANDS
from bench.cli.completion import _ARGUMENTS, _SCRIPTS, offers
from bench.cli.list_ import GROUPS
from bench.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["re"], ["report", "reproduce"]),
        (["no-such"], []),
        (["run", "method=tra"], ["method=tracin", "method=trackstar", "method=trak"]),
        (["run", "-m", "method=bm25,dens"], ["method=bm25,dense", "method=bm25,dense_prompt"]),
        (["run", "modle=t"], []),
        (["run", "mod"], ["model.", "model="]),
        (["run", "method=bm25", "method.k"], ["method.k1="]),
        (["run", "method.mix"], ["method.mixing="]),
        (["run", "model=hf", "model.pa"], ["model.path="]),
        (["run", "metric.tail_patch.n"], ["metric.tail_patch.n_queries="]),
        (["plan", "plan.passag"], ["plan.passages="]),
        (["run", "results_dir=ru"], []),
        (["run", "--mul"], ["--multirun"]),
        (["list", "me"], ["methods", "metrics"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["report", "ru"], []),
    ],
    ids=" ".join,
)
def test_offers(words: list[str], expected: list[str]) -> None:
    assert offers(words) == expected


def test_what_stands_in_two_places_is_the_same() -> None:
    assert offers([""]) == list(COMMANDS)
    assert set(_ARGUMENTS["list"]) == set(GROUPS)


def test_an_unfinished_method_without_a_choice_that_exists_offers_what_it_can() -> None:
    assert offers(["run", "method=nope", "see"]) == []
    assert offers(["run", "method=nope", "mod"]) == ["model="]


def test_it_is_quick() -> None:
    code = (
        "import sys\nfrom bench.cli.completion import offers\noffers(['run', 'method.'])\n"
        "print([name for name in ('torch', 'pandas', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_shell_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bsh"]) == 2
    assert "unknown shell 'bsh'; did you mean bash" in capsys.readouterr().err


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """The folder of a command `tdabench` that is this tree's."""
    file = tmp_path / "bin" / "tdabench"
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m bench "$@"\n')
    file.chmod(0o755)
    return file.parent


BASH = r"""
export PATH="$1:$PATH"
eval "$(tdabench completion bash)"
compopt() { true; }  # takes a completion that is under way
COMP_LINE="$2"
COMP_POINT=${#COMP_LINE}
_tdabench
printf '%s\n' "${COMPREPLY[@]}"
complete -p tdabench
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="takes bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tdabench ver", ["verify"]),
        ("tdabench run method=tracks", ["trackstar"]),
        ("tdabench run -m  method=bm25,tracks", ["bm25,trackstar"]),
        ("tdabench run method=bm25 method.k", ["method.k1="]),
        ("tdabench completion ", ["bash", "zsh", "fish"]),
        ("tdabench report ru", [""]),
    ],
)
def test_in_bash(command: Path, line: str, expected: list[str]) -> None:
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", command, line],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *offered, registered = done.stdout.splitlines()
    assert offered == expected
    assert registered == "complete -o default -F _tdabench tdabench"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_of_another_shell_can_be_read(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"takes {shell}")
    script = tmp_path / "script"
    script.write_text(_SCRIPTS[shell])
    subprocess.run([shell, "-n", script], check=True)
