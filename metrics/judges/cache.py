"""What judges said, kept across methods and runs: only new pairs cost anything.

One append-only file holds one judge: ``<cache_dir>/judgements/<judge>-<identity>.scores``, records
of 48 bytes: 16 of the passage's SHA-256, 16 of the claim's, the score as little-endian float64, and
8 of the SHA-256 of these 40. A record that a crash has left half done at the end is overwritten by
the next append; one whose checksum does not hold is not believed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

from bench.storage.disk import disk_errors
from bench.storage.locks import exclusive
from metrics.judges.base import Claim, Judge, Pair

_RECORD = struct.Struct("<16s16sd8s")
_BLOCK = _RECORD.size * 20_000  # read at once: bounded memory however long the file

Key = tuple[bytes, bytes]


def pair_key(pair: Pair) -> Key:
    """What a score is kept under: hashes of the passage's text and of the claim with its names."""
    return _digest(pair.passage), claim_digest(pair.claim)


def claim_digest(claim: Claim) -> bytes:
    """The hash of a claim and of the names that a judge may look for: 16 bytes."""
    return _digest(json.dumps([claim.text, claim.subjects, claim.answers]))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


class JudgementCache:
    """(passage, claim) → score of one judge, on disk.

    Attributes:
        damaged: records of the last ``known`` whose checksum did not hold.
    """

    def __init__(self, cache_dir: Path, judge: Judge) -> None:
        self.path = cache_dir / "judgements" / f"{judge.name}-{judge.identity()[:32]}.scores"
        self.damaged = 0

    def known(self, keys: Collection[Key]) -> dict[Key, float]:
        """The scores of those of ``keys`` that are kept; the file is streamed."""
        self.damaged = 0
        wanted = frozenset(keys)
        found: dict[Key, float] = {}
        if not wanted or not self.path.exists():
            return found
        with disk_errors(self.path), open(self.path, "rb") as stream:
            while block := stream.read(_BLOCK):
                whole = len(block) - len(block) % _RECORD.size  # a torn end is not read
                for passage, claim, score, check in _RECORD.iter_unpack(block[:whole]):
                    if check != _check(passage, claim, score):
                        self.damaged += 1
                    elif (passage, claim) in wanted:
                        found[passage, claim] = score
        return found

    def add(self, scores: Mapping[Key, float]) -> None:
        """Append scores and wait until they are on the disk; NaN is not kept, but tried again.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        records = b"".join(
            _RECORD.pack(passage, claim, score, _check(passage, claim, score))
            for (passage, claim), score in scores.items()
            if not math.isnan(score)
        )
        if not records:
            return
        with disk_errors(self.path), exclusive(self.path.parent), open(self.path, "ab") as stream:
            stream.truncate(stream.tell() - stream.tell() % _RECORD.size)
            stream.write(records)
            stream.flush()
            os.fsync(stream.fileno())


def _check(passage: bytes, claim: bytes, score: float) -> bytes:
    return hashlib.sha256(passage + claim + struct.pack("<d", score)).digest()[:8]
