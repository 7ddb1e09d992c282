"""What a search takes: prints the peak of anonymous memory, in MiB, of its two stages as JSON.

python -m tests.search_memory 128    # MiB that the plan allows
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from methods.gradient.checkpoints import FeatureLayout
from methods.gradient.search import Finish, MemoryPlan, Search
from methods.gradient.whitening import BlockWhitening
from tests.drawn_features import DrawnFeatures

BLOCKS = [256] * 32
DIM = sum(BLOCKS)
QUERIES, TOP_K = 16, 100


def anonymous_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) / 1024


def peaks(bound_mib: int) -> dict[str, float]:
    """Stage → MiB above what was there before, queries counted in, seen every 2 ms."""
    whitening = BlockWhitening([torch.eye(size, dtype=torch.float64) for size in BLOCKS])
    layout = FeatureLayout(BLOCKS, [DIM], [1.0], weighted=False)
    first, exactly = (
        Finish(layout, whitening, True, dtype, torch.device("cpu"))
        for dtype in (torch.float32, torch.float64)
    )
    memory = MemoryPlan.of(bound_mib, QUERIES, DIM, torch.float32)
    before = anonymous_mib()
    queries = torch.randn(QUERIES, DIM, generator=torch.Generator().manual_seed(0))
    rows = np.arange(QUERIES * TOP_K).reshape(QUERIES, TOP_K)  # no two queries share one
    search = Search(DrawnFeatures(2000, DIM), None, first, exactly, 0, memory)
    return {
        "first": _peak(lambda: list(search.find(queries, TOP_K, 10))) - before,
        "second": _peak(lambda: search.score(queries, rows)) - before,
    }


def _peak(run: Callable[[], object]) -> float:
    most, ended = anonymous_mib(), threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.002):
            most = max(most, anonymous_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    ended.set()
    watcher.join()
    return most


if __name__ == "__main__":
    print(json.dumps(peaks(int(sys.argv[1]))))
