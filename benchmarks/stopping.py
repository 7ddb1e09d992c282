"""Interrupt a run twice at random moments, with every engine, and look at how it ends.

    python benchmarks/stopping.py --tries 20

Each try begins a run with empty folders (a task, a training, an index of many small shards, the
search, tail-patch, files written), waits a random time from when it takes the signals over (before
that, Python itself is starting), and sends SIGINT twice within half a second, to the process or to
its whole group by turns. Printed are, by engine, the tries, how many had ended before, the longest
time from the first signal to the end, and the faults: a status other than 130, more than the
seconds allowed, a traceback, a process left. Engines whose library is missing are left out, which
is said. With ``--jobs SECONDS`` the runs are of jobs that wait for minutes, interrupted within
these seconds: many tries at an engine in little time. Exit status 0 if there is no fault. Needs
Linux.
"""

from __future__ import annotations

import argparse
import random
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fixtures.interrupted import ENGINES, small_run, waiting_jobs, whole

_LIBRARIES = {"ray": "ray", "slurm": "submitit"}
_INTERRUPTED = 128 + signal.SIGINT


def main() -> int:
    """Interrupt runs on each engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--tries", type=int, default=20, help="for each engine")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="from the first signal to the end"
    )
    parser.add_argument("--jobs", type=float, metavar="SECONDS", help="jobs that wait, and no run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    faults: list[str] = []
    for engine in options.engines.split(","):
        if engine in _LIBRARIES and find_spec(_LIBRARIES[engine]) is None:
            print(f"{engine}: left out, {_LIBRARIES[engine]} is not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            faults += campaign(engine, Path(folder), options, rng)
    print(f"{len(faults)} faults")
    print("\n".join(faults[:20]), end="\n" if faults else "")
    print(f"again: python {shlex.join(sys.argv)}")
    return 1 if faults else 0


def campaign(
    engine: str, folder: Path, options: argparse.Namespace, rng: random.Random
) -> list[str]:
    """Interrupt runs on one engine; what was wrong with each."""
    seconds = options.jobs or whole(folder / "undisturbed", engine)
    begin = waiting_jobs if options.jobs else small_run
    faults, longest, at = [], 0.0, Counter[str]()
    for number in range(options.tries):
        command = begin(folder / str(number), engine)
        command.wait_until(command.listens)
        moment, pause = rng.uniform(0, seconds), rng.uniform(0, 0.5)
        until = time.monotonic() + moment
        command.wait_until(lambda until=until: time.monotonic() > until)
        had_ended = command.process.poll() is not None
        to_group = number % 2 == 1
        ending = command.send(signal.SIGINT, signal.SIGINT, pause=pause, to_group=to_group)
        if had_ended or (ending.status == 0 and "done: " in ending.said):
            at["had ended before"] += 1
            continue
        at["the group" if to_group else "the process"] += 1
        longest = max(longest, ending.seconds)
        print(f"{engine}, try {number + 1}: {moment:.1f} s, {ending.seconds:.2f} s", flush=True)
        wrong = ending.faults(_INTERRUPTED, options.seconds)
        if wrong:
            faults.append(f"{engine}, {moment:.2f} s, then {pause:.2f} s: {', '.join(wrong)}")
            print(f"{faults[-1]}\n{ending.said[-1500:]}\n{ending.left}", flush=True)
    print(
        f"{engine}: {options.tries} tries within {seconds:.1f} s, {dict(at)}, longest "
        f"{longest:.2f} s, {len(faults)} faults",
        flush=True,
    )
    return faults


if __name__ == "__main__":
    sys.exit(main())
