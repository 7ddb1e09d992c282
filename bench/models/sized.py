"""Models of the paper's sizes, or any other, trained here from random weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from bench.core import progress
from bench.core.errors import UserError
from bench.core.fields import identifying
from bench.models.geometry import decoder_of
from bench.models.language_model import LanguageModel
from bench.models.learning import Course, what_it_knows
from bench.models.loading import load_tokenizer, tokenizer_sha256
from bench.models.mixing import train_identity
from bench.models.trained import Trained
from bench.models.training import Training, train_tokenizer
from bench.models.tuning import NewWeights, course_of
from bench.models.tuning_settings import SizedConfig
from bench.storage.keys import content_key
from bench.tasks.base import Task

# The version is raised whenever a change of code would train another model from the same settings,
# or keep other files of it.
_VERSION = 1


class Sized(Trained):
    """A source of models too large to be trained by the way: a run uses one that is there.

    ``tdabench train`` makes it, on a task's passages, with the settings of ``train``. It depends on
    the task's queries only where these end the training, or where their statements are trained on.
    """

    Config = SizedConfig

    def check(self) -> None:
        """Refuse settings that cannot work, and a geometry that no decoder has."""
        self.architecture()

    def identity(self, task: Task) -> str:
        """Hash of what the model is trained on and with, and of the settings to read it with."""
        return content_key([super().identity(task), self.config.dtype])

    def _trained_from(self, task: Task) -> list[Any]:
        config: SizedConfig = self.config
        settings = identifying(config) | {"train": train_identity(config.train)}
        if (path := config.tokenizer_path) is not None:
            settings["tokenizer"] = tokenizer_sha256(path)
        asks = config.train.until is not None or config.train.statements > 0
        return [_VERSION, task.sha256 if asks else task.corpus_sha256, settings]

    def load(self, task: Task, cache_dir: Path, device: str) -> LanguageModel:
        """Open the cached model.

        Raises:
            UserError: it is not there: to train it takes a command of its own.
        """
        if not self.trained_folder(task, cache_dir).exists():
            raise UserError(
                "is not trained on this task's passages yet",
                where=f"model {self.name}",
                fix="train it with the same settings: tdabench train (--dry-run says what that "
                "takes)",
            )
        return super().load(task, cache_dir, device)

    def _open(self, folder: Path, device: str) -> LanguageModel:
        config: SizedConfig = self.config
        return self._whole(folder, device, config.context, getattr(torch, config.dtype))

    def _prepare(self, folder: Path, task: Task) -> None:
        config: SizedConfig = self.config
        progress.say(f"train a new model on {len(task.passages):,} passages")
        texts = (passage.text for passage in task.passages)
        tokenizer: PreTrainedTokenizerBase = (
            train_tokenizer(texts, config.geometry.vocab_size)
            if config.tokenizer_path is None
            else load_tokenizer(config.tokenizer_path)
        )
        tokenizer.model_max_length = config.context
        tokenizer.save_pretrained(folder)

    def _course(self, training: Training, task: Task) -> Course:
        return course_of(self.config, training, task, partial(what_it_knows, task=task), {})

    def _beginning(self, trained: Path) -> NewWeights:
        return NewWeights(self.config, tokenizer=trained)

    def architecture(self) -> PretrainedConfig:
        """The configuration of the geometry."""
        self.config.check()
        return decoder_of(self.config.geometry)

    def tokenizer(self, task: Task | None, cache_dir: Path) -> PreTrainedTokenizerBase | None:
        """The tokenizer of the trained model or, before that, the one that is given."""
        trained = super().tokenizer(task, cache_dir)
        given = self.config.tokenizer_path
        return trained if trained is not None or given is None else load_tokenizer(given)
