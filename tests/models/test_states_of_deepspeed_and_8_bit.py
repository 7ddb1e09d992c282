"""States of DeepSpeed, universal and in shards, and those that bitsandbytes keeps in bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.core.errors import UserError
from bench.models.second_moments import load_moments
from bench.models.states.kinds import dequantised
from tests.fixtures.models import load as load_model
from tests.fixtures.models import make_model
from tests.fixtures.states import (
    BETA2,
    assert_v,
    corrected,
    saved_in_bytes,
    saved_universal,
    stepped,
    unsigned_map,
)


@pytest.fixture
def module(tmp_path: Path) -> nn.Module:
    return load_model(make_model(tmp_path / "model", "llama", layers=2)).module


# ------------------------------------------------------------------ DeepSpeed


@pytest.mark.parametrize("flat", [False, True])
def test_a_universal_checkpoint(module: nn.Module, tmp_path: Path, flat: bool) -> None:
    optimizer = saved_universal(module, tmp_path / "universal", flat)
    found = load_moments(tmp_path / "universal", module, adam_beta2=BETA2)
    assert_v(found, module, lambda one: corrected(optimizer.state[one]["exp_avg_sq"]))
    (tmp_path / "universal/zero/lm_head.weight/exp_avg_sq.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"lm_head\.weight/exp_avg_sq\.pt: cannot be read"):
        load_moments(tmp_path / "universal", module)


@pytest.mark.parametrize(
    ("made", "state", "source"),
    [
        ("global_step7/zero_pp_rank_0_mp_rank_00_optim_states.pt", "", "global_step7"),
        ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "", ""),
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt",
         ""),
    ],
)  # fmt: skip
def test_shards_of_zero_name_the_command(
    module: nn.Module, tmp_path: Path, made: str, state: str, source: str
) -> None:
    folder = tmp_path / "zero-state"
    (folder / made).parent.mkdir(parents=True)
    torch.save({"optimizer_state_dict": {}}, folder / made)
    with pytest.raises(UserError, match="state of DeepSpeed's ZeRO in shards") as caught:
        load_moments(folder / state, module)
    asked = f"ds_to_universal --input_folder {folder / source if source else folder} "
    assert asked in str(caught.value)


# ------------------------------------------------------------------ bitsandbytes


@pytest.mark.parametrize(("n", "size"), [(1, 256), (256, 256), (700, 256), (5000, 2048)])
def test_bytes_are_the_numbers_that_they_stand_for(n: int, size: int) -> None:
    """Against the definition, a byte after the other."""
    generator = torch.Generator().manual_seed(n)
    code, factors = torch.rand(256, generator=generator), torch.rand(-(-n // size)) * 1e-3
    state = torch.randint(0, 256, (n,), generator=generator, dtype=torch.uint8)
    found = dequantised(state, code, factors, size)
    for place, byte in enumerate(state.tolist()):
        assert found[place].item() == (code[byte] * factors[place // size]).item()


def test_bytes_lie_near_what_they_were_made_of(module: nn.Module, tmp_path: Path) -> None:
    """The table of formats has the V of bytes; here it is that of the optimizer, about."""
    saved_in_bytes(module, tmp_path / "optimizer.pt")
    found = load_moments(tmp_path / "optimizer.pt", module)
    true = stepped(module, betas=(0.8, BETA2)).state[module.lm_head.weight]["exp_avg_sq"]  # type: ignore
    near = found["lm_head.weight"].value.double().sqrt()  # type: ignore[union-attr]
    want = corrected(true).sqrt()
    assert ((near - want).norm() / want.norm()).item() < 0.03


def test_an_8_bit_state_of_other_blocks(module: nn.Module, tmp_path: Path) -> None:
    state = stepped(module).state_dict()
    for own in state["state"].values():
        own["state2"] = torch.zeros(own.pop("exp_avg_sq").shape, dtype=torch.uint8)
        own |= {"qmap2": unsigned_map(), "absmax2": torch.ones(77)}
    torch.save(state, tmp_path / "optimizer.pt")
    with pytest.raises(UserError, match="state2 is of 8 bits, and qmap2 and absmax2 are not those"):
        load_moments(tmp_path / "optimizer.pt", module)
