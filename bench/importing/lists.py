"""A ranked list as a file gives it, before it is joined with a task."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.core.errors import UserError
from bench.storage.jsonlines import Place


def digest(text: str) -> bytes:
    """16 bytes that stand for a passage's exact text, so that texts need not be kept."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class Entries:
    """One side of a list, in the order of the file.

    Attributes:
        ids: the file's ids of the passages.
        scores: higher = stronger, finite, float64 ``[n]``.
        ranks: the file's ranks, int64 ``[n]``; smaller = stronger.
        texts: digests of the passages' texts, None for an unknown one; empty where the format has
            none.
        lines: the line of each entry where each has its own, else empty.
        field: what the file calls an id, for messages.
    """

    ids: Sequence[str] = ()
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    ranks: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    texts: Sequence[bytes | None] = ()
    lines: Sequence[int] = ()
    field: str = "docid"

    def text(self, index: int) -> bytes | None:
        """The digest of an entry's text, None where it is unknown."""
        return self.texts[index] if self.texts else None


@dataclass(frozen=True)
class FileList:
    """One query's list.

    Attributes:
        place: the line on which it starts.
        query_ids: ids that may be the task's; the first one that is counts.
        prompt, target: None where the format has none.
        correct: the file's own judgement of each proponent, None if it has none.
        field: what the file calls a query's id, for messages.
    """

    place: Place
    query_ids: tuple[str, ...]
    proponents: Entries
    opponents: Entries = field(default_factory=Entries)
    prompt: str | None = None
    target: str | None = None
    correct: tuple[bool, ...] | None = None
    field: str = "qid"

    def query_error(self, what: str, fix: str) -> UserError:
        """An error about the query."""
        return self.place.error(self.field, what, fix)

    def entry_error(self, side: Entries, index: int, what: str, fix: str) -> UserError:
        """An error about one passage of one side."""
        if side.lines:
            return Place(self.place.path, side.lines[index]).error(side.field, what, fix)
        return self.place.error(f"{side.field}[{index}]", what, fix)


def places() -> array:
    """An empty, compact list of line numbers."""
    return array("q")
