"""Small models trained from random weights on the task's own passages, cached by content."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from bench.core import progress
from bench.core.errors import UserError, did_you_mean
from bench.engines.base import Engine
from bench.models import resuming
from bench.models.base import ModelSource
from bench.models.checkpoints import load_checkpoint
from bench.models.language_model import (
    LEARNING_RATE,
    MOMENTS,
    TRAINING,
    Checkpoint,
    LanguageModel,
    mean_probability,
    target_log_probs,
)
from bench.models.loading import load_directory, load_tokenizer
from bench.models.moment_files import BETA2, write_moments
from bench.models.retraining import Removal, Retrainings
from bench.models.second_moments import load_moments
from bench.models.settings import ScratchConfig
from bench.models.training import (
    LAST_SHARE,
    OPTIMIZERS,
    Training,
    TrainingDivergedError,
    geometry,
    one_thread,
    train_tokenizer,
)
from bench.storage.keys import content_key
from bench.storage.sealed import open_sealed, seal
from bench.storage.whole_folders import resumable_folder
from bench.tasks.base import Task

# The version is raised whenever a change of this file or of training.py would train another model
# from the same settings, or keep other files of it.
TRAINING_VERSION = 5
_PROBE_QUERIES = 200  # facts that are asked after each epoch: enough to see learning, and cheap


class Scratch(ModelSource):
    """A source that trains a model once for a task's passages and settings, and then loads it.

    The optimizer is Adafactor, as in the paper (section 4), or Adam; after the warm-up the learning
    rate falls in a line to a tenth. Second moments are saved by parameter name. A training that is
    stopped goes on from its last whole epoch.
    """

    Config = ScratchConfig

    def check(self) -> None:
        """Refuse geometries that cannot be built, and what would fail only after training."""
        config: ScratchConfig = self.config
        config.check()
        if config.optimizer not in OPTIMIZERS:
            raise UserError(
                f"unknown optimizer {config.optimizer!r}",
                where="model.optimizer",
                fix=did_you_mean(config.optimizer, OPTIMIZERS),
            )

    def identity(self, task: Task) -> str:
        """Hash of what the model is trained on and with, and of the settings to read it with."""
        parts = [self._training_key(task), self.config.gradient_dtype]
        checkpoint = self.config.checkpoint
        return content_key(parts if checkpoint is None else [*parts, checkpoint])

    def _training_key(self, task: Task) -> str:
        return content_key(self._trained_from(task))

    def _trained_from(self, task: Task) -> list[Any]:
        """All that the trained weights depend on."""
        # The settings that a model is read with do not change what is trained.
        settings = asdict(self.config).items()
        trained_by = {key: value for key, value in settings if key not in _READ_WITH}
        return [TRAINING_VERSION, task.corpus_sha256, trained_by]

    def trained_folder(self, task: Task, cache_dir: Path) -> Path:
        """The folder of the trained model, named by all that its weights depend on."""
        return cache_dir / "models" / self.name / self._training_key(task)

    def load(self, task: Task, cache_dir: Path, device: str) -> LanguageModel:
        """Open the cached model, training it first if there is none."""
        folder = self.train(task, cache_dir, device)
        model = load_directory(
            self.name,
            folder,
            device=device,
            gradient_dtype=getattr(torch, self.config.gradient_dtype),
            append_eos=self.config.append_eos,
        )
        model.second_moments = load_moments(folder / MOMENTS, model.module)
        model.checkpoints = _checkpoints(folder)
        model.learning_rate = self.config.learning_rate * LAST_SHARE
        model.training = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        return self._at_checkpoint(model)

    def _at_checkpoint(self, model: LanguageModel) -> LanguageModel:
        """The model as it was after the epoch that is asked for; itself if that is the last."""
        epoch = self.config.checkpoint
        if epoch in (None, self.config.epochs):
            return model
        earlier, log = model.checkpoints, model.training["epochs"][:epoch]
        return replace(
            load_checkpoint(earlier[epoch - 1], model),
            checkpoints=earlier[: epoch - 1],
            training={**model.training, "epochs": log, **log[-1]},
        )

    def train(self, task: Task, cache_dir: Path, device: str) -> Path:
        """The sealed folder of the whole model, trained now if there is none.

        It is a model directory with ``second_moments.safetensors``, ``checkpoints/`` of all epochs
        but the last, each such a directory less the tokenizer, and the log ``training.json``.

        Raises:
            UserError: the training diverges, the folder is damaged, or the disk is full.
        """
        folder, made_from = self.trained_folder(task, cache_dir), self._trained_from(task)
        if not folder.exists():
            with resumable_folder(folder) as unfinished:
                if unfinished is not None:  # nobody else has trained it while we waited
                    self._train_in(unfinished, task, device)
                    seal(unfinished, _KIND, folder.name, made_from, {})
        open_sealed(folder, _KIND, made_from)
        return folder

    def _train_in(self, folder: Path, task: Task, device: str) -> None:
        try:
            train(replace(self.config, checkpoint=None), task, folder, device)
        except TrainingDivergedError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def check_training(self) -> None:
        """Any model of this source is trained here."""

    def check_retraining(self) -> None:
        """Any model of this source can be trained again."""

    def retrain(
        self,
        task: Task,
        cache_dir: Path,
        device: str,
        removals: Sequence[Removal],
        engine: Engine,
    ) -> np.ndarray:
        """Train once more without some passages, as ``bench.models.retraining`` describes it."""
        retrainings = Retrainings(
            self.config,
            tokenizer=self.train(task, cache_dir, device),
            task=task,
            # Of a retrained model only what it says of the queries is kept.
            folder=cache_dir / "retrained" / content_key([self.identity(task), task.sha256]),
            device=device,
        )
        return retrainings.log_probs(removals, engine)

    def architecture(self) -> PretrainedConfig:
        """The configuration of the model, with the largest vocabulary that it may have."""
        self.check()
        return geometry(self.config, self.config.vocab_size)

    def tokenizer(self, task: Task | None, cache_dir: Path) -> PreTrainedTokenizerBase | None:
        """The tokenizer of the cached model; None if the model is not trained yet."""
        folder = None if task is None else self.trained_folder(task, cache_dir)
        if task is None or folder is None or not folder.exists():
            return None
        open_sealed(folder, _KIND, self._trained_from(task))
        return load_tokenizer(folder)


_KIND = "trained model"
_CHECKPOINTS = "checkpoints"
_READ_WITH = ("gradient_dtype", "projection_dim", "checkpoint")


@one_thread()
@torch.random.fork_rng()  # the caller's random numbers go on as if nothing were trained here
def train(config: ScratchConfig, task: Task, folder: Path, device: str) -> None:
    """Train on the task's passages, and save model, tokenizer, second moments and a log.

    Args:
        config: the settings of the model and its training.
        task: the task whose passages are trained on.
        folder: an empty folder, or that of the same training that was stopped: it then goes on.
        device: torch device name.
    """
    stopped = resuming.stopped(folder, folder / _CHECKPOINTS, device)
    if stopped is None:
        _empty(folder)
        progress.say(f"train {config.architecture} on {len(task.passages):,} passages")
        tokenizer: PreTrainedTokenizerBase = train_tokenizer(
            (p.text for p in task.passages), config.vocab_size
        )
        tokenizer.model_max_length = config.context_length
        tokenizer.save_pretrained(folder)
    else:
        progress.say(f"go on training after epoch {len(stopped.log)}/{config.epochs}")
        tokenizer = load_tokenizer(folder)
    training = Training(config, tokenizer, task, folder, device)
    if stopped is not None:
        stopped.restore(training)
    module = cast("PreTrainedModel", training.model.module)
    history = stopped.log if stopped else []
    for epoch, loss in enumerate(training.epochs(), start=len(history) + 1):
        probability, recalled = _probe(training.model, task)
        progress.say(
            f"train epoch {epoch}/{config.epochs}: loss {loss:.3f}, facts recalled {recalled:.0%}, "
            f"mean target probability {probability:.2f}"
        )
        log = {"loss": loss, "facts_recalled": recalled, "target_probability": probability}
        history.append(log)
        if epoch < config.epochs:  # the last one is the model itself, saved below
            checkpoint = resuming.epoch_folder(folder / _CHECKPOINTS, epoch)
            _save(module, training.optimizer, checkpoint)
            resuming.save(training, history, folder)
    _save(module, training.optimizer, folder)
    summary = {"optimizer": config.optimizer, "epochs": history, **history[-1]}
    (folder / TRAINING).write_text(json.dumps(summary, indent=1), encoding="utf-8")
    resuming.forget(folder)


def _empty(folder: Path) -> None:
    """Remove the files of a training that was stopped before its first epoch was whole."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _save(module: PreTrainedModel, optimizer: Optimizer, folder: Path) -> None:
    """Write weights, second moments, and the learning rate of the last step."""
    module.save_pretrained(folder, safe_serialization=True)
    names: dict[Tensor, str] = {p: name for name, p in module.named_parameters()}
    settings = optimizer.param_groups[0]
    state = {names[parameter]: dict(values) for parameter, values in optimizer.state.items()}
    for fields in state.values():
        if "betas" in settings:  # Adam's, whose V is still to be corrected for its start at zero
            fields[BETA2] = settings["betas"][1]
    write_moments(state, folder / MOMENTS)
    rate = {"learning_rate": settings["lr"]}
    (folder / LEARNING_RATE).write_text(json.dumps(rate), encoding="utf-8")


def _checkpoints(folder: Path) -> list[Checkpoint]:
    """The checkpoints of all epochs but the last, oldest first."""
    checkpoints = folder / _CHECKPOINTS
    paths = sorted(checkpoints.iterdir()) if checkpoints.exists() else []
    return [
        Checkpoint(path, json.loads((path / LEARNING_RATE).read_text())["learning_rate"])
        for path in paths
    ]


def _probe(model: LanguageModel, task: Task) -> tuple[float, float]:
    """The mean target probability and the share of facts recalled, on evenly spaced queries."""
    every = max(1, len(task.queries) // _PROBE_QUERIES)
    probe = [model.query_tokens(query) for query in task.queries[::every]]
    log_probs, recalled = target_log_probs(model, probe)
    return mean_probability(log_probs), sum(recalled) / len(recalled)
