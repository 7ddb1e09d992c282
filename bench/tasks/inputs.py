"""Tools of tasks that are made from files: seeded sampling of rows, and repeated ids."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

import numpy as np

from bench.core.errors import UserError
from bench.storage.jsonlines import Place

_MASK = (1 << 64) - 1
ALL_KEYS = 1 << 64  # a bound that every row's key is below
FACT_ROWS, PASSAGE_ROWS = 1, 2  # streams of `row_key`, so that two files are not sampled alike


def row_key(seed: int, stream: int, row: int) -> int:
    """A pseudo-random key in ``[0, 2**64)``, different for every row of one seed and stream.

    Rows are sampled by their smallest keys, so which rows are kept depends on the seed and on the
    rows' numbers alone: not on how files are sharded or packed, nor on how many rows are read at a
    time. The mixer is a bijection (SplitMix64: Steele, Lea & Flood 2014), so keys never tie.
    """
    return _mix(row ^ _mix(_mix(seed) + stream))


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class SmallestKeys:
    """The ``n`` smallest of a stream of distinct keys, in memory for about ``2 n`` of them."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._keys = array("Q")

    def add(self, key: int) -> None:
        """Take one key of the stream."""
        self._keys.append(key)
        if len(self._keys) >= 2 * self._n + 1024:
            self._keys = array("Q", self.values().tobytes())

    def values(self) -> np.ndarray:
        """The smallest keys so far, ascending: uint64 ``[min(n, seen)]``."""
        return np.sort(np.array(self._keys, dtype=np.uint64))[: self._n]

    def bound(self, n: int) -> int:
        """The key that the ``n`` smallest keys so far are below."""
        smallest = self.values()[:n]
        return int(smallest[-1]) + 1 if len(smallest) else 0


def balanced(strata: Mapping[str, SmallestKeys], n: int) -> frozenset[int]:
    """The keys of ``n`` rows, as nearly equally many from each stratum as its size allows.

    A smaller ``n`` gives a subset of what a larger one gives.
    """
    keys = [stratum.values() for stratum in strata.values()]
    if not keys:
        return frozenset()
    turns = np.concatenate([np.arange(len(part)) for part in keys])
    merged = np.concatenate(keys)
    # Rows are taken in turns: every stratum's first, then every stratum's second; by key in a turn.
    return frozenset(merged[np.lexsort((merged, turns))[:n]].tolist())


class UniqueIds:
    """A finder of ids that occur twice, in 8 bytes an id: it compares ids only if hashes are equal.

    Args:
        field: the field that holds the id, for the message.
    """

    def __init__(self, field: str) -> None:
        self._field = field
        self._hashes = array("q")

    def add(self, identifier: str) -> None:
        """Take one id of the stream."""
        self._hashes.append(hash(identifier))

    def check(self, again: Iterable[tuple[Place, str]]) -> None:
        """Raise if an id occurred twice.

        Args:
            again: the same stream once more; it is read only if two hashes were equal.

        Raises:
            UserError: an id occurs twice; names both places.
        """
        hashes = np.sort(np.array(self._hashes, dtype=np.int64))
        suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        if not suspects:
            return
        first: dict[str, Place] = {}
        for place, identifier in again:
            if hash(identifier) in suspects and first.setdefault(identifier, place) != place:
                raise repeated(identifier, self._field, first[identifier], place)


def repeated(identifier: str, field: str, first: Place, place: Place) -> UserError:
    """The error about an id at ``place`` that was taken at ``first``."""
    return place.error(
        field,
        f"{identifier!r} is already the id of {first}",
        "give each row its own id, and each file once",
    )
