"""``tdabench moments``: one name-keyed file of any state, with the same V, and what it covers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.cli.main import main
from bench.models.adapters import with_adapter
from bench.models.second_moments import load_moments
from tests.fixtures.adapters import make_adapter
from tests.fixtures.models import load, make_model
from tests.fixtures.states import take_steps

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_model(Path("model"), "llama", layers=1, tie_word_embeddings=True)


def state_of(module: nn.Module, make: Any, steps: int = 3, **settings: Any) -> dict[str, Any]:
    module.requires_grad_(True)
    optimizer = make(module.named_parameters(), **settings)
    take_steps(optimizer, list(module.parameters()), steps)
    module.requires_grad_(False)
    return optimizer.state_dict()


def converted(*words: str) -> int:
    return main(["moments", "state.pt", "--model", "model", "--out", "out.safetensors", *words])


def assert_same_v(module: nn.Module) -> None:
    one, other = (load_moments(Path(name), module) for name in ("state.pt", "out.safetensors"))
    assert set(one.by_name) == set(other.by_name)
    for name, moment in one.by_name.items():
        assert torch.equal(moment.inverse_sqrt(), other[name].inverse_sqrt())


KINDS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "adam": (torch.optim.AdamW, {"betas": (0.9, 0.95)}, "optimizer: Adam, step 3, β2 0.95\n"),
    "torch's adafactor": (torch.optim.Adafactor, {}, "optimizer: torch's Adafactor\n"),
    "its floor": (torch.optim.Adafactor, {"eps": (1e-3, 1e-3)}, "optimizer: torch's Adafactor\n"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_v_is_the_same(folder: Path, capsys: Capture, kind: str) -> None:
    make, settings, told = KINDS[kind]
    module = load(folder).module
    torch.save(state_of(module, make, **settings), "state.pt")
    assert converted() == 0
    out = capsys.readouterr().out
    assert told in out
    assert "second moments of 8 of 8 matrices and 3 of 3 vectors" in out
    assert "left out" not in out
    assert "tdabench run model=hf model.path=model model.optimizer_state=out.safetensors" in out
    assert_same_v(module)


def test_transformers_adafactor(folder: Path, capsys: Capture) -> None:
    """Its vectors have a step and no betas: nothing of them is corrected."""
    from transformers.optimization import Adafactor

    module = load(folder).module
    state = state_of(module, lambda named: Adafactor([one for _, one in named], lr=1e-3,
                                                     relative_step=False))  # fmt: skip
    torch.save(state, "state.pt")
    assert converted() == 0
    assert "optimizer: Adafactor\n" in capsys.readouterr().out
    assert_same_v(module)


def test_what_is_left_out_is_told_by_reason(folder: Path, capsys: Capture) -> None:
    module = load(folder).module
    state = state_of(module, torch.optim.AdamW)
    names = state["param_groups"][0]["param_names"]
    up, norm, down = (
        next(number for number, name in enumerate(names) if part in name)
        for part in ("up_proj", "post_attention", "down_proj")
    )
    state["state"][up] = {"momentum_buffer": state["state"][up]["exp_avg"]}  # as of Muon
    del state["state"][norm]
    del state["state"][down]
    del state["param_groups"][0]["params"][down], names[down]
    torch.save(state, "state.pt")
    assert converted() == 0
    out = capsys.readouterr().out
    assert "second moments of 6 of 8 matrices and 2 of 3 vectors" in out
    layer = "model.layers.0"
    assert f"left out, the state keeps momentum_buffer alone: {layer}.mlp.up_proj.weight\n" in out
    assert (
        f"left out, the state keeps nothing of it: {layer}.post_attention_layernorm.weight\n" in out
    )
    assert f"left out, the state has no such parameter: {layer}.mlp.down_proj.weight\n" in out
    assert_same_v(module)


def test_a_state_that_does_not_say_its_beta2(folder: Path, capsys: Capture) -> None:
    module = load(folder).module
    state = state_of(module, torch.optim.AdamW)
    del state["param_groups"][0]["betas"]
    torch.save(state, "state.pt")
    assert converted() == 0
    assert "step 3, β2 0.999 (the state does not say it)" in capsys.readouterr().out
    assert_same_v(module)
    Path("out.safetensors").unlink()
    assert converted("--beta2", "0.9") == 0
    one = load_moments(Path("state.pt"), module, adam_beta2=0.9)
    other = load_moments(Path("out.safetensors"), module)
    for name, moment in one.by_name.items():
        assert torch.equal(moment.inverse_sqrt(), other[name].inverse_sqrt())


def test_an_adapters_state(folder: Path, capsys: Capture) -> None:
    make_adapter(folder, Path("adapter"))
    module = with_adapter(load(folder).module, Path("adapter"))  # type: ignore[arg-type]
    named = [(name, one) for name, one in module.named_parameters() if "lora_" in name]
    for _, parameter in named:
        parameter.requires_grad_(True).grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW([one for _, one in named])
    optimizer.step()
    torch.save(optimizer.state_dict(), "state.pt")
    assert converted("--adapter", "adapter") == 0
    out = capsys.readouterr().out
    assert "second moments of 4 of 12 matrices and 0 of 3 vectors" in out
    assert "left out, the state has no such parameter: model.embed_tokens.weight, " in out
    assert "model.adapter=adapter model.optimizer_state=out.safetensors" in out
    assert_same_v(module)


def test_the_models_weights_are_not_read(folder: Path) -> None:
    module = load(folder).module
    torch.save(state_of(module, torch.optim.AdamW), "state.pt")
    (folder / "model.safetensors").unlink()
    assert converted() == 0


def test_nothing_is_written_of_what_is_wrong(folder: Path, capsys: Capture) -> None:
    module = load(folder).module
    state = state_of(module, torch.optim.AdamW)
    state["state"][2]["exp_avg_sq"][0] = float("nan")
    torch.save(state, "state.pt")
    assert converted() == 2
    assert "must be finite" in capsys.readouterr().err
    torch.save(state_of(module, torch.optim.SGD, lr=0.1, momentum=0.9), "state.pt")
    assert converted() == 2
    err = capsys.readouterr().err
    assert "it keeps momentum alone, as SGD and Muon do; set model.optimizer_state=estimate" in err
    assert sorted(path.name for path in Path().iterdir()) == ["model", "state.pt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.pt", "--out", "o.safetensors"], "none.pt: no such file or folder"),
        (["state.pt", "--out", "o.pt"], "--out o.pt: expected a name that ends in .safetensors"),
        (["state.pt", "--out", "there.safetensors"], "there.safetensors: is there already"),
        (["state.pt", "--out", "o.safetensors", "--beta2", "1"], "--beta2: expected a number bet"),
        (["state.pt"], "the following arguments are required: --out"),
    ],
)
def test_wrong_words(folder: Path, capsys: Capture, words: list[str], message: str) -> None:
    Path("state.pt").touch()
    Path("there.safetensors").touch()
    assert main(["moments", *words, "--model", str(folder)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_no_model(folder: Path, capsys: Capture) -> None:
    Path("state.pt").touch()
    Path("empty").mkdir()
    words = ["moments", "state.pt", "--model", "empty", "--out", "o.safetensors"]
    assert main(words) == 2
    assert "empty: is not a model directory (no config.json)" in capsys.readouterr().err
