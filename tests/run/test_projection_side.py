"""The projection of a model of one's own follows its width, and is written into the cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.run.composing import composed
from bench.run.extend_hydra import projection_side
from bench.run.settings import settings_from


@pytest.mark.parametrize(
    ("config", "side"),
    [
        ({"hidden_size": 32}, 8),
        ({"hidden_size": 8}, 4),
        ({"hidden_size": 96}, 16),
        ({"n_embd": 768}, 64),
        ({"d_model": 4096}, 64),
        ({"text_config": {"hidden_size": 64}}, 16),
        ({}, 64),
        ([], 64),
    ],
)
def test_a_quarter_of_the_width_at_most(tmp_path: Path, config: Any, side: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert projection_side(str(tmp_path)) == side


def test_without_a_readable_folder_it_is_the_papers(tmp_path: Path) -> None:
    assert projection_side(None) == projection_side(str(tmp_path)) == 64
    (tmp_path / "config.json").write_text("{")
    assert projection_side(str(tmp_path)) == 64


def test_methods_take_it_and_a_setting_overrides_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 32}')
    words = ["model=hf", f"model.path={tmp_path}", "method=trackstar"]
    settings = settings_from(composed(words, "run"))
    assert settings.method["projection_dim"] == settings.model["projection_dim"] == 8
    own = settings_from(composed([*words, "model.projection_dim=16"], "run"))
    assert own.method["projection_dim"] == 16


@pytest.mark.parametrize("model", ["154m", "1b", "8b"])
def test_models_to_plan_with_have_the_papers(model: str) -> None:
    settings = settings_from(composed([f"model={model}", "method=trackstar"], "plan"))
    assert settings.method["projection_dim"] == 64
