"""Runs faiss for the search benchmark in faiss's own environment.

Started by ``search.py`` with a folder, the length of a list and the number of threads. Says its
name, then does one search for every line on standard input, answers with its seconds, and leaves
the rows found in ``found.npy``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import faiss
import numpy as np

ROWS_ADDED_AT_ONCE = 4096


def main() -> None:
    """``search_peer.py FOLDER TOP_K THREADS``."""
    folder, top_k = Path(sys.argv[1]), int(sys.argv[2])
    faiss.omp_set_num_threads(int(sys.argv[3]))
    queries, stored = np.load(folder / "queries.npy"), np.load(folder / "rows.npy", mmap_mode="r")
    index = faiss.IndexFlatIP(stored.shape[1])
    for start in range(0, len(stored), ROWS_ADDED_AT_ONCE):
        index.add(stored[start : start + ROWS_ADDED_AT_ONCE])
    print("faiss", faiss.__version__, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        _, found = index.search(queries, top_k)
        taken = time.perf_counter() - began
        np.save(folder / "found.npy", found)
        print(taken, flush=True)


if __name__ == "__main__":
    main()
