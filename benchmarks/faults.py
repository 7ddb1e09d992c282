"""Kill the process at random moments, go on, and compare with a run that nobody disturbed.

    python benchmarks/faults.py --kills 200

Each campaign starts with empty folders. It runs a small sweep (a trained model, an index, a search,
tail-patch, files written, all copied to a store), imports a ranking, brings the cells to a second
machine from the store, and writes the report. A child process does the work and gets a SIGKILL;
another child goes on in the same folders, until one gets to the end. In each campaign every stage
is killed three times, at a random one of the files that it opens, renames or removes, and the whole
once at a random time. Printed are the kills by stage, what was done again although it was finished
(by inode and time), and how the files differ in the end: rankings, per-query tables and index
shards byte for byte, results and reports but for times and memory. Exit status 0 if nothing differs
and nothing was done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import mmap
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # children are forked: threads would not survive it
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import methods.bm25
import methods.gradient.method  # noqa: F401
from bench.cli.main import main as tdabench
from bench.core import progress

TASK = ("task.n_passages=400", "task.n_facts=40", "top_k=20", "metric.bootstrap_samples=50")
SMALL = (
    *TASK, "model.hidden_size=32", "model.num_layers=2", "model.num_heads=2", "model.epochs=2",
    "model.projection_dim=8", "metric.tail_patch.n_queries=15",
)  # fmt: skip
METHODS = "method=bm25,cos_optimizer,trackstar"
# What is written once it is finished, and must not be written again.
FINISHED = (
    "result.json", "training.json", "manifest.json", "shard-*.json", "words.json", "INVENTORY.json",
)  # fmt: skip
UNFINISHED = (".partial-", ".unfinished")
EXACT = ("retrievals.jsonl", "per_query.parquet", "shard-*.npy", "shard-*.json")
# What is written below each folder, by name, about in the order of the work.
STAGES = {
    "task": "cache/tasks", "training": "cache/models", "index": "cache/index", "store": "store",
    "tail-patch": "cache/tail_patch", "result": "runs/factworld/tiny",
    "import": "runs/factworld/imported", "second machine": "other", "report": "runs/report",
}  # fmt: skip
AFTER_SWEEP = ("import", "second machine", "report")
TIMES = 3  # each stage is killed in a campaign, a part of it further each time
WRITES = ("open", "os.rename", "os.remove", "os.mkdir")  # events of Python's audit
# And whatever is in seconds. What was read of an index for R is counted by the run that read it: of
# a cell that was killed after that, the run that goes on reads less.
VARYING = ("date", "phases", "env", "command", "peak_mib", "index_bytes_read")
# The part of a stage's writes that a child is killed within: one that goes on has fewer to make.
PART = 1 / (3 * TIMES)


@dataclass(frozen=True)
class Kill:
    """When a child is killed: after some seconds, or before a stage's n-th write."""

    seconds: float | None = None
    stage: str | None = None
    write: int = 0


class Writes:
    """What a child writes, by stage, seen by this process as well.

    Attributes:
        last: the stage of the last write; empty before the first.
    """

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 4 * (len(STAGES) + 1))
        self.numbers = memoryview(self._shared).cast("i")  # by stage, then the last one's place

    @property
    def last(self) -> str:
        return ["start", *STAGES][self.numbers[-1]]

    def count(self, stage: str) -> int:
        return self.numbers[list(STAGES).index(stage)]

    def watch(self, folder: Path, kill: Kill) -> None:
        """Count the writes of this process from now on, and kill it at the one that is chosen."""
        places = [(f"{folder}/{place}/", i, name) for i, (name, place) in enumerate(STAGES.items())]

        def hear(event: str, arguments: tuple) -> None:
            if event not in WRITES or (event == "open" and not is_write(arguments)):
                return
            path = os.fspath(arguments[event == "os.rename"])
            for place, i, name in places:
                if isinstance(path, str) and path.startswith(place):
                    self.numbers[i] += 1
                    self.numbers[-1] = i + 1
                    is_chosen = name == kill.stage and self.numbers[i] == kill.write
                    # A child that goes on writes less: it gets no further than to what comes next.
                    is_past = name in AFTER_SWEEP and name in after(kill.stage)
                    if is_chosen or is_past:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return

        sys.addaudithook(hear)


def after(stage: str | None) -> list[str]:
    """The stages behind one; none behind None."""
    names = list(STAGES)
    return [] if stage is None else names[names.index(stage) + 1 :]


def is_write(arguments: tuple) -> bool:
    """Whether a file is opened to be written, from what the audit says of it."""
    path, mode, flags = arguments
    opens = bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else set(mode) & set("wax+")
    return isinstance(path, str) and bool(opens)


def main() -> int:
    """Run campaigns until enough processes were killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=200)
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
        ended, writes = child(calm, Kill())
        assert ended == "done"
        whole = time.perf_counter() - began
        numbers = {stage: writes.count(stage) for stage in STAGES}
        print(
            f"undisturbed: {whole:.1f} s, files opened, renamed or removed: {numbers}", flush=True
        )
        while sum(killed.values()) < options.kills:
            campaigns += 1
            stormy = Path(folder) / f"stormy-{campaigns}"
            before: dict[str, tuple[int, int]] = {}
            for kill in storm(numbers, whole, rng):
                ended, _ = child(stormy, kill)
                now = finished(stormy)
                again += [name for name, stamp in before.items() if now.get(name) != stamp]
                before = now
                if ended == "done":
                    break
                killed[ended] += 1
            differences += compare(calm, stormy)
            shutil.rmtree(stormy)
            print(
                f"campaign {campaigns}: {sum(killed.values())} kills so far, {len(again)} done "
                f"again, {len(differences)} differences",
                flush=True,
            )
    print(f"{campaigns} campaigns, {sum(killed.values())} kills: {dict(killed.most_common())}")
    print(f"finished and done again: {len(again)} {again[:5]}")
    print(f"differences in the end: {len(differences)} {differences[:5]}")
    print(f"again: python {shlex.join(sys.argv)}")
    return 1 if again or differences else 0


def storm(numbers: dict[str, int], whole: float, rng: random.Random) -> list[Kill]:
    """The kills of one campaign, in order; the last child is left alone."""
    kills = [
        Kill(stage=stage, write=rng.randint(1, max(1, int(number * PART))))
        for stage, number in numbers.items()
        for _ in range(TIMES)
    ]
    at_random = Kill(seconds=rng.uniform(0.05, whole))
    kills.insert(rng.randint(0, len(kills)), at_random)
    return [*kills, Kill()]


def child(folder: Path, kill: Kill) -> tuple[str, Writes]:
    """Do the work in a child; the stage in which it was killed, or ``"done"``, and its writes."""
    folder.mkdir(exist_ok=True)
    writes = Writes()
    pid = os.fork()
    if pid == 0:
        writes.watch(folder, kill)
        os._exit(work(folder))
    deadline = None if kill.seconds is None else time.perf_counter() + kill.seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended and deadline is not None and time.perf_counter() > deadline:
            os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, 0)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            assert code in (0, -signal.SIGKILL), f"failed: {(folder / 'log').read_text()[-2000:]}"
            return "done" if code == 0 else writes.last, writes
        time.sleep(0.005)


def work(folder: Path) -> int:
    """The sweep, the import, the cells on a second machine and the report, as commands."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if status := sweep(folder, folder / "store"):
        return status
    (ranking,) = (folder / "runs").glob("factworld/tiny/bm25/*/retrievals.jsonl")
    places = (f"results_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}", "quiet=true")
    brought = ["import", str(ranking), "task=factworld", "name=brought", *TASK, *places]
    return (
        tdabench(brought)
        or sweep(folder / "other", folder / "store")
        or tdabench(["report", str(folder / "runs"), "--no-figures", "--quiet"])
    )


def sweep(folder: Path, store: Path) -> int:
    """The cells of three methods, in the folders of one machine."""
    places = (
        f"results_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}",
        f"remote_dir=file://{store}", f"hydra.sweep.dir={folder / 'jobs'}",
    )  # fmt: skip
    return tdabench(["run", "-m", METHODS, *SMALL, *places, "quiet=true"])


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of writing of each finished piece, by its path."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for name in FINISHED
        for path in folder.rglob(name)
        if not any(mark in str(path) for mark in UNFINISHED)
    }


def compare(calm: Path, stormy: Path) -> list[str]:
    """Names of files that are missing, left over or different."""
    one, other = contents(calm), contents(stormy)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def contents(folder: Path) -> dict[str, Any]:
    """What the files of a folder say, less what may vary: times and paths.

    The store is left out: its names hold hashes of times, and copies that were cut short stay in
    it. What the second machine brought from it is compared.
    """
    said: dict[str, Any] = {}
    paths = [path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != "store"]
    for path in paths:
        name = str(path.relative_to(folder))
        if any(path.match(pattern) for pattern in EXACT):
            said[name] = path.read_bytes()
        elif path.name == "result.json":
            said[name] = without(json.loads(path.read_text()))
        elif path.name in ("leaderboard.csv", "significance.csv"):
            rows = csv.DictReader(path.read_text().splitlines())
            said[name] = [without(row) for row in rows]
        elif any(mark in path.name for mark in UNFINISHED):
            said[name] = "left over"
    return said


def without(value: Any) -> Any:
    """A JSON value less the fields that vary."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in VARYING and "seconds" not in k}
        return {key: without(inner) for key, inner in kept.items()}
    return [without(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
