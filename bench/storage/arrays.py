"""Arrays on disk, mapped into memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np


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
