"""States of DeepSpeed: a universal checkpoint is read, and shards of ZeRO are told how to be one.

A universal checkpoint has a folder ``zero/PARAMETER/`` for each parameter, with a file for each
thing that the optimizer keeps of it. Source: DeepSpeed's ``checkpoint/ds_to_universal.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError, first_line
from bench.models.moment_files import STEP
from bench.models.parameter_names import bare_name, own_names
from bench.models.states.kinds import NEEDED

_UNIVERSAL = "zero"
_WEIGHT = "fp32"  # the parameter itself
_VALUE = "param"  # the key of a file's tensor
_SHARDS = ("*zero_pp_rank_*", "*_optim_states.pt")


def is_universal(folder: Path) -> bool:
    """Whether a folder is a universal checkpoint."""
    return any((folder / _UNIVERSAL).glob(f"*/{_WEIGHT}.pt"))


def refuse_shards(path: Path) -> None:
    """Refuse a shard of ZeRO, and a folder of such, with the command that makes a whole of them.

    Raises:
        UserError: it is one.
    """
    folder = path if path.is_dir() else path.parent
    steps = sorted(path.glob("global_step*")) if path.is_dir() else []
    names = [path.name] if path.is_file() else [file.name for file in path.iterdir()]
    if steps or any(Path(name).match(pattern) for name in names for pattern in _SHARDS):
        raise UserError(
            "is a state of DeepSpeed's ZeRO in shards",
            where=str(path),
            fix="set model.optimizer_state=OUT after python -m deepspeed.checkpoint.ds_to_universal"
            f" --input_folder {steps[-1] if steps else folder} --output_folder OUT "
            "(zero_to_fp32.py makes weights alone)",
        )


def read_universal(folder: Path, module: nn.Module) -> dict[str, Any]:
    """A universal checkpoint as a ``state_dict`` whose ids are names; nothing in it is executed.

    Raises:
        UserError: a file cannot be read.
    """
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    own = own_names(shapes)
    state: dict[str, dict[str, Any]] = {}
    for file in sorted((folder / _UNIVERSAL).glob("*/*.pt")):
        name, field = file.parent.name, file.stem
        fields = state.setdefault(name, {})
        if field == _WEIGHT:
            continue
        if field not in NEEDED:
            fields[field] = True
            continue
        value = _read(file)
        shape = shapes.get(own.get(bare_name(name), ""))
        if field != STEP and shape is not None and value.numel() == shape.numel():
            value = value.reshape(shape)  # of ZeRO's stage 3 they lie flat
        fields[field] = value
    return {"state": state, "param_groups": [{"params": list(state)}]}


def _read(file: Path) -> Any:
    try:
        value = torch.load(file, map_location="cpu", weights_only=True)
        value = value[_VALUE] if isinstance(value, dict) else value
        if not isinstance(value, Tensor | int | float):
            raise TypeError(f"holds {type(value).__name__}")
    except Exception as error:  # torch raises many kinds for a file that is not what it expects
        raise UserError(
            f"cannot be read as a file of a universal checkpoint ({first_line(error)})",
            where=str(file),
            fix="make it again with deepspeed.checkpoint.ds_to_universal",
        ) from error
    return value
