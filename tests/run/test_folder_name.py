"""An own model is called like its folder, and its cells are told by its content alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.report.board import make_boards
from bench.results.schema import RESULT, read_cells
from bench.run.composing import composed
from bench.run.extend_hydra import folder_name
from bench.run.settings import settings_from
from tests.fixtures.models import make_model
from tests.fixtures.runs import cells, result, run


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (None, "hf"),
        ("models/mine", "mine"),
        ("models/mine/", "mine"),
        ("models/mine/../yours", "yours"),
        ("models/my model: v2", "my_model__v2"),
        ("models/..hidden", "hidden"),
        ("models/tiny", "hf-tiny"),
        ("/", "_"),
    ],
)
def test_names(path: str | None, name: str) -> None:
    assert folder_name(path) == name


def test_here_is_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_name(".") == tmp_path.name


def test_a_name_that_is_set_stays(tmp_path: Path) -> None:
    words = ["model=hf", f"model.path={tmp_path}", "model.name=mine"]
    assert settings_from(composed(words, "run")).model["name"] == "mine"
    assert settings_from(composed(["model=8b"], "run")).model["name"] == "8b"


def test_two_models_are_on_two_boards_and_a_name_moves_no_key(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        model = make_model(tmp_path / name, seed=seed)
        words = ("model=hf", f"model.path={model}", "method=bm25", "metric=attribution")
        world = ("task.n_passages=400", "task.n_facts=40", "metric.bootstrap_samples=50")
        assert run(tmp_path / "runs", tmp_path / "cache", *words, *world, small=False) == 0
    assert run(
        tmp_path / "other", tmp_path / "cache", *words, *world, "model.name=three", small=False
    ) == 0  # fmt: skip
    found = read_cells(tmp_path / "runs")
    assert sorted(board.model for board in make_boards(found)) == ["one", "two"]
    (two,) = (tmp_path / "runs").glob(f"*/two/*/*/{RESULT}")
    (three,) = (tmp_path / "other").glob(f"*/three/*/*/{RESULT}")
    assert two.parent.name == three.parent.name
    assert result(cells(tmp_path / "other")["bm25"])["model"]["name"] == "three"
