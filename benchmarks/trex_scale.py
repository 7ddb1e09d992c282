"""T-REx at scale: memory and throughput of preparing ``task=trex`` and of reading its passages.

    python benchmarks/trex_scale.py --data DIR --sentences 2000000

The sentences are replicated with ids of their own, without annotation beyond the first round, into
gzipped shards of a temporary folder. Fresh processes prepare the task, whole and with half of the
passages sampled, and read passages in random order; another only parses the same shards line by
line, which any reader has to do. Throughput of preparing is in sentences of the corpus. Peak memory
is the resident set of the process, mapped pages of the corpus included.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BOUND_MIB = 1536
SHARDS = 20
READS = 200_000


def main() -> None:
    """Replicate, then run each part in a process of its own."""
    options = _options()
    if options.part:
        _PARTS[options.part](options)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        size = _replicate(options.data / "trex_sentences.jsonl", Path(folder), options.sentences)
        print(f"{options.sentences:,} sentences, {size / 1e6:,.0f} MB unpacked, {SHARDS} shards\n")
        print("| part | seconds | a second | peak MiB |\n| :-- | --: | --: | --: |", flush=True)
        for part in _PARTS:
            subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--shards", folder, "--part", part],
                check=True,
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, required=True, help="folder of trex_*.jsonl")
    parser.add_argument("--sentences", type=int, default=2_000_000)
    parser.add_argument("--queries", type=int, default=1000, help="facts to sample")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--shards", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    return parser.parse_args()


def _replicate(source: Path, folder: Path, n: int) -> int:
    """Write ``n`` sentences as shards; their bytes before packing."""
    rows = [json.loads(line) for line in source.read_bytes().splitlines()]
    size, stream = 0, _replicated(rows, n)
    for shard in range(SHARDS):
        share = n * (shard + 1) // SHARDS - n * shard // SHARDS
        path = folder / f"trex_sentences.jsonl-{shard:05}-of-{SHARDS:05}"
        with gzip.open(path, "wb", compresslevel=1) as packed:
            for record in itertools.islice(stream, share):
                size += packed.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    return size


def _replicated(rows: list[dict], n: int) -> Iterator[dict]:
    for number in range(n):
        turn, row = divmod(number, len(rows))
        record = rows[row]
        if turn:  # gold sentences stay as they are: every round of them would be gold again
            record = {
                **record,
                "sentence_id": f"{record['sentence_id']}r{turn}",
                "fact_triples": [],
            }
        yield record


def _whole(options: argparse.Namespace) -> None:
    _prepare(options, "whole", None)


def _sampled(options: argparse.Namespace) -> None:
    _prepare(options, "half of the passages sampled", options.sentences // 2)


def _prepare(options: argparse.Namespace, name: str, n_passages: int | None) -> None:
    from hydra import compose, initialize_config_module

    from bench.core.typed import typed
    from bench.tasks import TASKS, load_task

    settings = {
        "facts": options.data / "trex_facts.jsonl",
        "sentences": options.shards / f"trex_sentences.jsonl-*-of-{SHARDS:05}",
        "n_queries": options.queries,
        "n_passages": "null" if n_passages is None else n_passages,
    }
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", ["task=trex", *(f"task.{k}={v}" for k, v in settings.items())])
    builder = TASKS.get("trex")
    task_config = typed(builder.Config, {**config.task}, "task", ("name",))
    start = time.perf_counter()
    task = load_task("trex", builder(task_config), options.shards / f"cache-{options.part}")
    _row(f"prepare, {name}", task.counts["passages_read"], start)
    assert len(task.queries) == options.queries
    rows = np.random.default_rng(0).integers(len(task.passages), size=READS)
    start = time.perf_counter()
    characters = sum(len(task.passages[row].text) for row in rows.tolist())
    assert characters > 0
    _row("passages in random order", READS, start)


def _parse(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    n = 0
    for path in sorted(options.shards.glob("trex_sentences*")):
        with gzip.open(path, "rb") as stream:
            n += sum(1 for line in stream if json.loads(line))
    _row("gzip and json.loads alone", n, start)


def _row(name: str, n: int, start: float) -> None:
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {name} | {seconds:.1f} | {n / seconds:,.0f} | {peak:,.0f} |", flush=True)
    if peak > BOUND_MIB:
        sys.exit(f"{peak:,.0f} MiB exceed the bound of {BOUND_MIB:,} MiB")


_PARTS = {"parse": _parse, "whole": _whole, "sampled": _sampled}

if __name__ == "__main__":
    main()
