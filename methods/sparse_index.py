"""One sparse vector a passage on disk: written once in chunks, then memory-mapped.

Layout of an index folder: ``starts.npy`` (where each passage begins, int64 ``[passages + 1]``),
``dims.bin`` and ``weights.bin`` (the dimensions that are not 0, int32, and their values, float32)
and ``index.json``, their sidecar, written last. The folder's name is a key of everything that moves
a vector.
"""

from __future__ import annotations

import json
import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import progress
from bench.errors import UserError
from bench.passages import PassageStore
from bench.storage import file_sha256, map_array, whole_folder

CHUNK = 4096  # passages embedded together: sorted by length they need little padding
_STARTS, _DIMS, _WEIGHTS, _SIDECAR = "starts.npy", "dims.bin", "weights.bin", "index.json"


@dataclass(frozen=True)
class SparseRows:
    """Vectors side by side.

    Attributes:
        starts: where each begins, int64 ``[vectors + 1]``.
        dims, weights: int32 and float32 ``[entries]``.
    """

    starts: np.ndarray
    dims: np.ndarray
    weights: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.starts.nbytes + self.dims.nbytes + self.weights.nbytes

    def block(self, start: int, stop: int, width: int) -> Tensor:
        """Vectors ``start`` to ``stop``: sparse float64 ``[stop - start, width]``."""
        entries = slice(int(self.starts[start]), int(self.starts[stop]))
        row = np.repeat(np.arange(stop - start), np.diff(self.starts[start : stop + 1]))
        places = torch.from_numpy(np.stack([row, self.dims[entries].astype(np.int64)]))
        values = torch.from_numpy(self.weights[entries].astype(np.float64))
        return torch.sparse_coo_tensor(
            places, values, (stop - start, width), is_coalesced=True, check_invariants=False
        )


@dataclass(frozen=True)
class SparseIndex:
    """The vectors of a corpus, memory-mapped; counts and seconds of the run that embedded it."""

    rows: SparseRows
    counts: dict[str, int]
    seconds: float


Embed = Callable[[list[str]], tuple[SparseRows, Mapping[str, int]]]


def open_or_embed(folder: Path, passages: PassageStore, embed: Embed) -> SparseIndex:
    """The index in ``folder``, which is embedded first if there is none.

    Args:
        embed: called with at most ``CHUNK`` texts, in the order of rows.

    Raises:
        UserError: the index is there, but its files are not what was written.
    """
    if not folder.exists():
        with whole_folder(folder) as partial:
            _write(partial, passages, embed)
    return _open(folder, len(passages))


def _write(folder: Path, passages: PassageStore, embed: Embed) -> None:
    began = time.perf_counter()
    starts, counts = array("q", [0]), Counter[str]()
    with open(folder / _DIMS, "wb") as dims, open(folder / _WEIGHTS, "wb") as weights:
        firsts = range(0, len(passages), CHUNK)
        for first in progress.track(firsts, "embed passages", unit=f"chunks of {CHUNK}"):
            texts = [passage.text for passage in passages.slice(first, first + CHUNK)]
            rows, counted = embed(texts)
            starts.extend((rows.starts[1:] + starts[-1]).tolist())
            dims.write(rows.dims.astype(np.int32).tobytes())
            weights.write(rows.weights.astype(np.float32).tobytes())
            counts.update(counted)
    np.save(folder / _STARTS, np.array(starts, dtype=np.int64), allow_pickle=False)
    sidecar = {
        "counts": counts,
        "seconds": round(time.perf_counter() - began, 3),
        "sha256": _hashes(folder),
    }
    (folder / _SIDECAR).write_text(json.dumps(sidecar), encoding="utf-8")


def _hashes(folder: Path) -> dict[str, str]:
    return {name: file_sha256(folder / name) for name in (_STARTS, _DIMS, _WEIGHTS)}


def _open(folder: Path, n_passages: int) -> SparseIndex:
    try:
        sidecar = json.loads((folder / _SIDECAR).read_text(encoding="utf-8"))
        # A changed number is still a number, and would quietly be a wrong score.
        sound = sidecar["sha256"] == _hashes(folder)
        starts = map_array(folder / _STARTS)
        sound = sound and len(starts) == n_passages + 1
        n_entries = int(starts[-1])
        dims, weights = (
            np.memmap(folder / name, dtype, "r") if n_entries else np.zeros(0, dtype)
            for name, dtype in ((_DIMS, np.int32), (_WEIGHTS, np.float32))
        )
        index = SparseIndex(
            SparseRows(np.asarray(starts), dims, weights),
            dict(sidecar["counts"]),
            float(sidecar["seconds"]),
        )
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError(
            "damaged index of embeddings",
            where=str(folder),
            fix="delete this folder and run again",
        )
    return index
