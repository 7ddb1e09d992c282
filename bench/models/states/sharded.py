"""States of FSDP in a folder of ``torch.distributed.checkpoint``: ``.metadata`` and ``*.distcp``.

torch's own reader unpickles ``.metadata``, which can run code. Here it is read as the data that it
spells (``bench.models.states.opcodes``), and each shard with ``weights_only=True``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.core.errors import UserError, first_line
from bench.models.states.kinds import NEEDED
from bench.models.states.opcodes import Record, UnreadableError, as_data
from bench.storage.bounds import MOST_JSON_BYTES, read_bytes

METADATA = ".metadata"
_LISTS = frozenset({"param_groups"})  # what a state has a list of, and not a dictionary
_STATE = "state"
_UNREAD = True  # in place of a tensor of which it is enough that it is there


def is_sharded(folder: Path) -> bool:
    """Whether a folder is a checkpoint of ``torch.distributed.checkpoint``."""
    return (folder / METADATA).is_file()


def read_sharded(folder: Path) -> dict[str, Any]:
    """The dictionary that was saved into a folder, with the tensors that moments are read from.

    Of other tensors of a parameter's state, such as ``exp_avg``, only the names are kept.

    Raises:
        UserError: the folder is not as torch writes it, or a shard is missing or damaged.
    """
    try:
        metadata = as_data(read_bytes(folder / METADATA, MOST_JSON_BYTES))
        paths, kinds, stored = (
            metadata.state[name] for name in ("planner_data", "state_dict_metadata", "storage_data")
        )
        places: dict[str, list[tuple[Any, Record]]] = {}
        for index, info in stored.items():
            places.setdefault(index.state["fqn"], []).append((index, info))
        whole: dict[str, Any] = {}
        for key, path in paths.items():
            _put(whole, path, _value(folder, path, kinds[key].state, places[key]))
    except (
        UnreadableError, OSError, KeyError, TypeError, AttributeError, ValueError, IndexError,
        RuntimeError, EOFError,
    ) as error:  # fmt: skip
        raise UserError(
            f"cannot be read as a folder of torch.distributed.checkpoint ({first_line(error)})",
            where=str(folder),
            fix="make one file of it, where you trust it: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} state.pt",
        ) from error
    return _listed(whole)


def _value(folder: Path, path: tuple[Any, ...], kind: Any, places: list[tuple[Any, Record]]) -> Any:
    """One value: a tensor put together from its shards, or what a shard holds as it is."""
    if _STATE in path and path[-1] not in NEEDED:
        return _UNREAD
    if not isinstance(kind, Mapping):
        return _shard(folder, places[0][1])
    size = _numbers(kind["size"])
    parts = [(_numbers(index.state["offset"]), _shard(folder, info)) for index, info in places]
    if sum(part.numel() for _, part in parts) != math.prod(size):
        raise UnreadableError(f"the shards of {'.'.join(map(str, path))} are not all there")
    tensor = torch.empty(size, dtype=parts[0][1].dtype)
    for offset, part in parts:
        here = tensor
        for dimension, (start, length) in enumerate(zip(offset, part.shape, strict=True)):
            here = here.narrow(dimension, start, length)
        here.copy_(part)
    return tensor


def _shard(folder: Path, info: Record) -> Any:
    """What stands at one place of one file; nothing in it is executed."""
    name, compressed = info.state["relative_path"], info.state.get("transform_descriptors")
    if Path(name).name != name or compressed:
        raise UnreadableError(f"{name!r:.80} is no plain file of the folder")
    with open(folder / name, "rb") as stream:
        stream.seek(info.state["offset"])
        content = io.BytesIO(stream.read(info.state["length"]))
    value = torch.load(content, map_location="cpu", weights_only=True)
    return value.detach() if isinstance(value, Tensor) else value


def _numbers(size: Record) -> tuple[int, ...]:
    """The numbers of a ``torch.Size``."""
    (numbers,) = size.arguments
    return tuple(map(int, numbers))


def _put(whole: dict[Any, Any], path: tuple[Any, ...], value: Any) -> None:
    *above, last = path
    for part in above:
        whole = whole.setdefault(part, {})
    whole[last] = value


def _listed(whole: dict[Any, Any]) -> dict[Any, Any]:
    """The dictionary with lists where the places of a list were keys."""
    for key, value in whole.items():
        if isinstance(value, dict):
            inner = _listed(value)
            whole[key] = [inner[at] for at in sorted(inner)] if key in _LISTS else inner
    return whole
