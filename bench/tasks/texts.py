"""How many passages of a corpus have the same text: the same answer, and only one is annotated."""

from __future__ import annotations

import hashlib
from array import array
from functools import cached_property

import numpy as np


class TextCounter:
    """Counts passages of equal text while they stream past, from 8 bytes of a hash of each.

    Two texts that differ have the same hash with a chance of one in 2^64 a pair: among 365 million
    passages, one such pair is expected in some 280 corpora.
    """

    def __init__(self) -> None:
        self._hashes = array("Q")

    def add(self, text: str) -> None:
        """Take in a passage's text; after the first question no more are taken."""
        self._hashes.append(int(_hash(text)))

    @cached_property
    def repeated(self) -> int:
        """Passages whose text is that of an earlier one."""
        return int((self._ranked[1:] == self._ranked[:-1]).sum())

    def copies(self, text: str) -> int:
        """Passages of this text."""
        low, high = (self._ranked.searchsorted(_hash(text), side) for side in ("left", "right"))
        return int(high - low)

    @cached_property
    def _ranked(self) -> np.ndarray:
        ranked = np.frombuffer(self._hashes, dtype=np.uint64)
        ranked.sort()  # in the place of the hashes: nothing more is held
        return ranked


def _hash(text: str) -> np.uint64:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))
