"""What `tdabench plan` says that encoding takes, beside what it took: several sizes of model.

    python benchmarks/plan_points.py --rounds 5

The figures for clusters in docs/scale.md are FLOPs over a rate. This checks both on one machine:
the rate that plan measures in a second or two, and the FLOPs that it counts, whose share of the
time should be the same whatever the size of the model. A round goes through the models in another
order; each is planned and then encodes its corpus from nothing, with one thread. Printed are
medians of seconds and of measured over planned; ratios close to each other say that the count
scales as the work does, and ratios close to 1 that the rate is right as well.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import statistics
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch starts

from engines import Workload, prepare
from hydra import initialize_config_module

from bench.core import progress
from bench.engines.serial import Serial, SerialConfig
from bench.plan.planning import PlanConfig, make_plan

SAMPLE = 500  # passages whose tokens are counted: plan does not know the tokenizer of this model


def main() -> None:
    """Measure and print."""
    options = _options()
    progress.set_quiet(True)
    sizes = dict(zip(options.models.split(","), map(int, options.passages.split(",")), strict=True))
    planned: dict[str, list[float]] = {model: [] for model in sizes}
    taken: dict[str, list[float]] = {model: [] for model in sizes}
    with (
        tempfile.TemporaryDirectory() as folder,
        initialize_config_module("conf", version_base="1.3"),
    ):
        root = Path(folder)
        workloads = {m: prepare(root / m, m, passages) for m, passages in sizes.items()}
        for number in range(options.rounds):
            for model in random.Random(number).sample(list(sizes), len(sizes)):
                planned[model].append(_planned_seconds(workloads[model]))
                cache = root / f"{model}-{number}"
                taken[model].append(workloads[model].encode(cache, Serial(SerialConfig()))[0])
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        parameters = {model: one.model.n_params for model, one in workloads.items()}
    print(
        f"\nfactworld, trackstar's features, one thread, {options.rounds} interleaved rounds\n\n"
        "| model | parameters | passages | planned s | measured s | measured / planned |\n"
        "| :-- | --: | --: | --: | --: | --: |"
    )
    for model, passages in sizes.items():
        ratios = [t / p for t, p in zip(taken[model], planned[model], strict=True)]
        print(
            f"| {model} | {parameters[model]:,} | {passages:,} | "
            f"{statistics.median(planned[model]):.1f} | {statistics.median(taken[model]):.1f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    print(f"\nagain: python {shlex.join(sys.argv)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", default="micro,tiny,small")
    parser.add_argument("--passages", default="4000,4000,2000", help="of each model's corpus")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _planned_seconds(workload: Workload) -> float:
    store, model = workload.task.passages, workload.model
    lengths = [len(model.passage_tokens(store[row].text).ids) for row in range(SAMPLE)]
    config = PlanConfig(
        passages=None,
        tokens_per_passage=statistics.mean(lengths),
        queries=None,
        device_tflops=None,
        tokens_per_second=None,
        devices=1,
        disk_gb_per_second=1.0,
    )
    plan = make_plan(workload.settings, config)
    (step,) = [step for step in plan.passes if step.name.startswith("encode the corpus")]
    return plan.hours(step) * 3600


if __name__ == "__main__":
    main()
