"""States as trainers leave them: V of every parameter is that of its own name, in every form."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
)

from bench.core.errors import UserError
from bench.models.adapters import with_adapter
from bench.models.parameter_names import adapter_names, bare_name
from bench.models.second_moments import SecondMoments, load_moments
from bench.models.states.kinds import dequantised
from bench.models.states.opcodes import Record, UnreadableError, as_data
from tests.fixtures.adapters import make_adapter
from tests.fixtures.models import load as load_model
from tests.fixtures.models import make_model

BETA2, STEPS = 0.9, 3


@pytest.fixture
def module(tmp_path: Path) -> nn.Module:
    return load_model(make_model(tmp_path / "model", "llama", layers=2)).module


def stepped(
    module: nn.Module,
    make: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    only: Callable[[str], bool] = lambda name: True,
    **settings: Any,
) -> torch.optim.Optimizer:
    """An optimizer after some steps over the parameters that are wanted, in their usual order."""
    parameters = {name: one for name, one in module.named_parameters() if only(name)}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = make(list(parameters.values()), **settings)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
        optimizer.step()
    module.requires_grad_(False)
    return optimizer


def corrected(average: Tensor, beta2: float = BETA2) -> Tensor:
    """Adam's V after these steps, written out (Kingma & Ba, Algorithm 1)."""
    return average.double() / (1 - beta2**STEPS)


def assert_v(
    moments: SecondMoments, module: nn.Module, want: Callable[[nn.Parameter], Tensor]
) -> None:
    """V of every parameter, by name, is what is wanted of it."""
    own = dict(module.named_parameters())
    assert set(moments.by_name) == set(own)
    for name, parameter in own.items():
        v = moments[name].inverse_sqrt().reciprocal()
        torch.testing.assert_close(v, want(parameter).sqrt() + 1e-8, rtol=1e-6, atol=0)


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


# ------------------------------------------------------------------ FSDP


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Any:
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_fsdp_wrapped_module."])
def test_full_states_by_name(module: nn.Module, tmp_path: Path, flat: bool, prefix: str) -> None:
    optimizer = stepped(module, betas=(0.8, BETA2))
    options = StateDictOptions(full_state_dict=True, flatten_optimizer_state_dict=flat)
    state: Any = get_optimizer_state_dict(module, optimizer, options=options)
    if flat:
        state = {re.sub(r"^(\w+\.)", rf"\1{prefix}", key): value for key, value in state.items()}
    else:
        state["state"] = {f"{prefix}{name}": own for name, own in state["state"].items()}
        for one in state["param_groups"]:
            one["params"] = [f"{prefix}{name}" for name in one["params"]]
    torch.save(state, tmp_path / "optimizer.bin")
    found = load_moments(tmp_path / "optimizer.bin", module)
    assert_v(found, module, lambda one: corrected(optimizer.state[one]["exp_avg_sq"]))


def saved_sharded(module: nn.Module, folder: Path) -> torch.optim.Optimizer:
    """A folder as accelerate writes an optimizer of FSDP into it."""
    optimizer = stepped(module, betas=(0.8, BETA2))
    state = {"optimizer": get_optimizer_state_dict(module, optimizer)}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder))
    return optimizer


def test_a_folder_of_shards(module: nn.Module, tmp_path: Path) -> None:
    optimizer = saved_sharded(module, tmp_path / "optimizer_0")
    found = load_moments(tmp_path / "optimizer_0", module)
    assert_v(found, module, lambda one: corrected(optimizer.state[one]["exp_avg_sq"]))
    moved = (tmp_path / "optimizer_0").rename(tmp_path / "moved")
    assert load_moments(moved, module).sha256 == found.sha256
    shard = next(moved.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes() + b"x")
    assert load_moments(moved, module).sha256 != found.sha256


TWO_PROCESSES = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
import torch.multiprocessing as processes
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from bench.models.loading import load_module

def work(rank, folder):
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
    from pathlib import Path
    module = load_module(Path(folder) / "model", torch.float32, torch.device("cpu"))
    module.requires_grad_(True)
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(module.parameters(), betas=(0.8, 0.9))
    for step in range(3):
        ids = torch.tensor([[3, 1 + step, 7, 9 + rank, 2]])
        module(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    state = {"optimizer": get_optimizer_state_dict(module, optimizer)}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(f"{folder}/sharded"))
    own = {n: optimizer.state[p]["exp_avg_sq"].full_tensor() for n, p in module.named_parameters()}
    if rank == 0:
        torch.save(own, f"{folder}/whole.pt")
    dist.destroy_process_group()

if __name__ == "__main__":
    processes.spawn(work, (sys.argv[1],), nprocs=2)
"""


@pytest.mark.slow
def test_shards_of_two_processes(module: nn.Module, tmp_path: Path) -> None:
    """Each matrix lies in two files: V is that of the whole."""
    (tmp_path / "work.py").write_text(TWO_PROCESSES)
    words = [sys.executable, str(tmp_path / "work.py"), str(tmp_path)]
    subprocess.run(words, check=True, timeout=300, env={"PYTHONPATH": str(Path.cwd())})
    assert len(list((tmp_path / "sharded").glob("*.distcp"))) == 2
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = load_moments(tmp_path / "sharded", module)
    assert_v(found, module, lambda one: corrected(whole[names[id(one)]]))


def missing(folder: Path) -> None:
    next(folder.glob("*.distcp")).unlink()


def cut(folder: Path) -> None:
    shard = next(folder.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def cut_metadata(folder: Path) -> None:
    path = folder / ".metadata"
    path.write_bytes(path.read_bytes()[:-100])


def elsewhere(folder: Path) -> None:
    path = folder / ".metadata"
    path.write_bytes(path.read_bytes().replace(b"__0_0.distcp", b"../../etc/pw"))


@pytest.mark.parametrize("change", [missing, cut, cut_metadata, elsewhere])
def test_a_damaged_folder_is_one_line(
    module: nn.Module, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    saved_sharded(module, tmp_path / "shards")
    change(tmp_path / "shards")
    with pytest.raises(UserError, match=r"cannot be read as a folder.*dcp_to_torch") as caught:
        load_moments(tmp_path / "shards", module)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ a pickle as data


def test_nothing_that_a_pickle_names_is_called(module: nn.Module, tmp_path: Path) -> None:
    """Fault: torch's own reader of such a folder runs what the file says."""
    saved_sharded(module, tmp_path / "shards")
    mark = tmp_path / "mark"
    evil = b"\x80\x02cos\nsystem\nX" + len(f"touch {mark}").to_bytes(4, "little")
    (tmp_path / "shards" / ".metadata").write_bytes(evil + f"touch {mark}".encode() + b"\x85R.")
    with pytest.raises(UserError, match="cannot be read as a folder of torch"):
        load_moments(tmp_path / "shards", module)
    assert not mark.exists()


def test_what_a_pickle_spells() -> None:
    plain = {"a": [1, 2.5, None, True, False], "b": (1, (2, 3), ("x", "y", 1 << 70)), "é": {}}
    import pickle  # the oracle

    for protocol in (2, 3, 4, 5):
        assert as_data(pickle.dumps(plain, protocol)) == plain
    made = as_data(pickle.dumps(torch.Size([2, 3]), 4))
    assert isinstance(made, Record)
    assert (made.name, made.arguments) == ("torch.Size", ((2, 3),))
    for content in (b"", b"\x80\x04", b"\x80\x04K\x01", b"}\x80", b"\x80\x02]K\x01s."):
        with pytest.raises(UnreadableError):
            as_data(content)


# ------------------------------------------------------------------ DeepSpeed


def saved_universal(module: nn.Module, folder: Path, flat: bool) -> torch.optim.Optimizer:
    """As DeepSpeed's ds_to_universal lays it out: a file a parameter and state."""
    optimizer = stepped(module, betas=(0.8, BETA2))
    for name, parameter in module.named_parameters():
        own = folder / "zero" / name
        own.mkdir(parents=True)
        state = optimizer.state[parameter]
        kept = {"fp32": parameter.detach(), **{k: state[k] for k in ("exp_avg", "exp_avg_sq")}}
        for field, tensor in kept.items():
            value = tensor.flatten() if flat else {"param": tensor, "cat_dim": 0}
            torch.save(value, own / f"{field}.pt")
        torch.save(STEPS, own / "step.pt")
    return optimizer


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


def unsigned_map() -> Tensor:
    """A map of 256 rising numbers from 0 to 1, as bitsandbytes' for what is not negative is."""
    return torch.logspace(-6, 0, 256).index_fill(0, torch.tensor([0]), 0.0)


def quantised(v: Tensor, size: int) -> dict[str, Tensor]:
    """V as bytes, a number after the other: the nearest of the map, of the block's largest."""
    code, flat = unsigned_map(), v.flatten()
    factors = torch.stack([part.max() for part in flat.split(size)])
    shares = flat / factors.repeat_interleave(size)[: len(flat)]
    near = (shares[:, None] - code).abs().argmin(1).to(torch.uint8)
    return {"state2": near.view(v.shape), "qmap2": code, "absmax2": factors}


@pytest.mark.parametrize(("n", "size"), [(1, 256), (256, 256), (700, 256), (5000, 2048)])
def test_bytes_are_the_numbers_that_they_stand_for(n: int, size: int) -> None:
    """Against the definition, a byte after the other."""
    generator = torch.Generator().manual_seed(n)
    code, factors = torch.rand(256, generator=generator), torch.rand(-(-n // size)) * 1e-3
    state = torch.randint(0, 256, (n,), generator=generator, dtype=torch.uint8)
    found = dequantised(state, code, factors, size)
    for place, byte in enumerate(state.tolist()):
        assert found[place].item() == (code[byte] * factors[place // size]).item()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("size", [256, 2048])
def test_an_8_bit_state(tmp_path: Path, wrapped: bool, size: int) -> None:
    """Matrices in bytes, vectors in floats, as bitsandbytes keeps small parameters."""
    module = load_model(
        make_model(tmp_path / "model", "llama", layers=1, num_key_value_heads=2)
    ).module
    optimizer = stepped(module, betas=(0.8, BETA2))
    state = optimizer.state_dict()
    parameters = list(module.parameters())
    for number, own in state["state"].items():
        v = own.pop("exp_avg_sq")
        parameters[number].true = v  # type: ignore[attr-defined]
        own["state1"], own["step"] = own.pop("exp_avg"), STEPS
        kept = quantised(v, size) if v.ndim == 2 else {"state2": v}
        own.update({"__bnb_optimizer_quant_state__": kept} if wrapped else kept)
        parameters[number].kept = kept  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "optimizer.pt")
    found = load_moments(tmp_path / "optimizer.pt", module)

    def want(parameter: nn.Parameter) -> Tensor:
        kept = parameter.kept  # type: ignore[attr-defined]
        if "qmap2" not in kept:
            return corrected(kept["state2"])
        factors = kept["absmax2"].repeat_interleave(size)[: parameter.numel()]
        return corrected(kept["qmap2"][kept["state2"].long()] * factors.view(parameter.shape))

    assert_v(found, module, want)
    true = corrected(module.lm_head.weight.true).sqrt()  # type: ignore
    near = found["lm_head.weight"].value.double().sqrt()  # type: ignore[union-attr]
    assert ((near - true).norm() / true.norm()).item() < 0.03


def test_an_8_bit_state_of_other_blocks(module: nn.Module, tmp_path: Path) -> None:
    state = stepped(module).state_dict()
    for own in state["state"].values():
        own["state2"] = torch.zeros(own.pop("exp_avg_sq").shape, dtype=torch.uint8)
        own |= {"qmap2": unsigned_map(), "absmax2": torch.ones(77)}
    torch.save(state, tmp_path / "optimizer.pt")
    with pytest.raises(UserError, match="state2 is of 8 bits, and qmap2 and absmax2 are not those"):
        load_moments(tmp_path / "optimizer.pt", module)


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
