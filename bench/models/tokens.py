"""A tokenised corpus on disk, so that training holds no more than a batch."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bench.models.language_model import Tokens


class TokenCorpus:
    """The token ids of every passage in one memory-mapped temporary file, addressed by row."""

    def __init__(self, texts: Iterable[Tokens], folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the map
        offsets = array("q", [0])
        for tokens in texts:
            self._file.write(np.asarray(tokens.ids, dtype=np.int32).tobytes())
            offsets.append(offsets[-1] + len(tokens.ids))
        self._file.flush()
        self._offsets = np.asarray(offsets, dtype=np.int64)
        self._ids = np.memmap(self._file, dtype=np.int32, mode="r")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self._ids[self._offsets[row] : self._offsets[row + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each passage, int64 ``[rows]``."""
        return np.diff(self._offsets)
