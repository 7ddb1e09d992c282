"""Exact search beside one plain matrix product, and beside faiss, interleaved: what top-k costs.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/search.py --peer-python /tmp/peers/faiss/bin/python

One round runs every contender once, over the same rows in one memory-mapped file whose pages are
in memory already. The yardstick is the fastest product of all queries with all rows, which keeps
no list; a table gives the median over rounds of its time over each contender's time *in the same
round*, so that other work on the machine cancels: 1 is as fast as the product alone. A second
column does the same with faiss's time. Contenders:

    product                 rows @ queries.T at once
    product, transposed     queries @ rows.T at once
    product, blocks         rows @ queries.T, as many rows at a time as tdabench reads
    scan                    the highest of each query
    scan, both ends         the highest, and as many opponents: the lowest
    search_rows             what dense retrievers call: the scan with a margin, then float64 scores
    gradient index          what a gradient method calls, over an index of one shard, both stages
    gradient index, cosine  the same with unit norm, as TrackStar has it
    faiss                   IndexFlatIP, its rows in its own memory, in its own process

Before the rounds, a scan and a search run while the anonymous memory of the process is watched:
what they take besides the map. faiss is left out, and named, if there is no ``--peer-python`` that
can import it. Its environment, made once (tried with faiss-cpu 1.15.1):

    python -m venv /tmp/peers/faiss && /tmp/peers/faiss/bin/pip install faiss-cpu
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shlex
import shutil
import statistics
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from contenders import Peer, interleave, timed

from bench.engines.serial import Serial, SerialConfig
from bench.storage.mirror import Mirror
from methods import vector_search
from methods.gradient.checkpoints import FeatureLayout
from methods.gradient.codecs import make_codec
from methods.gradient.finish import Finish
from methods.gradient.index import GradientIndex
from methods.gradient.parts import PartsFolder
from methods.gradient.search import MemoryPlan, Search
from methods.gradient.settings import Storage
from methods.vector_search import as_tensor, nearest, scan, scored_blocks, search_rows

PRODUCTS = ("product", "product, transposed", "product, blocks")
ROWS_MADE_AT_ONCE = 4096


def main() -> None:
    """Measure and print."""
    options = _options()
    torch.set_num_threads(options.threads)
    if options.threads > 1 and os.environ.get("OMP_WAIT_POLICY") != "PASSIVE":
        print("note: set OMP_WAIT_POLICY=PASSIVE where cores are shared")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        stored, queries = make_rows(Path(folder), options.rows, options.queries, options.dim)
        contenders = _contenders(stored, queries, options.top_k)
        memory = {name: _memory(contenders[name]) for name in ("scan, both ends", "search_rows")}
        peer = _start_peer(Path(folder), options)
        if peer is not None:
            contenders[peer.said] = peer.seconds
        seconds = interleave(contenders, options.rounds)
        agreement = None
        if peer is not None:
            peer.stop()
            agreement = _agreement(stored, queries, np.load(Path(folder, "found.npy")))
    _report(options, seconds, memory, agreement)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--top-k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where the rows are written; the system's if not given")
    parser.add_argument("--peer-python", help="interpreter with faiss")
    return parser.parse_args()


def make_rows(folder: Path, n_rows: int, n_queries: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Random rows float32 ``[rows, dim]``, mapped, and queries ``[queries, dim]``, in files."""
    draw, path = np.random.default_rng(0), folder / "rows.npy"
    queries = draw.standard_normal((n_queries, dim), dtype=np.float32)
    np.save(folder / "queries.npy", queries)
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_rows, dim))
    for start in range(0, n_rows, ROWS_MADE_AT_ONCE):
        part = stored[start : start + ROWS_MADE_AT_ONCE]
        draw.standard_normal(out=part, dtype=np.float32)
    stored.flush()
    return np.load(path, mmap_mode="r"), queries


# ------------------------------------------------------------------ contenders


def _contenders(
    stored: np.ndarray, queries: np.ndarray, top_k: int
) -> dict[str, Callable[[], float]]:
    rows, asked = as_tensor(stored), torch.from_numpy(queries)

    def blocks() -> Iterator[tuple[int, torch.Tensor]]:
        return vector_search.blocks_of(stored, range(len(stored)))

    def product_in_blocks() -> None:
        for _, block in blocks():
            block @ asked.T

    runs: dict[str, Callable[[], object]] = {
        "product": lambda: rows @ asked.T,
        "product, transposed": lambda: asked @ rows.T,
        "product, blocks": product_in_blocks,
        "scan": lambda: _lists(*scan(len(asked), scored_blocks(asked, blocks()), top_k, 0)),
        "scan, both ends": lambda: _lists(
            *scan(len(asked), scored_blocks(asked, blocks()), top_k, top_k)
        ),
        "search_rows": lambda: list(_searched(queries, stored, top_k)),
    }
    for name, unit_norm in (("gradient index", False), ("gradient index, cosine", True)):
        search = gradient_search(stored, len(queries), unit_norm=unit_norm)
        runs[name] = functools.partial(drain, search, asked, top_k)
    return {name: timed(run) for name, run in runs.items()}


def gradient_search(
    stored: np.ndarray,
    n_queries: int,
    *,
    unit_norm: bool,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a constant
) -> Search:
    """A gradient method's search over the rows, without R, on a device."""
    n_rows, dim = stored.shape
    path = Path(stored.filename)  # type: ignore[attr-defined] - of a memory map
    shards = [{"file": path.name, "first_row": 0, "rows": n_rows, "sha256": ""}]
    codec = make_codec(Storage.fp32, dim, weighted=False)
    index = GradientIndex(path.parent, codec, shards, None)
    layout = FeatureLayout([dim], [dim], [1.0], weighted=False)
    first, exactly = (
        Finish(layout, None, unit_norm, dtype, device) for dtype in (torch.float32, torch.float64)
    )
    memory = MemoryPlan.of(2048, n_queries, dim, torch.float32)  # the methods' default
    parts = PartsFolder(
        path.parent / f"parts-{unit_norm}", Serial(SerialConfig()), Mirror(path.parent)
    )
    return Search(index, index, first, exactly, 0, memory, parts, Counter())


def drain(search: Search, queries: torch.Tensor, top_k: int) -> None:
    """Search, and keep nothing of it."""
    shutil.rmtree(search.parts.folder, ignore_errors=True)  # what an earlier round has found
    for _ in search.find([str(i) for i in range(len(queries))], queries, top_k, 0):
        pass


def _lists(highest: vector_search.TopK, lowest: vector_search.TopK) -> tuple[np.ndarray, ...]:
    """Read what was found: a list is sorted when it is asked for."""
    return highest.rows, lowest.rows


def _start_peer(folder: Path, options: argparse.Namespace) -> Peer | None:
    if not options.peer_python:
        print("left out faiss: no --peer-python", file=sys.stderr)
        return None
    try:
        return Peer(options.peer_python, "search_peer.py", folder, options.top_k, options.threads)
    except (RuntimeError, OSError) as error:
        print(f"left out faiss: {error}", file=sys.stderr)
        return None


# ------------------------------------------------------------------ measuring


def _anonymous() -> int:
    """Bytes of this process in memory that belong to no file."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) << 10


def _memory(run: Callable[[], object]) -> int:
    """Bytes by which a run's greatest anonymous memory, seen every 2 ms, exceeds what was there."""
    before = most = _anonymous()
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.002):
            most = max(most, _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    ended.set()
    watcher.join()
    return most - before


def _searched(
    queries: np.ndarray, stored: np.ndarray, top_k: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rows = range(len(stored))
    return search_rows(queries, stored, top_k, lambda asked, n: nearest(asked, stored, rows, n))


def _agreement(stored: np.ndarray, queries: np.ndarray, found: np.ndarray) -> float:
    """Share of the peer's rows ``[queries, k]`` that are also in our lists."""
    ours = _searched(queries, stored, found.shape[1])
    return float(np.mean([np.isin(b, a).mean() for (a, _), b in zip(ours, found, strict=True)]))


def _report(
    options: argparse.Namespace,
    seconds: dict[str, list[float]],
    memory: dict[str, int],
    agreement: float | None,
) -> None:
    yardstick = min(PRODUCTS, key=lambda name: statistics.median(seconds[name]))
    print(
        f"\nthe {options.top_k} best of {options.rows} × {options.dim} float32 rows for each of "
        f"{options.queries} queries; {options.threads} thread(s), torch {torch.__version__}; "
        f"yardstick: {yardstick}; median of {options.rounds} interleaved rounds (least–greatest)\n"
    )
    measures = [yardstick, *(name for name in seconds if name.startswith("faiss"))]
    print(f"| contender | seconds | {' | '.join(f'speed / {name}' for name in measures)} |")
    print("| --- " * (2 + len(measures)) + "|")
    for name, taken in seconds.items():
        cells = [name, f"{statistics.median(taken):.2f}"]
        for measure in measures:
            ratios = [a / b for a, b in zip(seconds[measure], taken, strict=True)]
            cells.append(f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})")
        print(f"| {' | '.join(cells)} |")
    print()
    for name, taken_bytes in memory.items():
        print(f"anonymous memory of {name}, besides the map: {taken_bytes / 2**20:.0f} MiB")
    if agreement is not None:
        print(f"rows of faiss that search_rows found too: {agreement:.3%}")
    print(f"\nagain: python {shlex.join(sys.argv)}")


if __name__ == "__main__":
    main()
