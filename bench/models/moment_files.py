"""Second moments by parameter name, in a safetensors file or a folder of several.

The keys are ``PARAMETER.FIELD``. A matrix has ``exp_avg_sq_row`` and ``exp_avg_sq_col``, as
Adafactor keeps them, or ``exp_avg_sq``, as everything else has. An ``exp_avg_sq`` is V itself and
is used as it is, unless a ``step`` stands beside it: then it is Adam's running mean after so many
steps, still to be corrected for its start at zero, with the ``beta2`` beside it if there is one. So
the correction is made once, whoever wrote the file. A folder holds each parameter in exactly one
file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.storage.hashes import file_sha256
from bench.storage.keys import content_key

ROW, COL, FULL = "exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"
STEP, BETA2 = "step", "beta2"
FLOOR = "floor"  # the least V that an optimizer divides by: of torch's own Adafactor alone

# What is known of a parameter's second moments: tensors by ROW and COL or FULL, numbers by others.
Fields = dict[str, Any]

NAME_KEYED = (
    f"write a safetensors file with '<parameter name>.{ROW}' and '.{COL}' (Adafactor) or "
    f"'<parameter name>.{FULL}' (Adam: with '.{STEP}') and set model.optimizer_state to it"
)


def write_moments(state: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write what a state has of each parameter's second moments: ``{parameter name: fields}``.

    The step and β2 go with an ``exp_avg_sq`` where both are given, as for Adam.
    """
    tensors: dict[str, Tensor] = {}
    for name, fields in state.items():
        numbers = [FLOOR] if FLOOR in fields else []
        for field in (ROW, COL, FULL):
            if fields.get(field) is not None:
                tensors[f"{name}.{field}"] = fields[field].detach().cpu().contiguous().clone()
        if fields.get(FULL) is not None and fields.get(BETA2) is not None:
            numbers += [STEP, BETA2]
        for field in numbers:
            number = float(fields[field])
            tensors[f"{name}.{field}"] = torch.tensor(number, dtype=torch.float64)
    save_file(tensors, path)


def read_moments(path: Path, module: nn.Module) -> dict[str, Fields]:
    """The fields of each parameter that a file names, or a folder.

    Args:
        path: the file or the folder.
        module: the model, of which a folder must hold every parameter: a file may be missing.

    Raises:
        UserError: a file that is none, a key that is no second moment, or a folder that does not
            hold each parameter once.
    """
    return _read_folder(path, module) if path.is_dir() else _read_file(path)


def sha256_of(path: Path) -> str:
    """Hash of a state's file, or of all files of its folder, wherever they are.

    Of a folder with safetensors these are all; of another, every file below it.
    """
    if path.is_file():
        return file_sha256(path)
    files = shards(path) or sorted(file for file in path.rglob("*") if file.is_file())
    named = [[file.relative_to(path).as_posix(), file_sha256(file)] for file in files]
    return content_key(named, length=64)


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a folder."""
    return sorted(folder.glob("*.safetensors"))


def _read_folder(folder: Path, module: nn.Module) -> dict[str, Fields]:
    """The moments of all files; an index beside them says nothing that their keys do not."""
    files = shards(folder)
    state: dict[str, Fields] = {}
    file_of: dict[str, Path] = {}
    for file in files:
        for name, fields in _read_file(file).items():
            if name in state:
                raise UserError(
                    f"parameter {name} is also in {file_of[name].name}",
                    where=str(file),
                    fix="leave each parameter in one file",
                )
            state[name], file_of[name] = fields, file
    for name, _ in module.named_parameters():
        if name not in state:
            raise UserError(
                f"parameter {name} is in none of its {len(files)} safetensors files",
                where=str(folder),
                fix="is a file missing? each parameter of the model must be in one",
            )
    return state


def _read_file(path: Path) -> dict[str, Fields]:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"not a safetensors file ({error})", where=str(path)) from error
    return keyed_fields(tensors, str(path))


def keyed_fields(tensors: Mapping[str, Tensor], where: str) -> dict[str, Fields]:
    """The fields of each parameter, from tensors by ``PARAMETER.FIELD``.

    Args:
        tensors: what such a file holds.
        where: its place, for messages.

    Raises:
        UserError: a key that is no second moment.
    """
    state: dict[str, Fields] = {}
    for key, tensor in tensors.items():
        name, _, field = key.rpartition(".")
        if field in (STEP, BETA2, FLOOR) and tensor.numel() == 1:
            state.setdefault(name, {})[field] = float(tensor)
        elif field in (ROW, COL, FULL):
            state.setdefault(name, {})[field] = tensor
        else:
            raise UserError(f"key {key!r} is no second moment", where=where, fix=NAME_KEYED)
    return state
