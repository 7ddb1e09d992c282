"""``tdabench train``: trains a model on a task's passages, or goes on where that was stopped.

The same training as a run makes on demand: what is trained here, no run trains again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.cli.commands import parser_of
from bench.core import progress
from bench.core.escape import clean
from bench.run.composing import composed
from bench.run.parts import Parts
from bench.run.settings import settings_from


def main(words: Sequence[str]) -> int:
    """Train, and print where the model is and how to use it; returns 0.

    Raises:
        UserError: wrong words, a model that is not trained here, or a training that diverges.
    """
    parser = parser_of("train")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as of `tdabench run`: model=… and task=…, of which a run makes and finds the same "
        "model; what is of the method or the metrics plays no part. After each epoch all is saved "
        "that the next needs: a training that is stopped or killed goes on from there, and ends in "
        "the same weights",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="copy the model there, less its checkpoints, as bench/models/weights holds them",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print steps, tokens, FLOPs, memory and hours, and train nothing; takes "
        "plan.passages, plan.tokens_per_passage, plan.device_tflops and plan.tokens_per_second",
    )
    arguments = parser.parse_args(words)
    overrides = arguments.overrides
    if arguments.dry_run:
        from bench.plan.planning import plan_settings  # slow to import, as below
        from bench.plan.training import plan_training, print_training

        print_training(plan_training(*plan_settings(overrides)))
        return 0
    settings = settings_from(composed(overrides, "train"))
    progress.set_quiet(settings.quiet)
    parts = Parts(settings)
    parts.check_files()
    parts.check_device()
    parts.source.check()
    parts.source.check_training()
    settings.cache.check()
    if arguments.out is not None:
        _check_publishable(arguments.out, settings.model)
    with parts.trained_model_shared():
        folder = parts.source.train(parts.task, settings.cache_dir, settings.device)
    model = parts.source.load(parts.task, settings.cache_dir, "cpu")
    print(f"model: {clean(folder)}")
    print(
        f"{model.n_params:,} parameters, {len(model.checkpoints)} earlier checkpoints, "
        f"facts recalled {model.training['facts_recalled']:.0%}"
    )
    print(f"on this task: {shlex.join(['tdabench', 'run', *overrides])}")
    print(f"elsewhere: {_elsewhere(folder, parts.settings.model, model.learning_rate)}")
    if arguments.out is not None:
        _publish(folder, arguments.out, parts, overrides, model.learning_rate)
    return 0


def _check_publishable(to: Path, model: Mapping[str, Any]) -> None:
    """Refuse a folder that could not be made, before hours of training."""
    from bench.models.published import check_publishable  # slow to import

    rank = model.get("train", {}).get("lora", {}).get("rank")
    check_publishable(to, f"model.train.lora.rank={rank}", is_adapter=rank is not None)


def _publish(
    folder: Path, to: Path, parts: Parts, overrides: Sequence[str], learning_rate: float | None
) -> None:
    """Copy the model to a folder of its own, and print the hash that pins it."""
    from bench.models.published import publish  # slow to import

    of_task = sorted(word for word in overrides if word.startswith("task"))
    trained_on = shlex.join(of_task or [f"task={parts.task.name}"])
    sha256 = publish(folder, to, parts.task, trained_on, learning_rate)
    print(f"published: {clean(to)}, model.sha256={sha256}")


def _elsewhere(folder: Path, model: Mapping[str, Any], learning_rate: float | None) -> str:
    """The command that takes the folder for any model, or for the adapter that it is."""
    from bench.models.language_model import MOMENTS  # slow to import

    is_whole = (folder / "config.json").is_file()
    words = [
        *([] if is_whole else [f"model.path={model['init']}"]),
        f"model.{'path' if is_whole else 'adapter'}={folder}",
        f"model.optimizer_state={folder / MOMENTS}",
        f"model.learning_rate={learning_rate}",
    ]
    return clean(shlex.join(["tdabench", "run", "model=hf", *words]))
