"""Send results folders of a stranger through the commands, and see that each of them ends.

    python benchmarks/hostile.py --folders 5000

A small sweep makes one sound folder of several cells. Copies of it are made hostile (bytes flipped,
files cut, every field of another type, settings that expand, pipes, devices and links in place of
files, tables and rankings that unpack to much, files of other cells), and ``verify``, ``export``,
``report`` and, over each tenth, ``reproduce`` are run, in a forked process that may take a gibibyte
more than it has, and 20 seconds of a processor or 2 minutes of waiting a command. Printed are, by
kind, the tries and how the commands ended: done, problems told (``verify``), or refused in one
line. Anything else is a fault: a traceback, several lines, too much time or memory, or a file
outside the folder that was changed. Exit status 0 if there is none.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # children are forked: threads would not survive it
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import methods.gradient.method  # noqa: F401 - before children are forked
from bench.cli.main import main as tdabench
from bench.core import progress
from tests.fixtures.hostile import MUTATIONS, mutated

_SECONDS, _WAITING, _BYTES = 20, 120, 1 << 30
SMALL = (
    "task.n_passages=400", "task.n_facts=40", "task.n_queries=12", "model.hidden_size=8",
    "model.num_layers=1", "model.num_heads=1", "model.epochs=1", "model.vocab_size=300",
    "model.projection_dim=4", "metric.tail_patch.n_queries=4", "metric.bootstrap_samples=20",
    "top_k=10", "quiet=true",
)  # fmt: skip
METHODS = "method=bm25,random,grad_cos"


def main() -> int:
    """Try hostile folders until there were enough."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--folders", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(MUTATIONS), help="one kind alone")
    options, words = parser.parse_args(), shlex.join(sys.argv)  # a run changes the latter
    progress.set_quiet(True)
    warnings.simplefilter("ignore")
    kinds = [options.kind] if options.kind else sorted(MUTATIONS)
    ends: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    faults: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as place:
        sound = _sound(Path(place))
        for number in range(options.folders):
            kind = kinds[number % len(kinds)]
            folder = Path(place) / "try"
            folder.mkdir()
            rng = random.Random(f"{options.seed} {number}")
            results = mutated(sound, folder, kind, rng)
            before = _contents(folder / "outside")
            for command, end, seconds in _tried(results, number // len(kinds)):
                ends[kind][f"{command} {end.partition(':')[0]}"] += 1
                slowest = max(slowest, seconds)
                if end not in ("done", "problems", "refused"):
                    faults.append(f"{number}, {kind}: {command}: {end}")
                    print(faults[-1], flush=True)
            if _contents(folder / "outside") != before:
                faults.append(f"{number}, {kind}: wrote outside the folder")
            shutil.rmtree(folder)
    for kind, counts in ends.items():
        print(f"{kind}: {dict(sorted(counts.items()))}")
    tries = sum(sum(counts.values()) for counts in ends.values())
    print(f"{options.folders} folders, {tries} commands, {len(faults)} faults, "
          f"the slowest command {slowest:.1f} s of a processor")  # fmt: skip
    print(f"again: python {words}")
    return 1 if faults else 0


def _sound(place: Path) -> Path:
    """A results folder of some real cells."""
    results = place / "sound"
    places = (f"results_dir={results}", f"cache_dir={place / 'cache'}",
              f"hydra.sweep.dir={place / 'jobs'}")  # fmt: skip
    assert tdabench(["run", "-m", *SMALL, METHODS, *places]) == 0
    # Over a copy of the sound folder all commands succeed, and what they import is here by then.
    (place / "try").mkdir()
    for command, words in _commands(mutated(results, place / "try", None, random.Random())).items():
        assert _end(words) == "done", command
    shutil.rmtree(place / "try")
    return results


def _commands(results: Path, turn: int = 0) -> dict[str, list[str]]:
    """The commands over one folder; figures are drawn for few, as they take a second each.

    Args:
        turn: how often each kind was tried before.
    """
    out = results.parent / "out"
    figures = [] if turn % 50 == 0 else ["--no-figures"]
    commands = {
        "verify": ["verify", str(results)],
        "trec": ["export", "trec", str(results), "--out", str(out / "trec")],
        "card": ["export", "card", str(results), "--out", str(out / "card"), "--license", "mit"],
        "report": ["report", str(results), "--quiet", *figures],
    }
    return commands if turn % 10 else {**commands, "reproduce": ["reproduce", str(results)]}


def _tried(results: Path, turn: int) -> list[tuple[str, str, float]]:
    """Each command with how it ended and its seconds, as a forked process saw it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        with os.fdopen(writing, "w") as stream:
            _limit_memory()
            for command, words in _commands(results, turn).items():
                signal.setitimer(signal.ITIMER_PROF, _SECONDS)
                signal.alarm(_WAITING)
                stream.write(json.dumps([command]) + "\n")
                stream.flush()
                began = time.process_time()
                end = _end(words)
                took = time.process_time() - began
                stream.write(json.dumps([command, end, took]) + "\n")
                stream.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        lines = [json.loads(line) for line in stream]
    status = os.waitpid(child, 0)[1]
    ended = [(line[0], line[1], line[2]) for line in lines if len(line) > 1]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        reasons = {signal.SIGPROF: f"took more than {_SECONDS} s", signal.SIGALRM: "waited"}
        reason = reasons.get(signal.Signals(number), f"signal {number}")
        ended.append((lines[-1][0], reason, float(_SECONDS)))
    return ended


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _end(words: list[str]) -> str:
    """How a command ended: ``done``, ``problems``, ``refused``, or a fault in words."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = tdabench(words)
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return f"traceback: {type(error).__name__}: {error!s:.200} at {where}"
    told = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
    if status == 2:
        is_line = len(told) == 1 and len(told[0]) < 3000
        return "refused" if is_line else f"not one line: {err.getvalue()[:300]!r}"
    if status == 1 and words[0] == "verify":
        lines = out.getvalue().splitlines()
        return "problems" if all(len(line) < 3000 for line in lines) else "long lines"
    return "done" if status == 0 else f"status {status}: {err.getvalue()[:300]!r}"


def _contents(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


if __name__ == "__main__":
    sys.exit(main())
