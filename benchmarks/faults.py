"""Kill the process at random moments, go on, and compare with a run that nobody disturbed.

    python benchmarks/faults.py --kills 100

Each campaign starts with empty folders and runs a small sweep (a trained model, an index, a search,
tail-patch, files written) and then the report. A child process does the work and gets a SIGKILL
after a random time; another child goes on in the same folders, until one gets to the end. Printed
are the kills by what was going on, what was done again although it was finished, and how the files
differ in the end: rankings, per-query tables and index shards byte for byte, results and reports
but for times and memory. Exit status 0 if nothing differs and nothing was done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # children are forked: threads would not survive it
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import methods.bm25
import methods.gradient.method  # noqa: F401
from bench.cli.main import main as tdabench
from bench.core import progress

SMALL = (
    "task.n_passages=700", "task.n_facts=60", "model.hidden_size=32", "model.num_layers=2",
    "model.num_heads=2", "model.epochs=2", "model.projection_dim=8", "top_k=20",
    "metric.tail_patch.n_queries=15", "metric.bootstrap_samples=50", "quiet=true",
)  # fmt: skip
METHODS = "method=bm25,cos_optimizer,trackstar"
# What is written once it is finished, and must not be written again.
FINISHED = ("result.json", "training.json", "manifest.json", "shard-*.json", "words.json")
EXACT = ("retrievals.jsonl", "per_query.parquet", "shard-*.npy", "shard-*.json")
VARYING = ("date", "phases", "env", "command", "peak_mib")  # and whatever is in seconds


def main() -> int:
    """Run campaigns until enough processes were killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    progress.set_quiet(True)
    rng = random.Random(options.seed)
    killed: Counter[str] = Counter()
    differences: list[str] = []
    again: list[str] = []
    campaigns = 0
    with tempfile.TemporaryDirectory() as folder:
        calm = Path(folder) / "calm"
        began = time.perf_counter()
        assert child(calm, None) == "done"
        whole = time.perf_counter() - began
        print(f"undisturbed: {whole:.1f} s")
        while sum(killed.values()) < options.kills:
            campaigns += 1
            stormy = Path(folder) / f"stormy-{campaigns}"
            before: dict[str, int] = {}
            # A limit that grows, so that each campaign comes to an end.
            for attempt in range(1, 1000):
                ended = child(stormy, rng.uniform(0.05, whole * (0.3 + 0.1 * attempt)))
                now = finished(stormy)
                again += [name for name, stamp in before.items() if now.get(name) != stamp]
                before = now
                if ended == "done":
                    break
                killed[ended] += 1
            differences += compare(calm, stormy)
            print(f"campaign {campaigns}: {sum(killed.values())} kills so far", flush=True)
    print(f"{campaigns} campaigns, {sum(killed.values())} kills: {dict(killed.most_common())}")
    print(f"finished and done again: {len(again)} {again[:5]}")
    print(f"differences in the end: {len(differences)} {differences[:5]}")
    print(f"again: python {shlex.join(sys.argv)}")
    return 1 if again or differences else 0


def child(folder: Path, seconds: float | None) -> str:
    """Do the work in a child that is killed after some seconds; what it was at, or ``"done"``."""
    folder.mkdir(exist_ok=True)
    pid = os.fork()
    if pid == 0:
        os._exit(work(folder))
    deadline = None if seconds is None else time.perf_counter() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0, "the work failed by itself"
            return "done"
        if deadline is not None and time.perf_counter() > deadline:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if os.waitstatus_to_exitcode(status) == 0:
                return "done"
            return stage(folder)
        time.sleep(0.005)


def work(folder: Path) -> int:
    """The sweep, then the report, as the command line does them."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    places = (
        f"results_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}",
        f"hydra.sweep.dir={folder / 'jobs'}",
    )  # fmt: skip
    status = tdabench(["run", "-m", METHODS, *SMALL, *places])
    return status or tdabench(["report", str(folder / "runs"), "--no-figures", "--quiet"])


def stage(folder: Path) -> str:
    """What was going on, from what is there."""
    cache = folder / "cache"
    cells = len(list((folder / "runs").glob("*/*/*/*/result.json")))
    if cells == 3:
        return "report"
    if not list(cache.glob("models/*/*/training.json")):
        return "task" if not (cache / "models").exists() else "training"
    if cells == 0:
        return "first cell"
    if not list(cache.rglob("shard-*.json")):
        return "index"
    return "search and tail-patch"


def finished(folder: Path) -> dict[str, int]:
    """When each finished piece was written, by its path."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for name in FINISHED
        for path in folder.rglob(name)
        if ".partial-" not in str(path)
    }


def compare(calm: Path, stormy: Path) -> list[str]:
    """Names of files that are missing, left over or different."""
    found = [contents(folder) for folder in (calm, stormy)]
    names = set(found[0]) | set(found[1])
    return sorted(name for name in names if found[0].get(name) != found[1].get(name))


def contents(folder: Path) -> dict[str, Any]:
    """What the files of a folder say, less what may vary: times and paths."""
    found: dict[str, Any] = {}
    for pattern in EXACT:
        found |= {relative(path, folder): path.read_bytes() for path in folder.rglob(pattern)}
    for path in folder.rglob("result.json"):
        found[relative(path, folder)] = without(json.loads(path.read_text()))
    for name in ("leaderboard.csv", "significance.csv"):
        path = folder / "runs" / "report" / name
        rows = csv.DictReader(path.read_text().splitlines()) if path.exists() else ()
        found[relative(path, folder)] = [without(row) for row in rows]
    found |= {relative(path, folder): "left over" for path in folder.rglob("*.partial-*")}
    return found


def relative(path: Path, folder: Path) -> str:
    """A path below the folder."""
    return str(path.relative_to(folder))


def without(value: Any) -> Any:
    """A JSON value less the fields that vary."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in VARYING and not k.endswith("seconds")}
        return {key: without(inner) for key, inner in kept.items()}
    return [without(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
