"""States of FSDP, whole by name and in folders of shards, and their pickles read as data."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
)

from bench.core.errors import UserError
from bench.models.second_moments import load_moments
from bench.models.states.opcodes import Record, UnreadableError, as_data
from tests.fixtures.models import load as load_model
from tests.fixtures.models import make_model
from tests.fixtures.states import (
    BETA2,
    alone,
    assert_v,
    corrected,
    saved_sharded,
    stepped,
)


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with alone(tmp_path_factory.mktemp("group")):
        yield


@pytest.fixture
def module(tmp_path: Path) -> nn.Module:
    return load_model(make_model(tmp_path / "model", "llama", layers=2)).module


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
