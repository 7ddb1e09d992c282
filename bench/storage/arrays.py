"""Arrays on disk, mapped into memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt


def map_array(path: Path) -> np.ndarray:
    """A numpy file, memory-mapped; nothing in it is unpickled.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no array. numpy's parser of headers raises almost anything of its own.
    """
    try:
        opened: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"no array ({error})") from error
    return opened


def new_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """A numpy file that is filled through a map into memory; ``flush`` it in the end.

    Its room on the disk is taken at once: a write through the map for which there is none left
    would end the process without a word.

    Raises:
        OSError: the disk has no room for it.
    """
    array: np.memmap = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        path, mode="w+", dtype=dtype, shape=shape
    )
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        with open(path, "r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)
    return array
