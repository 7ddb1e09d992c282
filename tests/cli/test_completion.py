"""Tab completion: the words that are offered, and a real bash that asks for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cli.commands import COMMANDS
from bench.cli.completion import _ARGUMENTS, offers
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


# What every shell must offer for a line, when its folder holds `runs/` alone.
LINES = {
    "tdabench ver": ["verify"],
    "tdabench run method=tracks": ["method=trackstar"],
    "tdabench run -m  method=bm25,tracks": ["method=bm25,trackstar"],
    "tdabench run method=bm25 method.k": ["method.k1="],
    "tdabench run mod": ["model.", "model="],
    "tdabench completion ": ["bash", "fish", "zsh"],
    "tdabench report ru": ["runs/"],
    "tdabench run results_dir=ru": ["results_dir=runs/"],
    "tdabench run results_dir=no-such": [],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that a shell is in."""
    path = tmp_path / "here"
    (path / "runs").mkdir(parents=True)
    return path


FISH = r"""
set -x PATH $argv[1] $PATH
tdabench completion fish | source
complete -C $argv[2]
"""


@pytest.mark.skipif(shutil.which("fish") is None, reason="takes fish")
@pytest.mark.parametrize(("line", "expected"), LINES.items())
def test_in_fish(command: Path, folder: Path, line: str, expected: list[str]) -> None:
    done = subprocess.run(
        ["fish", "--no-config", "-c", FISH, command, line],
        capture_output=True, text=True, check=True, cwd=folder, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stdout.splitlines() == expected
    assert done.stderr == ""


# Each Tab puts the next of the words that are offered into the line; Ctrl-B prints the line.
ZSHRC = r"""
PS1='' PROMPT_EOL_MARK=''
autoload -Uz compinit && compinit -D -u
eval "$(tdabench completion zsh)"
setopt menu_complete no_beep
_said() { print -r -- "<$BUFFER>" > being-said; command mv being-said said; BUFFER= }
zle -N _said
bindkey '^B' _said
zle-line-init() { : > said }
zle -N zle-line-init
"""


class Zsh:
    """An interactive zsh in a terminal of its own, whose completion is this tree's."""

    def __init__(self, command: Path, folder: Path) -> None:
        (folder / ".zshrc").write_text(ZSHRC)
        environment = {
            **os.environ, "PATH": f"{command}:{os.environ['PATH']}", "ZDOTDIR": str(folder),
            "TERM": "dumb",
        }  # fmt: skip
        self._ours, its = os.openpty()
        self._said = folder / "said"
        self._process = subprocess.Popen(
            ["zsh", "-d", "-i"], stdin=its, stdout=subprocess.DEVNULL, stderr=its, cwd=folder,
            env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(its)
        self._wait()

    def line_after(self, keys: str) -> str:
        """The line that stands there when some keys were pressed."""
        os.write(self._ours, f"{keys}\x02".encode())
        return self._wait().strip()[1:-1]

    def _wait(self) -> str:
        """What the shell says next."""
        deadline = time.monotonic() + 60
        while not self._said.exists():
            assert time.monotonic() < deadline, "the shell says nothing"
            time.sleep(0.02)
        said = self._said.read_text()
        self._said.unlink()
        return said

    def close(self) -> None:
        """End the shell."""
        self._process.kill()
        self._process.wait()
        os.close(self._ours)


@pytest.fixture
def zsh(command: Path, folder: Path) -> Iterator[Zsh]:
    shell = Zsh(command, folder)
    yield shell
    shell.close()


@pytest.mark.skipif(shutil.which("zsh") is None, reason="takes zsh")
@pytest.mark.parametrize(("line", "expected"), LINES.items())
def test_in_zsh(zsh: Zsh, line: str, expected: list[str]) -> None:
    *_, start = line.split(" ")
    before = line.removesuffix(start)
    offered = [zsh.line_after(line + "\t" * (turn + 1)) for turn in range(len(expected) or 1)]
    # A space follows what is finished: no key, no folder, and not the next of several words.
    goes_on = len(expected) > 1 or (expected or [line])[0][-1] in "=/"
    end = "" if goes_on or not expected else " "
    assert offered == [f"{before}{word}{end}" for word in expected or [start]]
