"""What it takes to add a task: the files touched, and that it is listed, run and checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli.main import main
from tests.fixtures.forks import Forks
from tests.fixtures.runs import cells, result
from tests.fixtures.trees import copied, touched

FILES = {
    "bench/tasks/counting.py": '''
"""Numbers in words: each query asks for the number that follows."""

from dataclasses import dataclass

from bench.core.errors import UserError
from bench.tasks.base import Query, TaskBuilder
from bench.tasks.passages import Passage


@dataclass
class CountingConfig:
    n: int


class Counting(TaskBuilder):
    """Passage i says what follows i."""

    Config = CountingConfig

    def __init__(self, config):
        super().__init__(config)
        if config.n < 1:
            raise UserError(f"expected at least 1, found {config.n}", where="task.n")

    def fingerprint(self):
        return self.config.n

    def passages(self):
        for i in range(self.config.n):
            yield Passage(i, f"p{i}", f"after number{i} comes number{i + 1}")

    def queries(self):
        for i in range(self.config.n):
            yield Query(f"q{i}", f"after number{i} comes", f"number{i + 1}", gold_rows=(i,))
''',
    "conf/task/counting.yaml": (
        "name: counting\n"
        "target: bench.tasks.counting:Counting\n"
        "summary: what number follows\n"
        "n: 20 # enough for lists of ten\n"
    ),
}


def test_a_task_touches_two_files(tmp_path: Path) -> None:
    tree = copied(tmp_path / "tree")
    for name, text in FILES.items():
        (tree / name).write_text(text, encoding="utf-8")
    names = touched(tree)
    print("a task touches:", *sorted(names))
    assert names == set(FILES)

    places = (f"results_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache")
    words = ("run", "task=counting", "method=bm25", "metric=attribution", *places)
    with Forks(tree) as tdabench:
        listed = tdabench.run("list", "tasks")
        done = tdabench.run(*words)
        refused = tdabench.run(*words, "task.n=0")
        mistyped = tdabench.run("run", "task=countin")
        verified = tdabench.run("verify", f"{tmp_path}/runs")
    assert "what number follows" in listed.stdout
    assert done.returncode == 0, done.stderr
    stored = result(cells(tmp_path / "runs")["bm25"])
    assert stored["task"]["name"] == "counting"
    mrr = stored["metrics"]["mrr"]
    assert (mrr["value"], mrr["ci95"], mrr["n"]) == (1.0, [1.0, 1.0], 20)
    assert refused.returncode == 2
    assert "task.n: expected at least 1, found 0" in refused.stderr
    assert "did you mean counting" in mistyped.stderr
    assert verified.returncode == 0, verified.stdout


def test_a_task_of_ones_own_needs_no_file_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class beside its YAML, in a folder that Hydra is told of."""
    own = tmp_path / "own" / "task"
    own.mkdir(parents=True)
    for name, text in FILES.items():
        place = own / Path(name).name
        place.write_text(text.replace("bench.tasks.counting:", "counting.py:"), encoding="utf-8")
    places = (f"results_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache")
    words = ("task=counting", "method=bm25", "metric=attribution", *places)
    assert main(["run", f"--config-dir={own.parent}", *words]) == 0
    said = capsys.readouterr().err
    assert f"task of your own, whose code is run: Counting of {own}/counting.py" in said
    assert result(cells(tmp_path / "runs")["bm25"])["metrics"]["mrr"]["value"] == 1
