"""Small models trained from random weights on the task's own passages, cached by content."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from bench.core import progress
from bench.core.errors import UserError, did_you_mean
from bench.models.batches import BatchSize
from bench.models.beginning import RandomWeights, geometry
from bench.models.learning import Course, what_it_knows
from bench.models.settings import ScratchConfig
from bench.models.trained import Trained, TrainingSize
from bench.models.training import LAST_SHARE, Training, train_tokenizer
from bench.tasks.base import Task

# The version is raised whenever a change of code would train another model from the same settings,
# or keep other files of it.
TRAINING_VERSION = 5
OPTIMIZERS_WITHOUT_DECAY = ("adafactor", "adam")
_READ_WITH = ("gradient_dtype", "projection_dim", "checkpoint")
_THREADS = 1  # two were no faster on a machine in use


class Scratch(Trained):
    """A source that trains a model from random weights.

    The optimizer is Adafactor, as in the paper (section 4), or Adam; after the warm-up the learning
    rate falls in a line to a tenth.
    """

    Config = ScratchConfig

    def check(self) -> None:
        """Refuse geometries that cannot be built, and what would fail only after training."""
        config: ScratchConfig = self.config
        config.check()
        if config.optimizer not in OPTIMIZERS_WITHOUT_DECAY:
            raise UserError(
                f"unknown optimizer {config.optimizer!r}",
                where="model.optimizer",
                fix=did_you_mean(config.optimizer, OPTIMIZERS_WITHOUT_DECAY),
            )

    def _trained_from(self, task: Task) -> list[Any]:
        # The settings that a model is read with do not change what is trained.
        settings = asdict(self.config).items()
        trained_by = {key: value for key, value in settings if key not in _READ_WITH}
        return [TRAINING_VERSION, task.corpus_sha256, trained_by]

    def _prepare(self, folder: Path, task: Task) -> None:
        config: ScratchConfig = self.config
        progress.say(f"train {config.architecture} on {len(task.passages):,} passages")
        tokenizer = train_tokenizer((p.text for p in task.passages), config.vocab_size)
        tokenizer.model_max_length = config.context_length
        tokenizer.save_pretrained(folder)

    def _course(self, training: Training, task: Task) -> Course:  # noqa: ARG002
        config: ScratchConfig = self.config
        ask = partial(what_it_knows, task=task)
        return Course(config.epochs, ask=ask, facts={"optimizer": config.optimizer})

    def _beginning(self, trained: Path) -> RandomWeights:
        return RandomWeights(self.config, tokenizer=trained)

    def training_size(self) -> TrainingSize:
        """What the cost of a training depends on, beside the model and its texts."""
        config: ScratchConfig = self.config
        return TrainingSize(
            config.epochs, BatchSize(config.batch_size), config.optimizer, threads=_THREADS
        )

    def _last_learning_rate(self, folder: Path) -> float:  # noqa: ARG002
        # That of the last step but for rounding: rows made before it was read from its file stay.
        rate: float = self.config.learning_rate * LAST_SHARE
        return rate

    def architecture(self) -> PretrainedConfig:
        """The configuration of the model, with the largest vocabulary that it may have."""
        self.check()
        return geometry(self.config, self.config.vocab_size)
