"""Models that are trained here, whatever they begin from: made once, cached by content, sealed."""

from __future__ import annotations

import json
import shutil
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from bench.core.errors import UserError
from bench.engines.base import Engine
from bench.models import resuming
from bench.models.base import ModelSource
from bench.models.batches import BatchSize
from bench.models.beginning import Beginning, Occasion
from bench.models.checkpoints import load_checkpoint
from bench.models.language_model import (
    LEARNING_RATE,
    MOMENTS,
    TRAINING,
    Checkpoint,
    LanguageModel,
)
from bench.models.learning import CHECKPOINTS, Course, empty, learn
from bench.models.loading import load_directory, load_tokenizer
from bench.models.retraining import Removal, Retrainings
from bench.models.second_moments import load_moments
from bench.models.training import Training, TrainingDivergedError, fixed_threads
from bench.models.tuning_settings import LoraSettings, TrainConfig
from bench.storage.keys import content_key
from bench.storage.mirror import Mirror
from bench.storage.sealed import open_sealed, seal
from bench.storage.whole_folders import resumable_folder
from bench.tasks.base import Task

_KIND = "trained model"


@dataclass(frozen=True)
class TrainingSize:
    """What the cost of a training depends on, beside the model and its texts.

    Attributes:
        epochs: the most epochs.
        batch: how much a forward pass and a step go over.
        optimizer: a name of ``OPTIMIZERS``.
        half: whether products are in half precision, beside weights in float32.
        recompute: whether activations are computed again in the backward pass.
        threads: the number of threads that torch has in a training on a CPU.
        lora: the adapter that alone is trained; None where all weights are.
    """

    epochs: int
    batch: BatchSize
    optimizer: str
    half: bool = False
    recompute: bool = False
    threads: int = 1
    lora: LoraSettings | None = None


class Trained(ModelSource):
    """A source that trains a model once for a task and settings, and then loads it.

    Second moments are saved by parameter name. A training that is stopped goes on where it was
    saved last.
    """

    @abstractmethod
    def _trained_from(self, task: Task) -> list[Any]:
        """All that the trained weights depend on, as JSON values."""

    @abstractmethod
    def _prepare(self, folder: Path, task: Task) -> None:
        """Put the tokenizer into the empty folder of a training, and say what is to be trained."""

    @abstractmethod
    def _course(self, training: Training, task: Task) -> Course:
        """What decides how long a training goes on, before its first step."""

    @abstractmethod
    def _beginning(self, trained: Path) -> Beginning:
        """The beginning of the training that has made a model's folder."""

    def training_size(self) -> TrainingSize:
        """What the cost of a training depends on, beside the model and its texts."""
        train: TrainConfig = self.config.train
        return TrainingSize(
            epochs=train.epochs,
            batch=BatchSize(train.batch_size, train.batch_tokens, train.accumulate),
            optimizer=train.optimizer,
            half=train.precision != "float32",
            recompute=train.recompute,
            threads=train.threads,
            lora=None if train.lora.rank is None else train.lora,
        )

    def identity(self, task: Task) -> str:
        """Hash of what the model is trained on and with, and of the settings to read it with."""
        parts = [self._training_key(task), self.config.gradient_dtype]
        checkpoint = self.config.checkpoint
        return content_key(parts if checkpoint is None else [*parts, checkpoint])

    @torch.random.fork_rng()  # the caller's random numbers go on as if nothing were trained here
    def _train(self, folder: Path, task: Task, device: str) -> None:
        """Train in a folder, or go on with what was stopped in it.

        Weights, second moments, checkpoints and a log are saved beside the tokenizer.

        Args:
            folder: an empty folder, or that of the same training that was stopped.
            task: the task, whose passages are trained on and whose queries are asked.
            device: torch device name.
        """
        with fixed_threads(self.training_size().threads):
            stopped = resuming.stopped(folder, device)
            if stopped is None:
                empty(folder)
                self._prepare(folder, task)
            training = self._beginning(folder).training(Occasion(task, folder, device))
            learn(training, stopped, self._course(training, task), folder)

    def _training_key(self, task: Task) -> str:
        return content_key(self._trained_from(task))

    def trained_folder(self, task: Task, cache_dir: Path) -> Path:
        """The folder of the trained model, named by all that its weights depend on."""
        return cache_dir / "models" / self.name / self._training_key(task)

    def load(self, task: Task, cache_dir: Path, device: str) -> LanguageModel:
        """Open the cached model, training it first if there is none.

        Raises:
            UserError: as ``train``, or the training ended before the checkpoint that is asked for.
        """
        folder = self.train(task, cache_dir, device)
        model = self._open(folder, device)
        model.second_moments = load_moments(folder / MOMENTS, model.module)
        model.checkpoints = _checkpoints(folder)
        model.learning_rate = self._last_learning_rate(folder)
        model.training = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        return self._at_checkpoint(model)

    def _open(self, folder: Path, device: str) -> LanguageModel:
        """The model in the folder of a training, without what is known of the training."""
        return self._whole(folder, device)

    def _whole(
        self,
        folder: Path,
        device: str,
        context_length: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> LanguageModel:
        """The model in a folder that holds all of its weights."""
        return load_directory(
            self.name,
            folder,
            device=device,
            dtype=dtype,
            gradient_dtype=getattr(torch, self.config.gradient_dtype),
            append_eos=self.config.append_eos,
            context_length=context_length,
        )

    def _last_learning_rate(self, folder: Path) -> float:
        """The learning rate of the last step."""
        return _learning_rate(folder)

    def _at_checkpoint(self, model: LanguageModel) -> LanguageModel:
        """The model as it was after the epoch that is asked for; itself if that is the last."""
        epoch, trained = self.config.checkpoint, len(model.training["epochs"])
        if epoch in (None, trained):
            return model
        if epoch > trained:
            raise UserError(
                f"the training ended after epoch {trained}",
                where=f"model.checkpoint={epoch}",
                fix=f"ask for 1 to {trained}, or null for its end",
            )
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
                    try:
                        self._train(unfinished, task, device)
                    except TrainingDivergedError:
                        shutil.rmtree(unfinished, ignore_errors=True)
                        raise
                    seal(unfinished, _KIND, folder.name, made_from, {})
        open_sealed(folder, _KIND, made_from)
        return folder

    def check_training(self) -> None:
        """Any model of this source is trained here."""

    def check_retraining(self) -> None:
        """Any model of this source can be trained again."""

    def retrain(
        self,
        task: Task,
        cache: Mirror,
        device: str,
        removals: Sequence[Removal],
        engine: Engine,
    ) -> np.ndarray:
        """Train once more without some passages, as ``bench.models.retraining`` describes it."""
        folder = self.train(task, cache.local, device)
        log = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        retrainings = Retrainings(
            self._beginning(folder),
            epochs=self.config.checkpoint or len(log["epochs"]),
            threads=self.training_size().threads,
            task=task,
            # Of a retrained model only what it says of the queries is kept.
            folder=cache.local / "retrained" / content_key([self.identity(task), task.sha256]),
            cache=cache,
            device=device,
        )
        return retrainings.log_probs(removals, engine)

    def tokenizer(self, task: Task | None, cache_dir: Path) -> PreTrainedTokenizerBase | None:
        """The tokenizer of the cached model; None if the model is not trained yet."""
        folder = None if task is None else self.trained_folder(task, cache_dir)
        if task is None or folder is None or not folder.exists():
            return None
        open_sealed(folder, _KIND, self._trained_from(task))
        return load_tokenizer(folder)


def _checkpoints(folder: Path) -> list[Checkpoint]:
    """The checkpoints of all epochs but the last, oldest first."""
    checkpoints = folder / CHECKPOINTS
    paths = sorted(checkpoints.iterdir()) if checkpoints.exists() else []
    return [Checkpoint(path, _learning_rate(path)) for path in paths]


def _learning_rate(folder: Path) -> float:
    record = json.loads((folder / LEARNING_RATE).read_text(encoding="utf-8"))
    return float(record["learning_rate"])
