"""Scores of pairs, kept in an append-only file in which each record vouches for itself.

A record has 48 bytes: two keys of 16, the score as little-endian float64, and 8 bytes of the
SHA-256 of the file's name and these 40. So a damaged record is not believed, nor is any of a file
that was exchanged with another. A record that a crash has left half done at the end is overwritten
by the next one; a file that holds damage is moved aside, and its sound records are written anew.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from bench.core.errors import UserError
from bench.core.progress import say
from bench.storage.disk import disk_errors
from bench.storage.locks import exclusive
from bench.storage.sealed import move_aside
from bench.storage.whole_files import whole_file

_RECORD = struct.Struct("<16s16sd8s")
_BLOCK = _RECORD.size * 20_000  # read at once: bounded memory however long the file

Key = tuple[bytes, bytes]  # of 16 bytes each


class ScoreFile:
    """(key, key) → score, on disk, for any number of processes.

    Attributes:
        path: where it is; its name must be a key of all that a score depends on beside the pair.
        damaged: records of the last ``known`` whose checksum did not hold.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0

    def known(self, keys: Collection[Key]) -> dict[Key, float]:
        """The scores of those of ``keys`` that are kept; the file is streamed.

        Raises:
            UserError: the file cannot be read, or cannot be written anew without its damage.
        """
        self.damaged = 0
        wanted = frozenset(keys)
        scores: dict[Key, float] = {}
        if wanted and self.path.exists():
            scores = {record[:2]: record[2] for record in self._sound() if record[:2] in wanted}
        if self.damaged:
            self._write_anew()
        return scores

    def add(self, scores: Mapping[Key, float]) -> None:
        """Append scores and wait until they are on the disk; NaN is not kept, but tried again.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        records = b"".join(
            self._record(*key, score) for key, score in scores.items() if not math.isnan(score)
        )
        if not records:
            return
        with disk_errors(self.path), exclusive(self.path.parent), open(self.path, "ab") as stream:
            stream.truncate(stream.tell() - stream.tell() % _RECORD.size)
            stream.write(records)
            stream.flush()
            os.fsync(stream.fileno())

    def _write_anew(self) -> None:
        damaged = self.damaged
        with exclusive(self.path.parent):
            self.damaged = 0
            sound = b"".join(self._record(*record) for record in self._sound())
            if not self.damaged:
                return  # another process has done it
            aside = move_aside(self.path)
            with whole_file(self.path, "wb") as stream:
                stream.write(sound)
        self.damaged = damaged
        say(
            f"{self.path}: {damaged:,} damaged records are made again (the file is now "
            f"{aside.name})"
        )

    def _sound(self) -> Iterator[tuple[bytes, bytes, float]]:
        """The records that are as they were written; counts those that are not."""
        with disk_errors(self.path):
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise UserError("is no file", where=str(self.path), fix="move it away")
            with open(self.path, "rb") as stream:
                while block := stream.read(_BLOCK):
                    whole = len(block) - len(block) % _RECORD.size  # a torn end is not read
                    for first, second, score, checksum in _RECORD.iter_unpack(block[:whole]):
                        if checksum == self._checksum(first, second, score):
                            yield first, second, score
                        else:
                            self.damaged += 1

    def _record(self, first: bytes, second: bytes, score: float) -> bytes:
        return _RECORD.pack(first, second, score, self._checksum(first, second, score))

    def _checksum(self, first: bytes, second: bytes, score: float) -> bytes:
        name = self.path.name.encode("utf-8", "surrogatepass")
        return hashlib.sha256(name + first + second + struct.pack("<d", score)).digest()[:8]
