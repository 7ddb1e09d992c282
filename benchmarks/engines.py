"""A phase of a run with one process beside two: how much of the second one is gained.

    python benchmarks/engines.py --rounds 5
    python benchmarks/engines.py --phase tail-patch --passages 2000

Both are ``engine=processes``, so both pay for starting workers that load the model; each worker has
one thread. A round does the same phase with one worker and with two, with caches of their own, and
checks that both leave the same, bit for bit; the order changes from round to round. The figure is
the median over rounds of one worker's time over two workers' in the same round, so that other work
on the machine cancels. It needs two idle cores; the target is at least 1.7.

    encoding     the gradient index of the corpus
    embeddings   the hidden states of the corpus (repsim)
    tail-patch   a step on each of ``--passages`` passages, asked one query each
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
from metrics.tail_patch import TailPatch

_DESCRIBED = ("name", "target")
TAUGHT = 2_000  # passages that the model is trained on


@dataclass(frozen=True)
class Work:
    """A corpus, a model, and how other processes get it.

    Attributes:
        settings: by method.
        task: the corpus.
        model: the model, in this process.
        recipe: of the model, for others.
    """

    settings: dict[str, Settings]
    task: Task
    model: LanguageModel
    recipe: ModelRecipe

    def encoding(self, cache: Path, engine: Engine) -> object:
        """Make the gradient index of the corpus from nothing; returns the bytes of its shards."""
        return self._indexed("trackstar", cache, engine, "shard-*")

    def embeddings(self, cache: Path, engine: Engine) -> object:
        """Make the vectors of the corpus from nothing; returns their bytes."""
        return self._indexed("repsim", cache, engine, "embeddings.npy")

    def _indexed(self, name: str, cache: Path, engine: Engine, files: str) -> dict[str, bytes]:
        context = Context(
            self.task,
            cache,
            load_model=lambda: self.model,
            engine=engine,
            model_recipe=self.recipe,
        )
        method_class = METHODS.get(name)
        config = typed(method_class.Config, self.settings[name].method, "method", _DESCRIBED)
        method_class(config, context).index()
        return {path.name: path.read_bytes() for path in cache.rglob(files)}

    def tail_patch(self, cache: Path, engine: Engine) -> object:
        """Step on every passage; returns what came of it."""
        config = self.settings["trackstar"].metric.tail_patch
        queries, n = self.task.queries, len(self.task.passages)
        config = replace(config, top=-(-n // len(queries)))
        rows = {query.query_id: range(i, n, len(queries)) for i, query in enumerate(queries)}
        patch = TailPatch(config, self.model, self.task, cache, engine, self.recipe)
        return patch.measure(queries, rows)


def prepare(folder: Path, model: str, passages: int) -> Work:
    """Train a model on few passages of factworld; how well it is trained does not matter here."""
    overrides = [f"task.n_passages={passages}", f"model={model}", "device=cpu"]
    by_method = {}
    with initialize_config_module("conf", version_base="1.3"):
        for method in ("trackstar", "repsim"):
            words = [*overrides, f"method={method}", f"cache_dir={folder}"]
            by_method[method] = settings_from(compose("config", words))
    settings = by_method["trackstar"]
    name = settings.task["name"]
    task_class = TASKS.get(name)
    config = typed(task_class.Config, settings.task, "task", ("name",))
    task = load_task(name, task_class(config), folder)
    taught = load_task(name, task_class(replace(config, n_passages=TAUGHT)), folder)
    config = typed(Scratch.Config, settings.model, "model", ("name", "source"))
    source = Scratch(settings.model["name"], replace(config, epochs=1))
    recipe = ModelRecipe(source, taught, folder, "cpu")
    return Work(by_method, task, recipe(), recipe)


def main() -> None:
    """Measure and print."""
    options = _options()
    progress.set_quiet(True)
    processes.cores = lambda: 1  # type: ignore[assignment] - one thread a worker, as said
    index.SHARD_ROWS = options.shard_rows
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(Path(folder), options.model, options.passages)
        phase = {
            "encoding": work.encoding,
            "embeddings": work.embeddings,
            "tail-patch": work.tail_patch,
        }[options.phase]
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for number in range(options.rounds):
            left = {}
            for workers in random.Random(number).sample([1, 2], 2):
                cache = Path(folder, f"{number}-{workers}")
                began = time.perf_counter()
                left[workers] = phase(cache, Processes(ProcessesConfig(workers)))
                seconds[workers].append(time.perf_counter() - began)
            assert left[1] == left[2], "what is left depends on the number of workers"
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    _report(options, seconds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--phase", default="encoding", choices=("encoding", "embeddings", "tail-patch")
    )
    parser.add_argument("--passages", type=int, default=50_000)
    parser.add_argument("--shard-rows", type=int, default=index.SHARD_ROWS)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _report(options: argparse.Namespace, seconds: dict[int, list[float]]) -> None:
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    print(
        f"\n{options.phase}: {options.passages:,} passages, shards of {options.shard_rows:,}, "
        f"model {options.model}; {options.rounds} interleaved rounds\n"
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
