"""``tdabench train``: trains a model on a task's passages, or goes on where that was stopped.

The same training as a run makes on demand: what is trained here, no run trains again.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from bench.core import progress
from bench.core.escape import clean
from bench.models.language_model import MOMENTS
from bench.run.composing import composed, model_source, task_builder
from bench.run.settings import settings_from
from bench.tasks import load_task


def main(overrides: Sequence[str]) -> int:
    """Train, and print where the model is and how to use it.

    Args:
        overrides: as of ``tdabench run``; what is of the method or the metrics plays no part.

    Raises:
        UserError: wrong overrides, a model that is not trained here, or a training that diverges.
    """
    settings = settings_from(composed(overrides, "train"))
    progress.set_quiet(settings.quiet)
    source = model_source(settings)
    source.check()
    source.check_training()
    settings.cache.check()
    task = load_task(settings.task["name"], task_builder(settings), settings.cache_dir)
    trained = source.trained_folder(task, settings.cache_dir)
    with nullcontext() if trained is None else settings.cache.shared(trained):
        folder = source.train(task, settings.cache_dir, settings.device)
    model = source.load(task, settings.cache_dir, "cpu")
    print(f"model: {clean(folder)}")
    print(
        f"{model.n_params:,} parameters, {len(model.checkpoints)} earlier checkpoints, "
        f"facts recalled {model.training['facts_recalled']:.0%}"
    )
    print(f"on this task: {shlex.join(['tdabench', 'run', *overrides])}")
    print(f"elsewhere: {_elsewhere(folder, model.learning_rate)}")
    return 0


def _elsewhere(folder: Path, learning_rate: float | None) -> str:
    """The command that takes the folder for any model."""
    words = [
        f"model.path={folder}",
        f"model.optimizer_state={folder / MOMENTS}",
        f"model.learning_rate={learning_rate}",
    ]
    return clean(shlex.join(["tdabench", "run", "model=hf", *words]))
