"""Raw projected gradients of the corpus in memory-mapped shards.

What is stored does not depend on Hessian, mixing or norm, so methods that differ in these share one
index. A shard is named by a hash of the texts in it: a corpus that grew at its end encodes only
what is new, and corpora that begin alike share what they have in common. Shards are jobs of the
run's engine (``shards.py``): where and in which order they are made changes none of their bytes.

Layout, below a folder for each feature key: ``fp32/``, ``bf16/``, ``int8/``, ``sign/``, each with

- ``shard-HASH.npy``: an array ``[rows, width]`` of one storage format;
- ``shard-HASH.json``: its sidecar, written last. Without it there is no shard, so a run that dies
  goes on where it stopped;
- ``corpus-HASH.json``: the manifest of a corpus, which says what its rows are and what was encoded;
- ``seconds.jsonl``: the time that each shard took. All other bytes are the same, however often a
  run died.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.core import progress
from bench.engines.outcomes import in_own_order
from bench.storage.arrays import map_array
from bench.storage.keys import content_key
from bench.storage.locks import exclusive
from bench.storage.whole_files import whole_file
from methods.gradient import groups
from methods.gradient.codecs import Codec, make_codec
from methods.gradient.device_copies import copied_ahead
from methods.gradient.settings import Storage
from methods.gradient.shards import COUNTED, ShardWriter, read_seconds
from methods.gradient.source import BYTES_READ, FeatureSource

if TYPE_CHECKING:
    from bench.engines import Engine
    from bench.engines.base import Job
    from bench.storage.mirror import Mirror
    from methods.gradient.recipes import EncoderRecipe
    from methods.gradient.source import EncodedFeatures

SHARD_ROWS = 2048  # fewer are lost when a run dies, and a shard of 2^16 dims has 512 MiB in fp32
_SHARD_VALUES = 2**27  # the most features of a shard, which is in memory while it is encoded
_SCHEMA_VERSION = 1


def shard_rows(dim: int) -> int:
    """Number of passages in a shard, but the last, where a row has ``dim`` dimensions."""
    return max(1, min(SHARD_ROWS, _SHARD_VALUES // dim))


@dataclass(frozen=True)
class GradientIndex(FeatureSource):
    """The finished shards of one corpus, or a group of them.

    Attributes:
        shards: records of the manifest: file, SHA-256, first row, rows.
        seconds: time that encoding took, all runs and processes together; None if that is not known
            of every shard.
        counts: receives ``index_bytes_read``, of whatever is read of the shards.
    """

    folder: Path
    codec: Codec
    shards: list[dict[str, Any]]
    seconds: float | None
    counts: Counter[str] = field(default_factory=Counter)
    span: range = field(init=False)
    _first_rows: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        first_rows = np.array([shard["first_row"] for shard in self.shards])
        object.__setattr__(self, "_first_rows", first_rows)
        stop = self.shards[-1]["first_row"] + self.shards[-1]["rows"]
        object.__setattr__(self, "span", range(self.shards[0]["first_row"], stop))

    @cached_property
    def identity(self) -> Any:
        """What is stored, in which format."""
        stored = [[shard["sha256"], shard["rows"]] for shard in self.shards]
        return content_key([vars(self.codec), type(self.codec).__name__, stored])

    def groups(self) -> list[FeatureSource]:
        """See ``FeatureSource.groups``."""
        spans = groups.cut(len(self.shards), groups.LEAST_SHARDS)
        return [
            replace(self, shards=self.shards[s.start : s.stop], counts=Counter()) for s in spans
        ]

    @property
    def bytes(self) -> int:
        """Bytes of features on disk."""
        return sum(path.stat().st_size for path in {self.folder / s["file"] for s in self.shards})

    def n_blocks(self, rows_at_once: int) -> int:
        """Number of blocks that ``blocks`` streams; a block never spans two shards."""
        return sum(-(-shard["rows"] // rows_at_once) for shard in self.shards)

    def blocks(self, rows_at_once: int) -> Iterator[tuple[int, Tensor]]:
        """Stream the first row and the features, float32 ``[rows, dim]``, of each block."""
        for shard in self.shards:
            stored = map_array(self.folder / shard["file"])
            for start in range(0, shard["rows"], rows_at_once):
                part = stored[start : start + rows_at_once]
                self.counts[BYTES_READ] += part.nbytes
                yield shard["first_row"] + start, self.codec.decode(part)

    def blocks_on(self, device: torch.device, rows_at_once: int) -> Iterator[tuple[int, Tensor]]:
        """See ``FeatureSource.blocks_on``: read and copied ahead for a GPU."""
        blocks = self.blocks(rows_at_once)
        return copied_ahead(blocks, device) if device.type == "cuda" else blocks

    def rows(self, rows: np.ndarray) -> Tensor:
        """Features of ascending rows, float32 ``[len(rows), dim]``."""
        parts = []
        place = np.searchsorted(self._first_rows, rows, side="right") - 1
        for number in np.unique(place):
            stored = map_array(self.folder / self.shards[number]["file"])
            chosen = stored[rows[place == number] - self._first_rows[number]]
            self.counts[BYTES_READ] += chosen.nbytes
            parts.append(self.codec.decode(chosen))
        return parts[0] if len(parts) == 1 else torch.cat([torch.empty(0, self.codec.dim), *parts])


@dataclass(frozen=True)
class IndexBuilder:
    """Encodes a corpus into shards, leaving out those that are done.

    Attributes:
        folder: folder of all features of this key.
        settings: everything that the features depend on, for the manifest.
        storage: format of the shards; where a shard is there in full precision, it is translated.
        recipe: makes the encoder in other processes; its key is a hash of ``settings``.
        corpus_sha256: hash of the corpus, which names the manifest.
        mirror: the copy of the cache in a store; shards that are there are not encoded.
    """

    folder: Path
    settings: dict[str, Any]
    storage: Storage
    source: EncodedFeatures
    recipe: EncoderRecipe
    corpus_sha256: str
    mirror: Mirror

    def build(self, counts: Counter[str], engine: Engine) -> GradientIndex:
        """Encode the shards that are missing, and open the index.

        Args:
            counts: receives ``passages_truncated`` and ``passages_without_loss``.
            engine: runs a job for each shard that is missing.

        Raises:
            UserError: the folder holds a foreign or damaged shard, or the disk is full.
        """
        folder = self.folder / self.storage.value
        with exclusive(folder):
            shards = self._shards(engine)
            self._write_manifest(folder, shards)
        for name in COUNTED:
            counts[name] += sum(shard[name] for shard in shards)
        seconds = read_seconds(folder)
        files = {shard["file"] for shard in shards}
        known = files <= seconds.keys()  # of shards that a store brought, it is not
        spent = sum(seconds[name] for name in files) if known else None
        weighted = self.recipe.config.passage_weight
        codec = make_codec(self.storage, self.source.dim, weighted=weighted)
        return GradientIndex(folder, codec, shards, spent)

    def _shards(self, engine: Engine) -> list[dict[str, Any]]:
        """Sidecar and first row of each shard, in row order; missing shards are made."""
        writer = ShardWriter(
            self.folder, self.storage, self.source.dim, self.recipe, self.mirror, self.source
        )
        held = self.mirror.names(self.folder / self.storage.value)
        places: list[tuple[int, Path]] = []
        sidecars: dict[Path, dict[str, Any]] = {}
        jobs: dict[Path, Job] = {}
        for rows in self._plan():
            path = writer.path(self.source.texts(rows))
            places.append((rows.start, path))
            sidecar = writer.shared(path, held)
            if sidecar is None:
                jobs[path] = writer.job(path, rows)  # equal texts are one shard
            else:
                sidecars[path] = sidecar
        unit = f"shards of {shard_rows(self.source.dim):,}"
        asked = list(jobs.values())
        if self.mirror.url is not None:
            asked = in_own_order(asked)
        engine.run(asked, "encode passages", unit=unit)
        held = self.mirror.names(self.folder / self.storage.value)
        for path in jobs:
            # A worker that died after its sidecar was written may not have kept the shard.
            sidecar = writer.shared(path, held)
            assert sidecar is not None  # the engine returns when every job is done
            sidecars[path] = sidecar
        return [{"first_row": first_row, **sidecars[path]} for first_row, path in places]

    def _plan(self) -> Iterator[range]:
        """Stream the rows of each shard."""
        n_rows, size = self.source.n_rows, shard_rows(self.source.dim)
        starts = range(0, n_rows, size)
        for start in progress.track(starts, "look for shards", unit=f"of {size:,} passages"):
            yield range(start, min(start + size, n_rows))

    def _write_manifest(self, folder: Path, shards: list[dict[str, Any]]) -> None:
        manifest = {
            "schema_version": _SCHEMA_VERSION,
            "key": self.recipe.key,
            "settings": self.settings,
            "corpus_sha256": self.corpus_sha256,
            "storage": self.storage.value,
            "rows": self.source.n_rows,
            "dim": self.source.dim,
            "layout": asdict(self.source.encoder.layout),
            "shards": shards,
        }
        name = f"corpus-{content_key(self.corpus_sha256)}.json"
        with whole_file(folder / name) as stream:
            json.dump(manifest, stream, indent=1)
        self.mirror.keep(folder / name)
