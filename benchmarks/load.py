"""Time and peak memory of whole commands on inputs as large as this machine takes.

    python benchmarks/load.py --folder /tmp/load [--only report,viewer]
    OMP_NUM_THREADS=1 python benchmarks/load.py --folder /tmp/load --data DIR

What is measured, each in fresh processes, which `wait4` tells the seconds and the peak memory of:

    report      300 finished cells of 1,000 queries with lists of 100, as 10 boards of 30 rows:
                the tables, then with figures, then with the viewer as well
    viewer      two rankings of 20,000 queries over 200,000 passages
    bm25        100,000 queries over those passages, from ranking to the cell's files
    facts       a T-REx task of which 1,000,000 facts are read and 1,000 asked; needs ``--data``
    factworld   200,000 passages made, indexed and ranked with BM25, all their facts asked

A part prepares what it needs in ``--folder`` and leaves it there; preparing is not measured. Peak
memory is the resident set of the process, mapped files included. Each line says what it is held to,
if there is a limit; exit status 1 if one is exceeded. On a machine that does other work, seconds of
the processor say more than those of the clock, which is what limits are on all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.fixtures.cells import write_cell  # noqa: E402

CELLS, CELL_QUERIES, BOARDS, TOP_K = 300, 1_000, 10, 100
PASSAGES, VIEWED, ASKED, FACTS = 200_000, 20_000, 100_000, 1_000_000


@dataclass(frozen=True)
class Limit:
    """The most that a command may take."""

    seconds: float
    mib: float


@dataclass(frozen=True)
class Measured:
    """One command: what it is, and what it took.

    Attributes:
        seconds: on the clock.
        processor: seconds of all processors, in the process and its children.
        mib: largest resident set of the process.
    """

    name: str
    seconds: float
    processor: float
    mib: float
    limit: Limit | None

    @property
    def holds(self) -> bool:
        """Whether the limit, if any, was kept."""
        limit = self.limit
        return limit is None or (self.seconds <= limit.seconds and self.mib <= limit.mib)


REPORT_LIMIT = Limit(60, 1024)


def main() -> int:
    """Prepare and measure each part, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--folder", type=Path, required=True, help="some 10 GB of room")
    parser.add_argument("--only", default=",".join(_PARTS), help="parts, with commas between")
    parser.add_argument("--data", type=Path, help="folder of trex_*.jsonl; without: no `facts`")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of every number; a hundredth tries the script"
    )
    options, words = parser.parse_args(), shlex.join(sys.argv)
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(_PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))} (of {', '.join(_PARTS)})")
    options.folder.mkdir(parents=True, exist_ok=True)
    measured = [one for part in _PARTS if part in wanted for one in _PARTS[part](options)]
    busy = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    date = datetime.now(timezone.utc).date()
    print(f"\n{date}, {os.cpu_count()} cores, load averages at the end {busy}\n")
    print("| what | wall s | processor s | peak MiB | limit |\n| :-- | --: | --: | --: | :-- |")
    for one in measured:
        limit = f"{one.limit.seconds:g} s, {one.limit.mib:,.0f} MiB" if one.limit else "–"
        kept = "" if one.holds else ", exceeded"
        print(
            f"| {one.name} | {one.seconds:.1f} | {one.processor:.1f} | {one.mib:,.0f} "
            f"| {limit}{kept} |"
        )
    print(f"\nagain: python {words}")
    return 0 if all(one.holds for one in measured) else 1


# ------------------------------------------------------------------ parts


def _report(options: argparse.Namespace) -> list[Measured]:
    """Reports over made-up cells, which have attribution, tail-patch and slices."""
    cells, queries = _scaled(options, CELLS), _scaled(options, CELL_QUERIES)
    results = options.folder / "boards"
    _prepared(results, lambda folder: _write_cells(folder, cells, queries))
    said = f"report, {cells:,} cells of {queries:,} queries"
    return [
        _measure(f"{said}: {what}", ["report", results, "--quiet", *less], REPORT_LIMIT)
        for what, less in (
            ("tables", ["--no-viewer", "--no-figures"]),
            ("tables and figures", ["--no-viewer"]),
            ("tables, figures and viewer", []),
        )
    ]


def _write_cells(folder: Path, cells: int, queries: int) -> None:
    """Cells of 15 methods' names, each with as many settings as it takes."""
    rows = max(cells // BOARDS, 1)
    for number in range(cells):
        board, row = divmod(number, rows)
        write_cell(
            folder,
            f"method{row % 15}",
            config={"k1": row // 15},
            strength=0.1 + row / rows,
            tail_patch=row / rows / 100,
            n_queries=queries,
            top_k=TOP_K,
            task=f"task{board}",
        )


def _viewer(options: argparse.Namespace) -> list[Measured]:
    """The report of two methods over more queries than a person looks at."""
    n, results = _scaled(options, VIEWED), options.folder / "viewed"
    task = _task(options, n)
    for method in ("bm25", "random"):
        _run(options, results, f"method={method}", *task)
    said = f"viewer, 2 rankings of {n:,} queries over {_scaled(options, PASSAGES):,} passages"
    return [_measure(f"{said}, with the tables", ["report", results, "--quiet", "--no-figures"])]


def _bm25(options: argparse.Namespace) -> list[Measured]:
    """A ranking of many queries, over a word index that is there."""
    n, results = _scaled(options, ASKED), options.folder / "asked"
    task = _task(options, n)
    _run(options, options.folder / "indexed", "method=bm25", *_task(options, _scaled(options, 100)))
    shutil.rmtree(results, ignore_errors=True)
    words = _words(options, results, "method=bm25", *task)
    return [_measure(f"bm25, {n:,} queries over {_scaled(options, PASSAGES):,} passages", words)]


def _facts(options: argparse.Namespace) -> list[Measured]:
    """A task that is sampled from many facts."""
    if options.data is None:
        print("facts: left out, without --data", file=sys.stderr)
        return []
    n, asked = _scaled(options, FACTS), _scaled(options, 1_000)
    facts = options.folder / "facts.jsonl"
    _prepared(facts, lambda path: _repeat_facts(options.data / "trex_facts.jsonl", path, n))
    results, cache = options.folder / "of-facts", options.folder / "cache-of-facts"
    for folder in (results, cache):
        shutil.rmtree(folder, ignore_errors=True)
    words = _words(
        options, results, "task=trex", f"task.facts={facts}",
        f"task.sentences={options.data / 'trex_sentences.jsonl'}", f"task.n_queries={asked}",
        "method=bm25", f"cache_dir={cache}",
    )  # fmt: skip
    return [_measure(f"trex, {n:,} facts read, {asked:,} asked, bm25", words)]


def _repeat_facts(source: Path, path: Path, n: int) -> None:
    """``n`` facts: those of a file over and over, under names of their own after the first time."""
    facts = [json.loads(line) for line in source.read_bytes().splitlines()]
    with path.open("w", encoding="utf-8") as stream:
        for number in range(n):
            turn, row = divmod(number, len(facts))
            fact = facts[row]
            if turn:
                fact = {**fact, "fact_id": f"{fact['fact_id']}r{turn}"}
                fact["prompt0"] = f"{turn}: {fact['prompt0']}"
            stream.write(json.dumps(fact) + "\n")


def _factworld(options: argparse.Namespace) -> list[Measured]:
    """A world made, indexed, ranked and judged, with nothing there before."""
    n = _scaled(options, PASSAGES)
    results, cache = options.folder / "world", options.folder / "cache-of-world"
    for folder in (results, cache):
        shutil.rmtree(folder, ignore_errors=True)
    words = _words(options, results, f"task.n_passages={n}", "method=bm25", f"cache_dir={cache}")
    return [_measure(f"factworld, {n:,} passages end to end, bm25", words)]


_PARTS: dict[str, Callable[[argparse.Namespace], list[Measured]]] = {
    "report": _report,
    "viewer": _viewer,
    "bm25": _bm25,
    "facts": _facts,
    "factworld": _factworld,
}

# ------------------------------------------------------------------ inputs and commands


def _scaled(options: argparse.Namespace, n: int) -> int:
    return max(round(n * options.scale), 1)


def _prepared(path: Path, make: Callable[[Path], None]) -> None:
    """Make a file or folder under another name first, unless it is there."""
    if not path.exists():
        partial = path.with_name(f"{path.name}.partial")
        if partial.is_dir():
            shutil.rmtree(partial)
        print(f"preparing {path}", file=sys.stderr, flush=True)
        make(partial)
        partial.rename(path)


def _task(options: argparse.Namespace, n_queries: int) -> list[str]:
    """A world of as many facts as there is room for, of which some are asked."""
    passages = _scaled(options, PASSAGES)
    return [
        f"task.n_passages={passages}", f"task.n_facts={passages * 11 // 20}",
        "task.max_frequency=2", "task.alias_rate=0.1", f"task.n_queries={n_queries}",
    ]  # fmt: skip


def _words(options: argparse.Namespace, results: Path, *settings: str) -> list[str]:
    """The words of ``tdabench run`` for one cell; later settings count."""
    places = {"cache_dir": options.folder / "cache", "results_dir": results}
    places.update(word.split("=", 1) for word in settings if word.split("=")[0] in places)
    others = [word for word in settings if word.split("=")[0] not in places]
    named = [f"{name}={place}" for name, place in places.items()]
    return ["run", "metric=attribution", "quiet=true", *others, *named]


def _run(options: argparse.Namespace, results: Path, *settings: str) -> None:
    """Run a cell that is not measured, unless it is there."""
    _measure("preparing", _words(options, results, *settings))


def _measure(name: str, words: Sequence[str | Path], limit: Limit | None = None) -> Measured:
    """Run a command of tdabench in a process of its own."""
    command = [sys.executable, "-m", "bench", *map(str, words)]
    print(shlex.join(command[1:]), file=sys.stderr, flush=True)
    start = time.perf_counter()
    child = os.posix_spawn(
        command[0], command, {**os.environ, "PYTHONPATH": str(ROOT)},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )  # fmt: skip
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"status {os.waitstatus_to_exitcode(status)}: {shlex.join(command)}")
    unit = 1 if sys.platform == "darwin" else 1024
    mib = usage.ru_maxrss * unit / (1 << 20)
    processor = usage.ru_utime + usage.ru_stime
    print(f"{seconds:.1f} s, {processor:.1f} s of a processor, {mib:,.0f} MiB", file=sys.stderr)
    return Measured(name, seconds, processor, mib, limit)


if __name__ == "__main__":
    sys.exit(main())
