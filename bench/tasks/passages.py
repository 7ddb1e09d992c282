"""A corpus on disk, addressed by row: written once as a stream, then read in any order.

Layout of a corpus folder: ``passages.jsonl`` (one record a row) and ``offsets.npy`` (where each row
starts, int64 ``[rows + 1]``). Both are memory-mapped, so the resident size does not grow with the
corpus.
"""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import UserError
from bench.storage import jsonlines
from bench.storage.arrays import map_array
from bench.storage.hashes import file_sha256, hashed_file

TEXTS, _OFFSETS = "passages.jsonl", "offsets.npy"
_RESIDENT = 8 << 20  # bytes of the map that reading may keep in the memory of the process
_AROUND = 64 << 10  # bytes that Linux maps around one that is read


@dataclass(frozen=True)
class Passage:
    """One candidate passage.

    Attributes:
        row: position in the corpus, from 0; ties in rankings are broken by it.
        passage_id: the id in the source files.
        text: the text as the source has it.
        fact_ids: the facts that this passage is annotated to state.
        statement: the fact that it states, where the task knows (``bench.tasks.support``); or None.
    """

    row: int
    passage_id: str
    text: str
    fact_ids: tuple[str, ...] = ()
    statement: dict[str, Any] | None = None


class PassageStore:
    """A row-addressed, re-iterable view of a corpus folder written by ``write_passages``.

    Args:
        sha256: the hash of its texts where somebody has checked it; None where nobody has.

    Raises:
        UserError: a file is missing, cut short or altered; on opening, or when a row is read.
    """

    def __init__(self, folder: Path, sha256: str | None = None) -> None:
        self.folder = folder
        self._sha256 = sha256
        try:
            self._offsets = map_array(folder / _OFFSETS)
            with open(folder / TEXTS, "rb") as stream:  # the map outlives the descriptor
                self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, EOFError) as error:  # missing, cut short, or no array at all
            raise self._damaged(str(error)) from error
        offsets = self._offsets
        if offsets.dtype != np.int64 or offsets.ndim != 1 or offsets[-1] != len(self._bytes):
            raise self._damaged(f"{_OFFSETS} does not fit {TEXTS}")
        self._end, self._touched = 0, 0

    def _note_touched(self, start: int, stop: int) -> None:
        """Give pages of the map back now and then, or the whole corpus would come to be resident.

        They stay in the system's cache, from which the next read takes them.
        """
        # A read that does not go on from the last one also maps the bytes around it.
        self._touched += stop - start if start == self._end else max(stop - start, _AROUND)
        self._end = stop
        if self._touched > _RESIDENT and hasattr(self._bytes, "madvise"):
            self._bytes.madvise(mmap.MADV_DONTNEED)
            self._touched = 0

    def _damaged(self, why: str) -> UserError:
        return UserError(
            f"the cached corpus is damaged ({why})",
            where=str(self.folder),
            fix="delete this folder and run again",
        )

    @property
    def sha256(self) -> str:
        """The SHA-256 of the texts with their ids and annotation, as they were first hashed."""
        if self._sha256 is None:
            self._sha256 = file_sha256(self.folder / TEXTS)
        return self._sha256

    def check_unchanged(self) -> None:
        """Make sure, after reading, that what was read is what ``sha256`` is of.

        Raises:
            UserError: the texts have changed since they were hashed.
        """
        if file_sha256(self.folder / TEXTS) != self.sha256:
            raise self._damaged(f"{TEXTS} has changed while it was in use")

    def __reduce__(self) -> tuple[type[PassageStore], tuple[Path, str | None]]:
        return PassageStore, (self.folder, self._sha256)  # each process opens the files for itself

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Passage:
        if not 0 <= row < len(self):
            raise IndexError(row)
        start, stop = int(self._offsets[row]), int(self._offsets[row + 1])
        self._note_touched(start, stop)
        try:
            record = json.loads(self._bytes[start:stop])
            return Passage(
                row=row,
                passage_id=record["id"],
                text=record["text"],
                fact_ids=tuple(record.get("facts", ())),
                statement=record.get("statement"),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(f"row {row} is no record") from error

    def __iter__(self) -> Iterator[Passage]:
        return self.slice(0, len(self))

    def slice(self, start: int, stop: int) -> Iterator[Passage]:
        """Stream the rows ``start <= row < stop``."""
        return (self[row] for row in range(start, min(stop, len(self))))

    def ranges(self, n_bytes: int) -> Iterator[range]:
        """Ranges of consecutive rows whose records take at most ``n_bytes``; one row may be more.

        How a corpus is cut depends on its passages alone.
        """
        start = 0
        while start < len(self):
            end = int(self._offsets[start]) + n_bytes
            stop = int(np.searchsorted(self._offsets, end, side="right")) - 1
            yield range(start, max(stop, start + 1))
            start = max(stop, start + 1)


def write_passages(passages: Iterable[Passage], folder: Path) -> int:
    """Write a stream of passages, in order, into an existing folder.

    Returns:
        the number of passages written.

    Raises:
        UserError: the stream is empty.
    """
    offsets = array("q", [0])  # 8 bytes a row: the only thing that grows while writing
    with hashed_file(folder / TEXTS) as stream:
        for passage in passages:
            record: dict[str, Any] = {"id": passage.passage_id, "text": passage.text}
            if passage.fact_ids:
                record["facts"] = list(passage.fact_ids)
            if passage.statement is not None:
                record["statement"] = passage.statement
            offsets.append(offsets[-1] + stream.write(jsonlines.dump(record).encode("utf-8")))
    if len(offsets) == 1:
        raise UserError("the corpus is empty: no passage to rank", fix="check the task's files")
    np.save(folder / _OFFSETS, np.asarray(offsets, dtype=np.int64), allow_pickle=False)
    return len(offsets) - 1
