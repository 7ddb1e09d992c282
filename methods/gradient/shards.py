"""One shard of an index: its file, its sealed sidecar, and how it is made, here or elsewhere.

A shard is named by a hash of the texts in it, and what is in it depends on nothing else but the
features' key: whoever makes it, and however often, writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.errors import UserError
from bench.engines.base import Job
from bench.storage.arrays import map_array
from bench.storage.disk import disk_errors
from bench.storage.hashes import file_sha256, hashed_file
from bench.storage.keys import content_key
from bench.storage.sealed import DamagedError, read_record, write_record
from bench.storage.whole_files import whole_file
from methods.gradient.codecs import Codec, make_codec
from methods.gradient.settings import Storage

if TYPE_CHECKING:
    from bench.storage.mirror import Mirror
    from methods.gradient.recipes import EncoderRecipe
    from methods.gradient.source import EncodedFeatures

COUNTED = ("passages_truncated", "passages_without_loss")
_KIND = "shard of an index"
_SECONDS = "seconds.jsonl"


@dataclass(frozen=True)
class ShardWriter:
    """Makes the shards of one storage format.

    Attributes:
        folder: of all features of this key; a format has a folder below it.
        recipe: of the encoder, for other processes.
        mirror: the copy of the cache in a store; what is written is kept there, too.
        source: the encoder, where it is at hand; it is not sent along.
    """

    folder: Path
    storage: Storage
    dim: int
    recipe: EncoderRecipe
    mirror: Mirror
    source: EncodedFeatures | None = field(compare=False)

    def __reduce__(self) -> tuple:
        parts = (self.folder, self.storage, self.dim, self.recipe, self.mirror)
        return ShardWriter, (*parts, None)

    @property
    def key(self) -> str:
        """Of the features; a shard with another key is refused."""
        return self.recipe.key

    def path(self, texts: list[str]) -> Path:
        """Where the shard of these passages is, or will be."""
        return self._folder(self.storage) / _file_name(_texts_sha256(texts))

    def job(self, path: Path, rows: range) -> Job:
        """The job that makes a shard. Its sidecar is written last: without it there is no shard."""
        return Job(ShardWriter.write, (self, path, rows), path.with_suffix(".json"))

    def write(self, path: Path, rows: range) -> None:
        """Encode some passages, or translate them from full precision; the sidecar comes last.

        A shard that another machine has finished by now is brought instead.
        """
        if self.mirror.holds(path.with_suffix(".json")):
            self._brought(path)
            return
        began = time.perf_counter()
        texts = [p.text for p in self.recipe.passages.slice(rows.start, rows.stop)]
        texts_sha256 = _texts_sha256(texts)
        if _file_name(texts_sha256) != path.name:
            raise UserError(
                "the passages have changed since the run began",
                where=str(self.recipe.passages.folder),
                fix="delete this folder and run again",
            )
        codec, exact_path = self._codec(self.storage), self._folder(Storage.fp32) / path.name
        exact = read_sidecar(exact_path, self.key) if exact_path != path else None
        if exact is not None:
            features = self._codec(Storage.fp32).decode(map_array(exact_path))
            counted = {name: exact[name] for name in COUNTED}
        else:
            features, counted = (self.source or self.recipe.opened()).encode(texts)
        stored = codec.encode(features)
        with hashed_file(path) as hashed:
            np.save(hashed, stored, allow_pickle=False)  # type: ignore[arg-type] # asks for write
        sidecar = {
            "key": self.key,
            "file": path.name,
            "storage": self.storage.value,
            "dim": codec.dim,
            "rows": len(rows),
            "texts_sha256": texts_sha256,
            "dtype": str(stored.dtype),
            "bytes_per_row": codec.bytes_per_row,
            "sha256": hashed.sha256,
            **counted,
        }
        _log_seconds(path, time.perf_counter() - began)
        write_record(path.with_suffix(".json"), _KIND, sidecar)
        self._keep(path)

    def shared(self, path: Path, held: frozenset[str]) -> dict[str, Any] | None:
        """The sidecar of a finished shard, which is then both here and in the store.

        Args:
            held: names of the files in the store.

        Raises:
            UserError: the shard is damaged, here or there, or was made with other settings.
        """
        sidecar = read_sidecar(path, self.key)
        in_store = path.with_suffix(".json").name in held
        if sidecar is not None and not in_store:
            self._keep(path)
        return self._brought(path) if sidecar is None and in_store else sidecar

    def _brought(self, path: Path) -> dict[str, Any] | None:
        sidecar_path = path.with_suffix(".json")
        content = self.mirror.read(sidecar_path)
        try:
            self.mirror.bring(path, _stored_name(path, content))
            with whole_file(sidecar_path, "wb") as stream:
                stream.write(content)
            return read_sidecar(path, self.key)
        except (UserError, ValueError, KeyError, TypeError, RecursionError) as error:
            for file in (path, sidecar_path):
                file.unlink(missing_ok=True)
            if isinstance(error, UserError) and isinstance(error.__cause__, OSError):
                raise  # the store cannot be reached, or the disk is full
            raise UserError(
                "foreign or damaged index shard in the store",
                where=f"{self.mirror.url}: {sidecar_path.name}",
                fix="delete it there and run again",
            ) from error

    def _keep(self, path: Path) -> None:
        sidecar_path = path.with_suffix(".json")
        if self.mirror.url is not None:
            self.mirror.keep(path, _stored_name(path, sidecar_path.read_bytes()))
            self.mirror.keep(sidecar_path)

    def _folder(self, storage: Storage) -> Path:
        return self.folder / storage.value

    def _codec(self, storage: Storage) -> Codec:
        return make_codec(storage, self.dim, weighted=self.recipe.config.passage_weight)


def _stored_name(path: Path, sidecar: bytes) -> str:
    """A shard's name in a store, with its content in it: no other content is written over it.

    Other numbers of threads may make other last bits (docs/engines.md); the sidecar says which.
    """
    sha256 = json.loads(sidecar)["sha256"]
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError("no hash")
    return f"{path.stem}.{sha256[:16]}{path.suffix}"


def read_sidecar(path: Path, key: str) -> dict[str, Any] | None:
    """The sidecar of a finished shard whose bytes are what it says; None if there is none yet.

    Bytes that this process wrote, or has checked, are not read again unless the file has changed.

    Raises:
        UserError: the shard is damaged, or was made with other settings.
    """
    sidecar_path = path.with_suffix(".json")
    if not sidecar_path.exists():
        return None
    try:
        sidecar = read_record(sidecar_path, _KIND)
        # The name says which texts the rows are of.
        sound = sidecar["key"] == key and _file_name(sidecar["texts_sha256"]) == path.name
        sound = sound and file_sha256(path) == sidecar["sha256"]
    except (DamagedError, OSError):
        sound = False
    if not sound:
        raise UserError(
            "foreign or damaged index shard",
            where=str(path),
            fix="delete this folder and run again",
        )
    return sidecar


def read_seconds(folder: Path) -> dict[str, float]:
    """Seconds that each shard took; lines that are damaged or half written do not count."""
    seconds = {}
    path = folder / _SECONDS
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            record = json.loads(line)
            if record.pop("check") == content_key(record):
                seconds[record["file"]] = float(record["seconds"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return seconds


def _log_seconds(path: Path, seconds: float) -> None:
    """One short write at the end of the file, so that lines of several processes do not mix."""
    log, record = path.with_name(_SECONDS), {"file": path.name, "seconds": round(seconds, 3)}
    with disk_errors(log), open(log, "a", encoding="utf-8") as stream:
        stream.write(json.dumps({**record, "check": content_key(record)}) + "\n")


def _file_name(texts_sha256: str) -> str:
    return f"shard-{texts_sha256[:32]}.npy"


def _texts_sha256(texts: list[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))  # so that no two lists run together
        digest.update(data)
    return digest.hexdigest()
