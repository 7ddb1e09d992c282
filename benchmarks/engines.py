"""Encoding a corpus with one process beside two: how much of the second one is gained.

    python benchmarks/engines.py --rounds 5

Both are ``engine=processes``, so both pay for starting workers that load the model; each worker has
one thread. A round encodes the same corpus with one worker and with two, into folders of their own,
and checks that the shards are equal byte for byte; the order changes from round to round. The
figure is the median over rounds of one worker's time over two workers' in the same round, so that
other work on the machine cancels. It needs two idle cores; the target is at least 1.7.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch starts

from hydra import compose, initialize_config_module

from bench.core import progress
from bench.core.typed import typed
from bench.engines import Engine, processes
from bench.engines.processes import Processes, ProcessesConfig
from bench.models.language_model import LanguageModel
from bench.models.recipe import ModelRecipe
from bench.models.scratch import Scratch
from bench.run.settings import Settings, settings_from
from bench.tasks import TASKS, load_task
from bench.tasks.base import Task
from methods import METHODS
from methods.base import Context
from methods.gradient import index

TAUGHT = 2_000  # passages that the model is trained on


@dataclass(frozen=True)
class Encoding:
    """A corpus, a model, and how other processes get it."""

    settings: Settings
    task: Task
    model: LanguageModel
    recipe: ModelRecipe

    def run(self, cache: Path, engine: Engine) -> None:
        """Make the index of the corpus from nothing."""
        context = Context(
            self.task,
            cache,
            load_model=lambda: self.model,
            engine=engine,
            model_recipe=self.recipe,
        )
        method_class = METHODS.get("trackstar")
        config = typed(method_class.Config, self.settings.method, "method", ("name", "target"))
        method_class(config, context).index()


def prepare(folder: Path, model: str, passages: int) -> Encoding:
    """Train a model on few passages of factworld; how well it is trained does not matter here."""
    overrides = [f"task.n_passages={passages}", f"model={model}", "device=cpu"]
    with initialize_config_module("conf", version_base="1.3"):
        settings = settings_from(compose("config", [*overrides, f"cache_dir={folder}"]))
    name = settings.task["name"]
    task_class = TASKS.get(name)
    config = typed(task_class.Config, settings.task, "task", ("name",))
    task = load_task(name, task_class(config), folder)
    taught = load_task(name, task_class(replace(config, n_passages=TAUGHT)), folder)
    config = typed(Scratch.Config, settings.model, "model", ("name", "source"))
    source = Scratch(settings.model["name"], replace(config, epochs=1))
    recipe = ModelRecipe(source, taught, folder, "cpu")
    return Encoding(settings, task, recipe(), recipe)


def main() -> None:
    """Measure and print."""
    options = _options()
    progress.set_quiet(True)
    processes.cores = lambda: 1  # type: ignore[assignment] - one thread a worker, as said
    index.SHARD_ROWS = options.shard_rows
    with tempfile.TemporaryDirectory() as folder:
        encoding = prepare(Path(folder), options.model, options.passages)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for number in range(options.rounds):
            files = {}
            for workers in random.Random(number).sample([1, 2], 2):
                cache = Path(folder, f"{number}-{workers}")
                began = time.perf_counter()
                encoding.run(cache, Processes(ProcessesConfig(workers)))
                seconds[workers].append(time.perf_counter() - began)
                files[workers] = {p.name: p.read_bytes() for p in cache.rglob("shard-*")}
            assert files[1] == files[2], "the bytes of an index depend on the number of workers"
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    _report(options, seconds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--passages", type=int, default=50_000)
    parser.add_argument("--shard-rows", type=int, default=index.SHARD_ROWS)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _report(options: argparse.Namespace, seconds: dict[int, list[float]]) -> None:
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    print(
        f"\n{options.passages:,} passages, shards of {options.shard_rows:,}, model "
        f"{options.model}; {options.rounds} interleaved rounds\n"
    )
    for workers, taken in seconds.items():
        print(f"{workers} worker(s): {statistics.median(taken):.1f} s (median)")
    print(
        f"one over two: {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}); "
        "the target is at least 1.7"
    )
    print(f"\nagain: python {shlex.join(sys.argv)}")


if __name__ == "__main__":
    main()
