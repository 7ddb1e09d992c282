"""The command line: statuses, one-line errors, and what each command prints."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import bench.cli
from bench.cli.main import main
from bench.core.environment import __version__
from bench.core.errors import UserError
from tests.fixtures.cells import edit_result, write_cell

Capture = pytest.CaptureFixture[str]


def error_of(capsys: Capture) -> str:
    """The one line on standard error; fails if there is another."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


def use_run(monkeypatch: pytest.MonkeyPatch, answer: object) -> list[list[str]]:
    """Put a ``bench.cli.run`` in place that notes its arguments, returns or raises ``answer``."""
    calls: list[list[str]] = []

    def run_main(arguments: list[str]) -> object:
        calls.append(arguments)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    module = types.ModuleType("bench.cli.run")
    module.main = run_main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bench.cli.run", module)
    monkeypatch.setattr(bench.cli, "run", module, raising=False)
    return calls


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tdabench {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["report", "--help"], ["verify", "-h"]])
def test_help(arguments: list[str], capsys: Capture) -> None:
    assert main(arguments) == 0
    assert "usage: tdabench" in capsys.readouterr().out


def test_an_unknown_command_names_the_nearest(capsys: Capture) -> None:
    assert main(["raport"]) == 2
    line = error_of(capsys)
    assert "'raport'" in line
    assert "did you mean report" in line


@pytest.mark.parametrize("arguments", [["report", "--nope"], ["--nope"], ["report", "a", "b"]])
def test_an_unknown_option_is_one_line(arguments: list[str], capsys: Capture) -> None:
    assert main(arguments) == 2
    assert "--help" in error_of(capsys)


def test_an_error_cannot_steer_the_terminal(capsys: Capture) -> None:
    assert main(["x\x1b[2J\u202e"]) == 2
    line = error_of(capsys)
    assert "\x1b" not in line
    assert "\u202e" not in line


# ------------------------------------------------------------------ run


def test_run_gets_everything_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = use_run(monkeypatch, 1)
    assert main(["run", "-m", "--help", "task=x", "method=a,b"]) == 1
    assert calls == [["-m", "--help", "task=x", "method=a,b"]]


def test_statuses_of_errors(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    use_run(monkeypatch, UserError("no such task", where="task", fix="see `tdabench list`"))
    assert main(["run"]) == 2
    assert error_of(capsys) == "error: task: no such task; see `tdabench list`"
    use_run(monkeypatch, KeyboardInterrupt())
    assert main(["run"]) == 130
    use_run(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):  # a bug is not dressed up as the user's mistake
        main(["run"])


# ------------------------------------------------------------------ report and verify


def test_report_prints_and_says_where(tmp_path: Path, capsys: Capture) -> None:
    write_cell(tmp_path / "runs", "bm25")
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "bm25" in out
    assert out.endswith(f"report: {tmp_path / 'out' / 'index.html'}\n")
    assert (tmp_path / "out" / "leaderboard.csv").is_file()


def test_report_quiet_prints_nothing(tmp_path: Path, capsys: Capture) -> None:
    write_cell(tmp_path, "bm25")
    assert main(["report", str(tmp_path), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "report" / "index.html").is_file()


@pytest.mark.parametrize("command", ["report", "verify"])
def test_the_default_folder_is_runs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command]) == 2
    assert "runs: " in error_of(capsys)
    write_cell(tmp_path / "runs", "bm25")
    assert main([command]) == 0


def test_verify_fails_on_a_problem(tmp_path: Path, capsys: Capture) -> None:
    folder = write_cell(tmp_path, "bm25")
    assert main(["verify", str(tmp_path)]) == 0
    assert "1 cell, " in capsys.readouterr().out
    edit_result(folder, lambda record: record["metrics"]["mrr"].update(value=0.5))
    assert main(["verify", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "mrr: stored 0.5" in lines[0]
    assert "1 problem" in lines[1]
    assert main(["verify", str(tmp_path), "--quiet"]) == 1
    assert capsys.readouterr().out.splitlines() == lines[:1]


# ------------------------------------------------------------------ list


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("methods", ["bm25", "trackstar", "optimizer", "gradient", "arXiv 2410.17413"]),
        ("metrics", ["mrr", "hit@k", "recall@k", "tail_patch"]),
        ("tasks", ["factworld", "trex"]),
        ("models", ["tiny", "About 0.5M parameters"]),
        ("experiments", ["quickstart", "Every method"]),
    ],
)
def test_list(group: str, names: list[str], capsys: Capture) -> None:
    assert main(["list", group]) == 0
    alone = capsys.readouterr().out
    assert max(map(len, alone.splitlines())) <= 120
    assert all(name in " ".join(alone.split()) for name in names)
    assert main(["list"]) == 0
    assert alone in capsys.readouterr().out


def test_list_of_an_unknown_group(capsys: Capture) -> None:
    assert main(["list", "method"]) == 2
    assert "did you mean methods" in error_of(capsys)


def test_list_imports_nothing_heavy() -> None:
    code = (
        "import sys; from bench.cli.main import main; main(['list']);"
        "heavy = {'torch', 'pandas', 'transformers', 'pyarrow', 'hydra'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("lisst", 2, "did you mean list"),
        ("run --help", 0, ""),
        ("run method=bm26", 2, "did you mean bm25"),
        ("run methd=bm25", 2, "did you mean method"),
        ("run method=bm25 method.k9=1", 2, "did you mean k1"),
        ("run -m method=bm25,random method.k9=1", 2, "did you mean"),
        ("run metric.tail_patch.topp=3", 2, "did you mean top"),
        ("run top_k=many", 2, "top_k: Value 'many'"),
        ("run metric.attribution=[mmr]", 2, "did you mean mrr"),
        ("run experiment=quikstart", 2, "did you mean quickstart"),
        ("run method=bm25,dense", 2, "add -m"),
        ("train model=tniy", 2, "did you mean tiny"),
        ("predict out which=rigth", 2, "did you mean right"),
        ("import x.jsonl tsk=jsonl", 2, "did you mean task"),
        ("plan modl=tiny", 2, "did you mean model"),
        ("plan --help", 0, ""),
        ("run task=jsonl task.queries=q.jsonl task.passages=p.jsonl", 2, "q.jsonl: no such file"),
        ("train task=jsonl task.queries=q.jsonl task.passages=p.jsonl", 2, "q.jsonl: no such file"),
        ("predict out task=jsonl task.queries=q.jsonl task.passages=p", 2, "q.jsonl: no such file"),
        ("import bm25.run task=none", 2, "bm25.run: no such file"),
        (
            "run method=x hydra.searchpath=[file://here]",
            2,
            "hydra.searchpath: here: no such folder",
        ),
    ],
)
def test_wrong_words_are_answered_before_torch_is_imported(
    words: str, status: int, said: str, tmp_path: Path
) -> None:
    """Fault: six seconds of a processor for a typo."""
    code = (
        "import sys; from bench.cli.main import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=False,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert said in done.stderr


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -m bench list | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
