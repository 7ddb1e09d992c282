"""A model's configuration that asks for more than any model has is refused before it is built."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cli.main import main
from bench.core.errors import UserError
from bench.models.loading import load_directory
from bench.models.sizes import check_files, check_numbers
from methods.encoders import _load_encoder
from metrics.judges.nli import Nli, NliConfig
from tests.fixtures.judge_models import make_classifier
from tests.fixtures.models import make_model
from tests.fixtures.sentence_encoders import save_encoder

CPU = {"device": "cpu", "dtype": torch.float32}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


ABSURD = [
    {"hidden_size": 10**9}, {"num_hidden_layers": 10**9}, {"num_hidden_layers": 1001},
    {"vocab_size": 10**9}, {"intermediate_size": 10**12}, {"num_attention_heads": 10**9},
    {"num_labels": 10**9}, {"max_position_embeddings": 10**12}, {"head_dim": 1e30},
    {"text_config": {"hidden_size": 10**9}}, {"intermediate_size": [64, 10**9]},
    {"num_local_experts": 10**6}, {"hidden_size": 10**400},
]  # fmt: skip


@pytest.mark.parametrize("values", ABSURD, ids=lambda values: next(iter(values)))
def test_an_absurd_number_is_named(folder: Path, values: dict[str, Any]) -> None:
    edit(folder, **values)
    began = time.monotonic()
    for read in (check_files, lambda path: load_directory("m", path, **CPU)):
        with pytest.raises(UserError, match=r"config\.json: \w+ is .* is the most") as caught:
            read(folder)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("command", ["run", "plan"])
def test_commands_refuse_it_before_anything_is_made(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    edit(folder, hidden_size=10**9)
    words = [
        command, "model=hf", f"model.path={folder}", "method=grad_cos", "metric=attribution",
        "task.n_passages=400", "task.n_facts=40", f"results_dir={tmp_path / 'results'}",
        f"cache_dir={tmp_path / 'cache'}", "quiet=true",
    ]  # fmt: skip
    assert main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert "config.json: hidden_size is 1,000,000,000, and 1,048,576 is the most" in line
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "values", [{"vocab_size": 1 << 24}, {"intermediate_size": 1 << 20, "num_hidden_layers": 99}]
)
def test_a_model_far_larger_than_its_weights(folder: Path, values: dict[str, Any]) -> None:
    """Each number may be; together they would take gigabytes that no file holds."""
    edit(folder, **values)
    with pytest.raises(UserError, match=r"its config\.json is of a model of .* parameters"):
        load_directory("m", folder, **CPU)


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 16_384, "num_hidden_layers": 126, "vocab_size": 262_144},
        {"n_routed_experts": 384, "num_experts_per_tok": 8, "max_position_embeddings": 10_485_760},
        {"rope_theta": 10_000_000_000, "bos_token_id": 1 << 30, "torch_dtype": "float32"},
        {"layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "tokens_trained": 10**13},
        {"sliding_window": None, "layer_types": ["full_attention"] * 126, "use_cache": True},
    ],
)
def test_numbers_of_real_models(values: dict[str, Any]) -> None:
    check_numbers(values, "config.json")


def test_a_configuration_that_is_none(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"config\.json: is no JSON object"):
        check_files(folder)


def test_a_geometry_of_absurd_size(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "model=1b", "model.geometry.num_layers=1000000000", "plan.passages=10",
             "plan.tokens_per_passage=10", "plan.queries=1", "plan.device_tflops=1"]  # fmt: skip
    assert main(words) == 2
    assert "model.geometry: num_layers is 1,000,000,000, and 1,000" in capsys.readouterr().err


def test_an_encoder_and_a_judge_of_absurd_size(tmp_path: Path) -> None:
    encoder, judge = tmp_path / "encoder", make_classifier(tmp_path / "judge")
    save_encoder(encoder)
    for path in (*encoder.rglob("config.json"), judge / "config.json"):
        edit(path.parent, num_hidden_layers=10**9)
    message = r"config\.json: num_hidden_layers is 1,000,000,000"
    with pytest.raises(UserError, match=message):
        _load_encoder(encoder, "cpu", None, "SentenceTransformer")
    with pytest.raises(UserError, match=message):
        _ = Nli(NliConfig(model=str(judge)))._module
