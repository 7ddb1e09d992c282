"""Raw projected gradients of the corpus in memory-mapped shards.

What is stored does not depend on Hessian, mixing or norm, so methods that differ in these share one
index. A shard is named by a hash of the texts in it: a corpus that grew at its end encodes only
what is new, and corpora that begin alike share what they have in common.

Layout, below a folder for each feature key: ``fp32/``, ``bf16/``, ``int8/``, ``sign/``, each with

- ``shard-HASH.npy``: an array ``[rows, width]`` of one storage format;
- ``shard-HASH.json``: its sidecar, written last: without it there is no shard, so a run that dies
  goes on where it stopped;
- ``corpus-HASH.json``: the manifest of a corpus, which says what its rows are and what was encoded;
- ``seconds.jsonl``: what each shard took. All other bytes are the same however often a run died.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench import progress
from bench.errors import UserError
from bench.storage import content_key, exclusive, file_sha256, map_array, whole_file
from methods.gradient.codecs import Codec, Storage, make_codec
from methods.gradient.source import FeatureSource

if TYPE_CHECKING:
    from collections import Counter

    from methods.gradient.source import EncodedFeatures

SHARD_ROWS = 2048  # fewer are lost when a run dies, and a shard of 2^16 dims has 512 MiB in fp32
_SHARD_VALUES = 2**27  # the most features of a shard, which is in memory while it is encoded
_SCHEMA_VERSION = 1
_SEAL = "seal"  # of a sidecar: a hash of all that it says
_COUNTED = ("passages_truncated", "passages_without_loss")


@dataclass(frozen=True)
class GradientIndex(FeatureSource):
    """The finished shards of one corpus.

    Attributes:
        folder: where they are.
        codec: reads them.
        shards: as in the manifest: file, first row, rows.
        seconds: what encoding took when it was done, all runs together.
    """

    folder: Path
    codec: Codec
    shards: list[dict[str, Any]]
    seconds: float
    _first_rows: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        first_rows = np.array([shard["first_row"] for shard in self.shards])
        object.__setattr__(self, "_first_rows", first_rows)

    @property
    def n_rows(self) -> int:
        """Passages."""
        return self.shards[-1]["first_row"] + self.shards[-1]["rows"]

    @property
    def bytes(self) -> int:
        """Bytes of features on disk."""
        return sum(path.stat().st_size for path in {self.folder / s["file"] for s in self.shards})

    def n_blocks(self, rows_at_once: int) -> int:
        """How many blocks ``blocks`` streams: a block never spans two shards."""
        return sum(-(-shard["rows"] // rows_at_once) for shard in self.shards)

    def blocks(self, rows_at_once: int) -> Iterator[tuple[int, Tensor]]:
        """Stream (first row, float32 features ``[rows, dim]``) in row order."""
        for shard in self.shards:
            stored = map_array(self.folder / shard["file"])
            for start in range(0, shard["rows"], rows_at_once):
                part = self.codec.decode(stored[start : start + rows_at_once])
                yield shard["first_row"] + start, part

    def rows(self, rows: np.ndarray) -> Tensor:
        """Float32 features ``[len(rows), dim]`` of ascending rows."""
        found = torch.empty(len(rows), self.codec.dim)
        place = np.searchsorted(self._first_rows, rows, side="right") - 1
        for number in np.unique(place):
            inside = np.flatnonzero(place == number)
            stored = map_array(self.folder / self.shards[number]["file"])
            found[inside] = self.codec.decode(stored[rows[inside] - self._first_rows[number]])
        return found


@dataclass(frozen=True)
class IndexBuilder:
    """Encodes a corpus into shards, leaving out those that are done.

    Attributes:
        folder: of all features of this key.
        key: hash of ``settings``; a shard with another key is refused.
        settings: everything that the features depend on, for the manifest.
        storage: format; full-precision shards that are there already are translated, not encoded.
        source: encodes passages.
        corpus_sha256: names the manifest.
    """

    folder: Path
    key: str
    settings: dict[str, Any]
    storage: Storage
    source: EncodedFeatures
    corpus_sha256: str

    def build(self, counts: Counter[str]) -> GradientIndex:
        """Encode what is not encoded yet.

        Args:
            counts: gets ``passages_truncated`` and ``passages_without_loss``.

        Raises:
            UserError: the folder holds a foreign or damaged shard, or the disk is full.
        """
        folder = self._folder(self.storage)
        with exclusive(folder):
            shards = [self._shard(first, number) for first, number in self._plan()]
            self._write_manifest(shards)
        for name in _COUNTED:
            counts[name] += sum(shard[name] for shard in shards)
        seconds = _seconds(folder)
        spent = sum(seconds.get(name, 0.0) for name in {shard["file"] for shard in shards})
        return GradientIndex(folder, self._codec(self.storage), shards, spent)

    def _folder(self, storage: Storage) -> Path:
        return self.folder / storage.value

    def _codec(self, storage: Storage) -> Codec:
        return make_codec(storage, self.source.dim)

    def _plan(self) -> Iterator[tuple[int, int]]:
        """First row and number of rows of each shard."""
        rows = max(1, min(SHARD_ROWS, _SHARD_VALUES // self.source.dim))
        starts = range(0, self.source.n_rows, rows)
        for start in progress.track(starts, "encode passages", unit=f"shards of {rows:,}"):
            yield start, min(rows, self.source.n_rows - start)

    def _shard(self, first_row: int, n_rows: int) -> dict[str, Any]:
        texts = self.source.texts(range(first_row, first_row + n_rows))
        name = f"shard-{_texts_sha256(texts)[:32]}.npy"
        path = self._folder(self.storage) / name
        sidecar = read_sidecar(path, self.key) or self._make(path, texts)
        return {"first_row": first_row, **sidecar}

    def _make(self, path: Path, texts: list[str]) -> dict[str, Any]:
        """Encode, or translate from full precision; the sidecar comes last."""
        began = time.perf_counter()
        codec, exact_path = self._codec(self.storage), self._folder(Storage.fp32) / path.name
        exact = read_sidecar(exact_path, self.key) if exact_path != path else None
        if exact is not None:
            features = self._codec(Storage.fp32).decode(map_array(exact_path))
            counted = {name: exact[name] for name in _COUNTED}
        else:
            features, counted = self.source.encode(texts)
        stored = codec.encode(features)
        with whole_file(path, "wb") as stream:
            np.save(stream, stored, allow_pickle=False)
        sidecar = {
            "key": self.key,
            "file": path.name,
            "storage": self.storage.value,
            "dim": codec.dim,
            "rows": len(texts),
            "dtype": str(stored.dtype),
            "bytes_per_row": codec.bytes_per_row,
            "sha256": file_sha256(path),
            **counted,
        }
        self._log(path, time.perf_counter() - began)
        with whole_file(path.with_suffix(".json")) as stream:
            json.dump({**sidecar, _SEAL: content_key(sidecar)}, stream)
        return sidecar

    def _log(self, path: Path, seconds: float) -> None:
        with open(path.with_name("seconds.jsonl"), "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"file": path.name, "seconds": round(seconds, 3)}) + "\n")

    def _write_manifest(self, shards: list[dict[str, Any]]) -> None:
        manifest = {
            "schema_version": _SCHEMA_VERSION,
            "key": self.key,
            "settings": self.settings,
            "corpus_sha256": self.corpus_sha256,
            "storage": self.storage.value,
            "rows": self.source.n_rows,
            "dim": self.source.dim,
            "layout": asdict(self.source.encoder.layout),
            "shards": shards,
        }
        name = f"corpus-{content_key(self.corpus_sha256)}.json"
        with whole_file(self._folder(self.storage) / name) as stream:
            json.dump(manifest, stream, indent=1)


def read_sidecar(path: Path, key: str) -> dict[str, Any] | None:
    """The sidecar of a finished shard whose bytes are what it says; None if there is none yet.

    Raises:
        UserError: the shard is damaged, or was made with other settings.
    """
    sidecar_path = path.with_suffix(".json")
    if not sidecar_path.exists():
        return None
    try:
        sidecar: dict[str, Any] = json.loads(sidecar_path.read_text(encoding="utf-8"))
        seal = sidecar.pop(_SEAL)
        sound = seal == content_key(sidecar) and sidecar["key"] == key
        sound = sound and file_sha256(path) == sidecar["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(
            "foreign or damaged index shard",
            where=str(path),
            fix="delete this folder and run again",
        )
    return sidecar


def _texts_sha256(texts: list[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))  # so that no two lists run together
        digest.update(data)
    return digest.hexdigest()


def _seconds(folder: Path) -> dict[str, float]:
    """What each shard took; lines that a killed run left half written do not count."""
    found = {}
    path = folder / "seconds.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            found[record["file"]] = float(record["seconds"])
        except (ValueError, TypeError, KeyError):
            continue
    return found
