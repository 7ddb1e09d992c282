"""Arrays in one sealed file: it says what it is, where it belongs, and what its bytes hash to.

The file is a safetensors file, whose metadata hold the seal; any reader of that format opens it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bench.storage.keys import content_key
from bench.storage.sealed import DamagedError
from bench.storage.whole_files import whole_file

_FORMAT = 1
_NAMES = 8  # bytes of a safetensors file that say how long its header is


def write_arrays(
    path: Path, kind: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any] | None = None
) -> None:
    """Write arrays as a sealed file.

    Args:
        kind: what the file is, in the words of messages.
        arrays: arrays by name, of numbers or booleans.
        facts: what else the file says; a JSON object.

    Raises:
        UserError: the disk does not take it.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    record = {
        "format": _FORMAT,
        "kind": kind,
        "place": _place(path),
        "facts": dict(facts or {}),
        "sha256": arrays_sha256(whole),
    }
    text = json.dumps({**record, "seal": content_key(record, length=64)})
    with whole_file(path, "wb") as stream:
        stream.write(save(whole, metadata={"sealed": text}))


def read_arrays(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the facts of a sealed file.

    Raises:
        DamagedError: the file is not what was written, or was written for another place.
    """
    try:
        content = path.read_bytes()
        record = json.loads(_metadata(content)["sealed"])
        sealed = record.pop("seal") == content_key(record, length=64)
        own = (record["format"], record["kind"], record["place"]) == (_FORMAT, kind, _place(path))
        arrays = load(content) if sealed and own else {}
        sound = sealed and own and arrays_sha256(arrays) == record["sha256"]
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError,
    ) as error:  # fmt: skip
        raise DamagedError(kind, path, f"{path.name} is no sealed file", noun="file") from error
    if not sound:
        fault = "belongs elsewhere" if sealed and not own else "holds other bytes than were written"
        raise DamagedError(kind, path, f"{path.name} {fault}", noun="file")
    return arrays, record["facts"]


def _place(path: Path) -> str:
    """What says where the file belongs: the names of its folder and of itself."""
    return f"{path.parent.name}/{path.name}"


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:_NAMES], "little")
    return json.loads(content[_NAMES : _NAMES + length])["__metadata__"]


def arrays_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of all names, dtypes, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        # A view where it can be: a copy of gigabytes would be one too many.
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
