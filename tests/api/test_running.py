"""``tdabench.run`` does what the command does, and leaves the process as it was."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import tdabench
from bench.core import progress
from tests.fixtures.runs import cells, ranked, result, run
from tests.fixtures.sources import ROOT

SETTINGS: dict[str, Any] = {
    "task": {"name": "factworld", "n_passages": 400, "n_facts": 40},
    "model": {
        "hidden_size": 16, "num_layers": 2, "num_heads": 2, "epochs": 2, "vocab_size": 400,
        "projection_dim": 4,
    },
    "metric": {"tail_patch": {"n_queries": 8}, "bootstrap_samples": 50},
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("api")
    return {"results_dir": folder / "runs", "cache_dir": folder / "cache"}


def test_cells_are_those_of_the_command(places: dict[str, Path], tmp_path: Path) -> None:
    results = tdabench.run(**SETTINGS, method=["bm25", "trackstar"], **places)
    assert [cell.result.method["name"] for cell in results.cells] == ["bm25", "trackstar"]
    assert run(tmp_path / "runs", tmp_path / "cache", "-m", "method=bm25,trackstar") == 0
    theirs = cells(tmp_path / "runs")
    for name, own in cells(places["results_dir"]).items():
        assert own.name == theirs[name].name  # the key
        assert ranked(own) == ranked(theirs[name])
        assert result(own)["metrics"] == result(theirs[name])["metrics"]
    # The recorded command makes the cell again.
    (words,) = {cell.result.command for cell in results.cells if "bm25" in cell.result.command}
    assert words.startswith("tdabench run task=factworld task.n_passages=400")


def test_a_finished_cell_is_found(places: dict[str, Path], capsys: Any) -> None:
    tdabench.run(**SETTINGS, method="bm25", **places)
    capsys.readouterr()
    again = tdabench.run(**SETTINGS, method="bm25", **places)
    assert "already there" in capsys.readouterr().err
    assert len(again) == 1


def test_an_experiment_sweeps(tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      method: bm25,random,gold\n"
    )
    task, where = SETTINGS["task"], {"results_dir": tmp_path, "cache_dir": tmp_path / "cache"}
    search = {"hydra.searchpath": (f"file://{tmp_path}/conf",)}
    results = tdabench.run(
        experiment="mine", metric="attribution", task=task, quiet=True, **where, **search
    )
    assert [cell.result.method["name"] for cell in results.cells] == ["bm25", "random", "gold"]


def test_the_process_is_as_it_was(places: dict[str, Path], capsys: Any) -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    threads = torch.get_num_threads()
    with initialize_config_module("conf", version_base="1.3"):
        mine, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
        tdabench.run(**SETTINGS, method=["random"], seed=5, quiet=True, **places)
        assert GlobalHydra.instance().hydra is mine
        assert HydraConfig.instance().cfg is config
    assert capsys.readouterr().err == ""
    progress.say("heard")
    assert capsys.readouterr().err == "heard\n"
    after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert torch.get_num_threads() == threads


def test_no_cell_runs_before_all_settings_are_read(tmp_path: Path) -> None:
    where = {"results_dir": tmp_path / "runs", "cache_dir": tmp_path / "cache"}
    with pytest.raises(tdabench.UserError, match="top_k"):
        tdabench.run(**SETTINGS, method="random", top_k=[10, 0], **where)
    assert not (tmp_path / "runs").exists()
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "factwrld"}, "unknown task 'factwrld'; did you mean factworld?"),
        ({"task": {"n_passage": 1}}, "unknown key 'task.n_passage'; did you mean n_passages"),
        ({"method": {"name": "bm25", "k": 1}}, "unknown key 'method.k'; did you mean k1?"),
        ({"results_dir": "s3://bucket/runs"}, "results_dir"),
        ({"device": "cuda:99"}, "device"),
    ],
)
def test_mistakes_are_said_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(tdabench.UserError) as error:
        tdabench.run(**settings)
    assert str(error.value).startswith(message)


def test_a_wrong_word_imports_no_torch() -> None:
    code = (
        "import sys, tdabench\n"
        "try: tdabench.run(task='factwrld')\n"
        "except tdabench.UserError: pass\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
