"""Time and memory as the corpus grows: 10k, 100k, 1M passages with the same model and queries.

    python benchmarks/growth.py --folder /tmp/growth --passages 10000,100000,1000000

`tiny` is trained once, on the smallest corpus, and encodes all of them as a model of its own
(``model=hf``), in float32. Each size runs in a fresh process; the table gives seconds a passage and
peak memory of the phases ``index`` and ``search`` as their result says, and both as ratios to the
smallest size. Searching has a part that does not grow (queries, eigendecompositions), so its
seconds a passage fall at first.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from bench.results.schema import Result, read_result

QUERIES = 1000


def main() -> None:
    """Run each size, then print."""
    options = _options()
    sizes = [int(size) for size in options.passages.split(",")]
    model = _train(options, sizes[0])
    results = [_run(options, model, size) for size in sizes]
    print(f"\n{results[0].method['config']['storage']}, {QUERIES:,} queries, trackstar, tiny\n")
    print(
        "| passages | index bytes | index µs a passage | search µs a passage | both, ratio "
        "| peak MiB of index | of search | peak, ratio |\n"
        "| --: | --: | --: | --: | --: | --: | --: | --: |"
    )
    for result in results:
        _row(result, results[0])
    print(f"\nagain: python {shlex.join(sys.argv)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--folder", type=Path, required=True, help="for models, indexes, results")
    parser.add_argument("--passages", default="10000,100000,1000000")
    parser.add_argument("overrides", nargs="*", help="more settings, e.g. method.storage=sign")
    return parser.parse_args()


def _train(options: argparse.Namespace, n_passages: int) -> Path:
    _tdabench(options, f"task.n_passages={n_passages}", "model=tiny", "method=grad_dot")
    (trained,) = (options.folder / "cache" / "models" / "tiny").iterdir()
    return trained


def _run(options: argparse.Namespace, model: Path, n_passages: int) -> Result:
    settings = [
        f"task.n_passages={n_passages}", f"task.n_queries={QUERIES}", "method=trackstar",
        "model=hf", f"model.path={model}", "model.projection_dim=16",
        f"model.optimizer_state={model / 'second_moments.safetensors'}", *options.overrides,
    ]  # fmt: skip
    folder = options.folder / f"{n_passages}"
    _tdabench(options, *settings, results=folder)
    (path,) = folder.glob("*/hf/*/*/result.json")
    return read_result(path)


def _tdabench(options: argparse.Namespace, *settings: str, results: Path | None = None) -> None:
    folders = (
        f"results_dir={results or options.folder / 'training'}",
        f"cache_dir={options.folder / 'cache'}",
    )
    command = [sys.executable, "-m", "bench", "run", "metric=attribution", *folders, *settings]
    print(shlex.join(command), file=sys.stderr, flush=True)
    subprocess.run(command, check=True)


def _row(result: Result, smallest: Result) -> None:
    n = result.task["n_passages"]
    index, search = (_phase(result, name, "seconds") / n * 1e6 for name in ("index", "search"))
    first = sum(_phase(smallest, name, "seconds") for name in ("index", "search"))
    ratio = (index + search) / (first / smallest.task["n_passages"] * 1e6)
    peaks = [_phase(result, name, "peak_mib") for name in ("index", "search")]
    least = max(_phase(smallest, name, "peak_mib") for name in ("index", "search"))
    print(
        f"| {n:,} | {result.index['bytes']:,} | {index:.0f} | {search:.0f} | {ratio:.2f} "
        f"| {peaks[0]:,.0f} | {peaks[1]:,.0f} | {max(peaks) / least:.2f} |"
    )


def _phase(result: Result, name: str, what: str) -> float:
    return float(next(phase[what] for phase in result.phases if phase["name"] == name))


if __name__ == "__main__":
    main()
