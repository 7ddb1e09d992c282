"""States as trainers leave them: V of every parameter is that of its own name, in every form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.core.errors import UserError
from bench.models.adapters import with_adapter
from bench.models.parameter_names import adapter_names, bare_name
from bench.models.second_moments import load_moments
from tests.fixtures.adapters import make_adapter
from tests.fixtures.models import load as load_model
from tests.fixtures.models import make_model
from tests.fixtures.states import BETA2, assert_v, corrected, stepped


@pytest.fixture
def module(tmp_path: Path) -> nn.Module:
    return load_model(make_model(tmp_path / "model", "llama", layers=2)).module


ADAMS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "Adam": (torch.optim.Adam, {}, "exp_avg_sq"),
    "AdamW": (torch.optim.AdamW, {}, "exp_avg_sq"),
    "foreach": (torch.optim.AdamW, {"foreach": True}, "exp_avg_sq"),
    "fused": (torch.optim.AdamW, {"fused": True}, "exp_avg_sq"),
    "amsgrad": (torch.optim.AdamW, {"amsgrad": True}, "max_exp_avg_sq"),
    "NAdam": (torch.optim.NAdam, {}, "exp_avg_sq"),
    "RAdam": (torch.optim.RAdam, {}, "exp_avg_sq"),
}


@pytest.mark.parametrize("kind", ADAMS)
def test_every_adam_of_torch(module: nn.Module, tmp_path: Path, kind: str) -> None:
    make, settings, field = ADAMS[kind]
    optimizer = stepped(module, make, betas=(0.8, BETA2), **settings)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    found = load_moments(tmp_path / "optimizer.pt", module)
    assert_v(found, module, lambda one: corrected(optimizer.state[one][field]))


def test_amsgrad_divides_by_the_largest(module: nn.Module) -> None:
    """Else the test above could not fail."""
    optimizer = stepped(module, torch.optim.AdamW, amsgrad=True)
    state = optimizer.state[module.lm_head.weight]  # type: ignore[index]
    assert (state["max_exp_avg_sq"] > state["exp_avg_sq"]).any()


def test_loaded_moments_do_not_hang_on_the_file(module: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "optimizer.pt"
    optimizer = stepped(module, betas=(0.8, BETA2))
    torch.save(optimizer.state_dict(), path)
    found = load_moments(path, module)
    path.write_bytes(b"")
    assert_v(found, module, lambda one: corrected(optimizer.state[one]["exp_avg_sq"]))


# ------------------------------------------------------------------ adapters


@pytest.mark.parametrize("names", ["numbers", "recorded", "of another adapter", "one group of two"])
@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["lm_head"]}])
def test_the_state_of_an_adapters_own_optimizer(
    tmp_path: Path, names: str, settings: dict[str, Any]
) -> None:
    base = make_model(tmp_path / "base", "llama", layers=2)
    model = make_adapter(base, tmp_path / "adapter", **settings)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    optimizer = stepped(model, only=trained.__contains__, betas=(0.8, BETA2))
    state = optimizer.state_dict()
    own = [name for name, _ in model.named_parameters() if name in trained]
    if names == "recorded":
        state["param_groups"][0]["param_names"] = own
    elif names == "of another adapter":
        other = [f"module.{name.replace('.default.', '.mine.')}" for name in own]
        state["state"] = {other[number]: fields for number, fields in state["state"].items()}
        state["param_groups"][0]["params"] = other
    elif names == "one group of two":  # as Trainer does: nothing of an adapter is without decay
        state["param_groups"].append({**state["param_groups"][0], "params": []})
    torch.save(state, tmp_path / "optimizer.pt")
    module = with_adapter(load_model(base).module, tmp_path / "adapter")  # type: ignore[arg-type]
    found = load_moments(tmp_path / "optimizer.pt", module)
    assert set(found.by_name) == set(adapter_names(module))
    kept = {bare_name(name): optimizer.state[one] for name, one in model.named_parameters()
            if name in trained}  # fmt: skip
    for name, moment in found.by_name.items():
        want = corrected(kept[bare_name(name)]["exp_avg_sq"]).float()
        torch.testing.assert_close(moment.value, want, rtol=1e-6, atol=0)  # type: ignore


def test_the_bases_state_fits_the_model_with_an_adapter(tmp_path: Path) -> None:
    """Names of a state of the base, saved before there was an adapter."""
    base = make_model(tmp_path / "base", "llama", layers=2)
    plain = load_model(base).module
    optimizer = stepped(plain, betas=(0.8, BETA2))
    state = optimizer.state_dict()
    state["param_groups"][0]["param_names"] = [name for name, _ in plain.named_parameters()]
    torch.save(state, tmp_path / "optimizer.pt")
    make_adapter(base, tmp_path / "adapter")
    module = with_adapter(load_model(base).module, tmp_path / "adapter")  # type: ignore[arg-type]
    found = load_moments(tmp_path / "optimizer.pt", module)
    name = "model.layers.0.self_attn.q_proj"
    want = optimizer.state[plain.get_parameter(f"{name}.weight")]["exp_avg_sq"]
    got = found[f"{name}.base_layer.weight"].value  # type: ignore[union-attr]
    torch.testing.assert_close(got, corrected(want).float(), rtol=1e-6, atol=0)


# ------------------------------------------------------------------ what is refused


def test_a_checkpoints_folder_says_which_of_its_files(module: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-100"
    folder.mkdir()
    with pytest.raises(UserError, match="holds no safetensors file, and no state of FSDP"):
        load_moments(folder, module)
    torch.save(stepped(module).state_dict(), folder / "optimizer.pt")
    with pytest.raises(UserError, match=r"optimizer_state=.*checkpoint-100/optimizer\.pt"):
        load_moments(folder, module)


def test_one_ranks_file_is_refused(module: nn.Module, tmp_path: Path) -> None:
    torch.save(stepped(module).state_dict(), tmp_path / "optimizer_0_rank3.bin")
    with pytest.raises(UserError, match="is what one of several processes keeps"):
        load_moments(tmp_path / "optimizer_0_rank3.bin", module)


def test_a_name_twice_is_refused(module: nn.Module, tmp_path: Path) -> None:
    state = stepped(module).state_dict()
    names = [name for name, _ in module.named_parameters()]
    state["param_groups"][0]["param_names"] = [names[1], *names[1:]]
    torch.save(state, tmp_path / "optimizer.pt")
    with pytest.raises(UserError, match=f"it has parameter {names[1]} twice"):
        load_moments(tmp_path / "optimizer.pt", module)


def test_code_in_a_state_is_not_run(module: nn.Module, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self) -> Any:
            return mark.touch, ()

    torch.save({"state": {}, "param_groups": [], "x": Evil()}, tmp_path / "optimizer.pt")
    with pytest.raises(UserError, match="cannot be read as a torch optimizer state"):
        load_moments(tmp_path / "optimizer.pt", module)
    assert not mark.exists()
