"""A training from its beginning, or from where it was stopped, to its end.

After each epoch the model is asked what it knows. That is logged, and decides whether the training
goes on; weights, second moments and learning rate are kept as a checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from bench.core import progress
from bench.models import resuming
from bench.models.adapters import save_adapter
from bench.models.answers import query_log_probs
from bench.models.language_model import (
    LEARNING_RATE,
    MOMENTS,
    TRAINING,
    LanguageModel,
    mean_probability,
)
from bench.models.moment_files import BETA2, write_moments
from bench.models.parameter_names import adapter_names
from bench.models.resuming import Log, StoppedTraining
from bench.models.training import Training
from bench.tasks.base import Task

CHECKPOINTS = "checkpoints"  # a folder in that of the model, with one for each earlier epoch
_PROBE_QUERIES = 200  # facts that are asked after each epoch: enough to see learning, and cheap


@dataclass(frozen=True)
class Course:
    """What decides how long a training goes on, and what it tells of itself.

    Attributes:
        epochs: the most epochs.
        until: the mean target probability with which it ends earlier; None for no such end.
        ask: what a model knows, by the names of the log, ``target_probability`` among them.
        facts: what the log is to say beside the epochs.
        save_steps: steps within an epoch after which all is saved that the next needs; None to do
            so after whole epochs alone.
    """

    epochs: int
    ask: Callable[[LanguageModel], Log]
    facts: dict[str, Any]
    until: float | None = None
    save_steps: int | None = None


def learn(
    training: Training, stopped: StoppedTraining | None, course: Course, folder: Path
) -> None:
    """Train to the end, and save weights, second moments, checkpoints and the log.

    Args:
        training: the training, before its first step.
        stopped: the same training where it was stopped; None to begin.
        course: what decides when it ends.
        folder: the folder of the model, which holds its tokenizer.

    Raises:
        UserError: the training diverges.
    """
    history: list[Log] = []
    if stopped is not None:
        stopped.restore(training)
        history = stopped.log
        steps = f", step {stopped.steps} of the next" if stopped.steps else ""
        progress.say(f"go on training after epoch {len(history)}/{course.epochs}{steps}")
    training.save_every(course.save_steps, lambda: resuming.save(training, history, folder))
    ended = False
    for epoch, loss in enumerate(training.epochs(course.epochs), start=len(history) + 1):
        log = {"loss": loss, **course.ask(training.model)}
        progress.say(
            f"train epoch {epoch}/{course.epochs}: loss {loss:.3f}, facts recalled "
            f"{log['facts_recalled']:.0%}, mean target probability {log['target_probability']:.2f}"
        )
        history.append(log)
        ended = course.until is not None and log["target_probability"] >= course.until
        if ended:
            progress.say(f"train epoch {epoch}/{course.epochs}: reaches {course.until:g}, the end")
            break
        if epoch < course.epochs:  # the last one is the model itself, saved below
            save_model(training, epoch_folder(folder, epoch))
            resuming.save(training, history, folder)
    save_model(training, folder)
    summary = {**course.facts, "epochs": history, **history[-1]}
    if course.until is not None:
        summary["reached_target_probability"] = ended
    (folder / TRAINING).write_text(json.dumps(summary, indent=1), encoding="utf-8")
    resuming.forget(folder)


def what_it_knows(model: LanguageModel, task: Task) -> Log:
    """The share of facts recalled and the mean target probability, on evenly spaced queries."""
    every = max(1, len(task.queries) // _PROBE_QUERIES)
    return knowledge(model, task.queries[::every])


def knowledge(model: LanguageModel, queries: Any) -> Log:
    """The share of facts recalled and the mean target probability, over these queries."""
    log_probs, recalled = query_log_probs(model, [model.query_answers(q) for q in queries])
    return {
        "facts_recalled": sum(recalled) / len(recalled),
        "target_probability": mean_probability(log_probs),
    }


def epoch_folder(folder: Path, epoch: int) -> Path:
    """The folder of the checkpoint after an epoch, counted from 1, in the folder of the model."""
    return folder / CHECKPOINTS / f"epoch-{epoch:03}"


def empty(folder: Path) -> None:
    """Remove the files of a training that was stopped before anything of it was whole."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def save_model(training: Training, folder: Path) -> None:
    """Write weights (an adapter's alone), second moments, and the last step's learning rate."""
    module = cast("PreTrainedModel", training.model.module)
    if adapter_names(module):
        save_adapter(module, folder)
    else:
        module.save_pretrained(folder, safe_serialization=True)
    write_moments(_moments(training.optimizer, training), folder / MOMENTS)
    rate = {"learning_rate": training.optimizer.param_groups[0]["lr"]}
    (folder / LEARNING_RATE).write_text(json.dumps(rate), encoding="utf-8")


def _moments(optimizer: Optimizer, training: Training) -> dict[str, dict[str, Any]]:
    """The optimizer's state by parameter name, with β2 where it is Adam's.

    Adam's V is still to be corrected for its start at zero.
    """
    names: dict[Tensor, str] = {p: name for name, p in training.parameters().items()}
    settings = optimizer.param_groups[0]
    state = {names[parameter]: dict(values) for parameter, values in optimizer.state.items()}
    if "betas" in settings:
        for fields in state.values():
            fields[BETA2] = settings["betas"][1]
    return state
