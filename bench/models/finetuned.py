"""Models that exist already and are trained on here, over the task's passages."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from bench.core import progress
from bench.core.errors import UserError
from bench.core.fields import identifying
from bench.models.adapters import adapter_sha256, with_adapter
from bench.models.gguf import gguf_config, gguf_file
from bench.models.language_model import LanguageModel
from bench.models.learning import Course, knowledge
from bench.models.loading import directory_sha256
from bench.models.mixing import train_identity
from bench.models.resuming import Log
from bench.models.sizes import check_files
from bench.models.trained import Trained
from bench.models.training import Training
from bench.models.tuning import (
    SavedWeights,
    course_of,
    init_tokenizer,
    load_init,
    statements,
)
from bench.models.tuning_settings import FinetunedConfig
from bench.storage.hashes import file_sha256
from bench.storage.keys import content_key
from bench.tasks.base import Task

# The version is raised whenever a change of code would train another model from the same settings,
# or keep other files of it.
_VERSION = 1


class Finetuned(Trained):
    """A source that trains a local model on, until it knows the task's facts well enough.

    Unlike a small model from random weights, it depends on the queries, too: they say when the
    training ends, and their own statements may be trained on.
    """

    Config = FinetunedConfig
    reads_queries = True

    def check(self) -> None:
        """Refuse settings that cannot work, and a folder that is no model."""
        config: FinetunedConfig = self.config
        config.check()
        path = config.init_path
        if not (path / "config.json").is_file() and gguf_file(path) is None:
            raise UserError(
                "is not a model directory (neither config.json nor a GGUF file)",
                where=str(path),
                fix="set model.init to a folder written by save_pretrained",
            )
        check_files(path)

    def _trained_from(self, task: Task) -> list[Any]:
        config: FinetunedConfig = self.config
        settings = identifying(config) | {
            "init": _init_sha256(config.init_path),
            "train": train_identity(config.train),
        }
        return [_VERSION, task.sha256, settings]

    def _prepare(self, folder: Path, task: Task) -> None:
        path = self.config.init_path
        progress.say(f"train {path.name} on {len(task.passages):,} passages")
        init_tokenizer(path).save_pretrained(folder)

    def _course(self, training: Training, task: Task) -> Course:
        config: FinetunedConfig = self.config
        ask = partial(_what_it_knows, task=task, stated=statements(config, task.queries))
        facts = {"begun_from": _init_sha256(config.init_path)}
        return course_of(config, training, task, ask, facts)

    def _beginning(self, trained: Path) -> SavedWeights:  # noqa: ARG002
        return SavedWeights(self.config)

    def _open(self, folder: Path, device: str) -> LanguageModel:
        config: FinetunedConfig = self.config
        if config.train.lora.rank is None:
            return self._whole(folder, device, config.context_length)
        model = load_init(config, device)
        module = with_adapter(cast("PreTrainedModel", model.module), folder)
        sha256 = content_key([_init_sha256(config.init_path), adapter_sha256(folder)], length=64)
        dtype = getattr(torch, config.gradient_dtype)
        return replace(model, name=self.name, module=module, sha256=sha256, gradient_dtype=dtype)

    def architecture(self) -> PretrainedConfig:
        """The configuration of the model that is trained on."""
        self.check()
        path = self.config.init_path
        if (file := gguf_file(path)) is not None:
            return gguf_config(file)
        try:
            return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                "has no config.json that transformers can read", where=str(path)
            ) from error

    def tokenizer(self, task: Task | None, cache_dir: Path) -> PreTrainedTokenizerBase | None:
        """The tokenizer of the trained model or, before that, of the folder it begins from."""
        trained = super().tokenizer(task, cache_dir)
        return init_tokenizer(self.config.init_path) if trained is None else trained


def _what_it_knows(model: LanguageModel, task: Task, stated: list[bool]) -> Log:
    """What a model knows of all queries and, where some statements are trained on, of the others.

    The stopping rule reads the mean over all queries.
    """
    known = knowledge(model, task.queries)
    pairs = list(zip(task.queries, stated, strict=True))
    for name, wanted in (("stated", True), ("held_out", False)):
        part = [query for query, is_stated in pairs if is_stated == wanted]
        if any(stated) and part:
            known[f"{name}_target_probability"] = knowledge(model, part)["target_probability"]
    return known


def _init_sha256(path: Path) -> str:
    """The hash of the files that a model to begin from is read from."""
    file = gguf_file(path)
    return directory_sha256(path) if file is None else file_sha256(file)
