"""A long phase with one process beside two: how much of the second one is gained.

    python benchmarks/engines.py --rounds 5
    python benchmarks/engines.py --phase search --passages 131072
    python benchmarks/engines.py --phase ekfac --passages 16384
    python benchmarks/engines.py --phase tail_patch --passages 2000

The phases: ``encode`` makes the index of a corpus; ``search`` is TrackStar's R, the search and the
exact scores, of an index that is there; ``ekfac`` is EK-FAC whole, factors and scores;
``embeddings`` are the hidden states of the corpus (repsim); ``tail_patch`` is a step on each
passage, asked one query each. Both sides are ``engine=processes``, so both pay for starting
workers; each worker has one thread. A round does the same with one worker and with two, in folders
of their own, and checks that shards are equal byte for byte, or lists bit for bit; the order
changes from round to round. One group of shards is done in this process, so there must be several:
see ``--shard-rows`` and ``--group-texts``. The figure is the median over rounds of one worker's
time over two workers' in the same round, so that other work on the machine cancels. It needs two
idle cores; the target is at least 1.7.
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
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch starts

from hydra import compose, initialize_config_module

from bench.core import progress
from bench.core.typed import typed
from bench.engines import Engine, processes
from bench.engines.processes import Processes, ProcessesConfig
from bench.models.language_model import LanguageModel
from bench.models.recipe import ModelRecipe
from bench.models.scratch import Scratch
from bench.run.extend_hydra import extend_hydra
from bench.run.settings import Settings, settings_from
from bench.storage.mirror import Mirror
from bench.tasks import TASKS, load_task
from bench.tasks.base import Task
from methods.base import Context, Method
from methods.choosing import chosen
from methods.gradient import ekfac, groups, index
from metrics.tail_patch import TailPatch

TAUGHT = 2_000  # passages that the model is trained on
QUERIES = 100
PHASES = ("encode", "search", "ekfac", "embeddings", "tail_patch")


@dataclass(frozen=True)
class Workload:
    """A corpus, a model, how other processes get it, and the settings of both."""

    settings: Settings
    task: Task
    model: LanguageModel
    recipe: ModelRecipe

    def method(self, name: str, cache: Path, engine: Engine) -> Method:
        """A method with the settings that its file has."""
        context = Context(
            self.task,
            cache,
            load_model=lambda: self.model,
            engine=engine,
            model_recipe=self.recipe,
        )
        settings = settings_from(compose("config", [f"method={name}"])).method
        kind, config = chosen(settings)
        return kind(config, context)

    def encode(self, cache: Path, engine: Engine) -> tuple[float, Any]:
        """Make the index from nothing: the seconds, and the shards."""
        method = self.method("trackstar", cache, engine)
        began = time.perf_counter()
        method.index()
        seconds = time.perf_counter() - began
        return seconds, {path.name: path.read_bytes() for path in cache.rglob("shard-*.npy")}

    def search(self, cache: Path, engine: Engine) -> tuple[float, Any]:
        """Search an index that is there: the seconds, and the lists."""
        if not (cache.parent / "index").exists():
            self.method("trackstar", cache.parent, Processes(ProcessesConfig(2, gpus=0))).index()
        cache.mkdir()
        (cache / "index").symlink_to(cache.parent / "index")
        method = self.method("trackstar", cache, engine)
        method.index()
        began = time.perf_counter()
        return self._lists(method, began)

    def ekfac(self, cache: Path, engine: Engine) -> tuple[float, Any]:
        """Fit the factors and score all passages: the seconds, and the lists."""
        method = self.method("ekfac", cache, engine)
        began = time.perf_counter()
        method.index()
        return self._lists(method, began)

    def embeddings(self, cache: Path, engine: Engine) -> tuple[float, Any]:
        """Make the vectors of the corpus from nothing: the seconds, and their bytes."""
        method = self.method("repsim", cache, engine)
        began = time.perf_counter()
        method.index()
        seconds = time.perf_counter() - began
        return seconds, [path.read_bytes() for path in cache.rglob("embeddings.npy")]

    def tail_patch(self, cache: Path, engine: Engine) -> tuple[float, Any]:
        """Step on every passage: the seconds, and what came of it."""
        queries, n = self.task.queries, len(self.task.passages)
        config = settings_from(compose("config")).metric.tail_patch
        config = replace(config, top=-(-n // len(queries)))
        rows = {query.query_id: range(i, n, len(queries)) for i, query in enumerate(queries)}
        began = time.perf_counter()
        patch = TailPatch(config, self.model, self.task, cache, engine, self.recipe, Mirror(cache))
        measured = patch.measure(queries, rows)
        return time.perf_counter() - began, measured

    def _lists(self, method: Method, began: float) -> tuple[float, Any]:
        queries = self.task.queries[:QUERIES]
        lists = [(one.rows.tolist(), one.scores.tolist()) for one in method.search(queries, 100)]
        return time.perf_counter() - began, lists


def prepare(folder: Path, model: str, passages: int) -> Workload:
    """Train a model on few passages of factworld; how well it is trained does not matter here."""
    extend_hydra()
    overrides = [f"task.n_passages={passages}", f"model={model}", "device=cpu"]
    settings = settings_from(compose("config", [*overrides, f"cache_dir={folder}"]))
    name = settings.task["name"]
    task_class = TASKS.get(name)
    config = typed(task_class.Config, settings.task, "task", ("name",))
    task = load_task(name, task_class(config), folder)
    taught = load_task(name, task_class(replace(config, n_passages=TAUGHT)), folder)
    config = typed(Scratch.Config, settings.model, "model", ("name", "source"))
    source = Scratch(settings.model["name"], replace(config, epochs=1))
    recipe = ModelRecipe(source, taught, folder, "cpu")
    return Workload(settings, task, recipe(), recipe)


def main() -> None:
    """Measure and print."""
    options = _options()
    progress.set_quiet(True)
    extend_hydra()
    processes.cores = lambda: 1  # type: ignore[assignment] - one thread a worker, as said
    index.SHARD_ROWS = options.shard_rows
    groups.LEAST_TEXTS = ekfac.TEXTS_AT_ONCE = options.group_texts
    with (
        tempfile.TemporaryDirectory() as folder,
        initialize_config_module("conf", version_base="1.3"),
    ):
        workload = prepare(Path(folder), options.model, options.passages)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for number in range(options.rounds):
            found = {}
            for workers in random.Random(number).sample([1, 2], 2):
                cache = Path(folder, f"{number}-{workers}")
                engine = Processes(ProcessesConfig(workers, gpus=0))
                taken, found[workers] = getattr(workload, options.phase)(cache, engine)
                seconds[workers].append(taken)
            assert found[1] == found[2], "what is found depends on the number of workers"
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    _report(options, seconds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--phase", choices=PHASES, default="encode")
    parser.add_argument("--passages", type=int, default=50_000)
    parser.add_argument("--group-texts", type=int, default=groups.LEAST_TEXTS)
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
