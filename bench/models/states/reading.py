"""Which form an optimizer's state has: one file or a folder, by name or as a trainer left it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError, first_line
from bench.models.moment_files import NAME_KEYED, read_moments, shards
from bench.models.states.entries import State, state_of
from bench.models.states.sharded import is_sharded, read_sharded
from bench.models.states.zero import is_universal, read_universal, refuse_shards

BY_NAME = "a name-keyed file"
# What trainers call a state within a checkpoint's folder.
_USUAL = ("optimizer.pt", "optimizer.bin", "optimizer_0", "second_moments.safetensors")
_ONE_RANK = re.compile(r"_rank\d+\.\w+$")


def read_state(path: Path, module: nn.Module) -> State:
    """The second moments in a file or a folder, whatever trainer left it.

    Args:
        path: name-keyed safetensors, one file or a folder of them; a ``state_dict`` that torch
            saved; a folder of ``torch.distributed.checkpoint``; or DeepSpeed's universal
            checkpoint. Nothing in them is executed.
        module: the model whose parameters it is of; its weights play no part.

    Raises:
        UserError: another form, shards that need a tool first, or a damaged file.
    """
    where = str(path)
    if path.suffix == ".safetensors" or (path.is_dir() and shards(path)):
        return State(read_moments(path, module), [BY_NAME])
    if path.is_dir() and is_sharded(path):
        return state_of(read_sharded(path), module, where)
    if path.is_dir() and is_universal(path):
        return state_of(read_universal(path, module), module, where)
    refuse_shards(path)
    if path.is_dir():
        inside = [name for name in _USUAL if (path / name).exists()]
        raise UserError(
            "holds no safetensors file, and no state of FSDP or DeepSpeed",
            where=where,
            fix=f"set model.optimizer_state={path / inside[0]}" if inside else NAME_KEYED,
        )
    if _ONE_RANK.search(path.name):
        raise UserError(
            "is what one of several processes keeps",
            where=where,
            fix="save the state with FULL_STATE_DICT, or into a folder with "
            "torch.distributed.checkpoint",
        )
    state = state_of(_load(path), module, where)
    copied = {
        name: {
            field: value.clone() if isinstance(value, Tensor) else value
            for field, value in fields.items()
        }
        for name, fields in state.moments.items()
    }
    return State(copied, state.optimizers, state.without)


def _load(path: Path) -> Any:
    """What torch saved; tensors that nobody asks for stay on the disk where the format allows."""
    try:
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # torch raises many kinds for a file that is not what it expects
        raise UserError(
            f"cannot be read as a torch optimizer state ({first_line(error)})",
            where=str(path),
            fix=NAME_KEYED,
        ) from error
