"""Damage everything that a cache keeps, in every way, and see whether any of it is used.

    python benchmarks/damage.py --flips 20

Each kind of kept thing (tasks, trained models with their checkpoints, stopped trainings, retrained
outputs, moments, indexes, factors, shards, tail-patch results, judgements) is made twice, of other
passages and other models. Each of its files is flipped at some places, emptied, cut to half,
removed, and exchanged with one of the other run and with one of its own folder; after each damage
the thing is read as a run reads it. Printed are, by kind, the tries and how they ended: refused in
one line, or what was read is as it was written (found whole, or made again). Anything else is a
fault: other content used, a traceback, more than a minute. Exit status 0 if there is none.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.core import progress
from tests.fixtures.damage import damages, kept, outcome

_LONG = 60.0  # seconds: reading takes a fraction of one, so that this is a hang


def main() -> int:
    """Try every damage of every kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--flips", type=int, default=20, help="flipped places of each file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    progress.set_quiet(True)
    rng = random.Random(options.seed)
    faults: list[str] = []
    total = 0
    with tempfile.TemporaryDirectory() as place:
        ours, theirs = (kept(_folder(place, version), version) for version in range(2))
        for kind, one in ours.items():
            expected, ends = one.read(), Counter[str]()
            for name, damage in damages(one.folder, theirs[kind].folder, options.flips, rng):
                began = time.perf_counter()
                end = outcome(one, expected, damage)
                if time.perf_counter() - began > _LONG:
                    end = f"took more than {_LONG:g} s"
                ends[end] += 1
                if end not in ("refused", "as written"):
                    faults.append(f"{kind}: {name}: {end}")
            total += sum(ends.values())
            print(f"{kind}: {sum(ends.values())} tries, {dict(ends.most_common())}", flush=True)
    print(f"{total} tries, {len(faults)} faults")
    print("\n".join(faults[:20]), end="\n" if faults else "")
    print(f"again: python {shlex.join(sys.argv)}")
    return 1 if faults else 0


def _folder(place: str, version: int) -> Path:
    folder = Path(place) / str(version)
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main())
