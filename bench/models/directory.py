"""Models that exist already: a causal language model in a folder of this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from bench.core.errors import UserError
from bench.core.fields import identifying
from bench.models.adapters import adapter_sha256, check_adapter, with_adapter
from bench.models.base import ModelSource, no_moments_to_step_with, unknown_learning_rate
from bench.models.devices import check_accelerate, spreading
from bench.models.hub import hub_folder
from bench.models.language_model import (
    MOMENTS,
    Checkpoint,
    LanguageModel,
)
from bench.models.loading import (
    directory_sha256,
    load_directory,
    load_tokenizer,
    weights_sha256,
)
from bench.models.moment_files import sha256_of
from bench.models.moments_estimate import ESTIMATE_VERSION, with_estimate
from bench.models.second_moments import load_moments
from bench.models.settings import ESTIMATE, DirectoryConfig
from bench.models.sizes import check_files
from bench.storage.keys import content_key
from bench.tasks.base import Task


class Directory(ModelSource):
    """A source that loads a folder: weights, tokenizer and, where given, second moments."""

    Config = DirectoryConfig

    def check(self) -> None:
        """Refuse numbers out of range, unknown dtypes, and files and folders that are not there.

        The sizes in the model's configuration are numbers, too.
        """
        config: DirectoryConfig = self.config
        config.check()
        if config.device_map is not None:
            check_accelerate()
        if config.path is None:
            raise UserError(
                "no weights are given",
                where="model.path",
                fix="set model.path=DIR to a model",
            )
        check_files(self._path)
        if (adapter := config.adapter_path) is not None:
            check_adapter(adapter)

    def check_step(self, optimizer: str, learning_rate: float | None) -> None:
        """Refuse a step without learning rate, or with an optimizer state that is not given."""
        if learning_rate is None and self.config.learning_rate is None:
            raise unknown_learning_rate()
        if optimizer == "saved" and self.config.optimizer_state is None:
            raise no_moments_to_step_with(self.name)

    @property
    def _path(self) -> Path:
        if self.config.revision is not None:
            return hub_folder(self.config.path, self.config.revision)
        return Path(self.config.path).expanduser()

    def identity(self, task: Task) -> str:
        """Hash of the files and of the settings that they are read with, wherever they are."""
        settings = identifying(self.config) | {"path": directory_sha256(self._path)}
        del settings["adapter"], settings["revision"]
        if (adapter := self.config.adapter_path) is not None:
            settings["adapter"] = adapter_sha256(adapter)
        settings["checkpoints"] = [
            _checkpoint_identity(path) for path in self.config.checkpoint_paths
        ]
        if self.config.optimizer_state == ESTIMATE:
            settings["optimizer_state"] = [ESTIMATE, ESTIMATE_VERSION, task.corpus_sha256]
        else:
            del settings["estimate_moments"]  # it changes nothing
        if (state := self.config.state_path) is not None:
            settings["optimizer_state"] = sha256_of(state) if state.exists() else None
        return content_key(settings)

    def load(self, task: Task, cache_dir: Path, device: str) -> LanguageModel:
        """Load the folder; task and cache play a part only where moments are estimated."""
        config: DirectoryConfig = self.config
        spread = None
        if config.device_map is not None:
            spread = spreading(torch.device(device), config.gpu_memory, config.cpu_memory)
        model = load_directory(
            self.name,
            self._path,
            spread=spread,
            device=device,
            dtype=getattr(torch, config.dtype),
            gradient_dtype=getattr(torch, config.gradient_dtype),
            append_eos=config.append_eos,
            context_length=config.context_length,
        )
        if config.revision is not None:
            model.training = {"hub": config.path, "commit": self._path.name}
        if (adapter := config.adapter_path) is not None:
            model.module = with_adapter(cast("PreTrainedModel", model.module), adapter)
            model.sha256 = content_key([model.sha256, adapter_sha256(adapter)], length=64)
        if (state := self.config.state_path) is not None:
            model.second_moments = load_moments(
                state, model.module, config.adam_epsilon, config.adam_beta2
            )
        return completed(config, model, task, cache_dir)

    def architecture(self) -> PretrainedConfig:
        """The configuration in the folder."""
        self.check()
        try:
            return AutoConfig.from_pretrained(
                self._path, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                "has no config.json that transformers can read", where=str(self._path)
            ) from error

    def tokenizer(
        self,
        task: Task | None,  # noqa: ARG002
        cache_dir: Path,  # noqa: ARG002
    ) -> PreTrainedTokenizerBase | None:
        """The tokenizer of the folder; None without a folder, or if it holds none."""
        if self.config.path is None:
            return None
        try:
            return load_tokenizer(self._path)
        except UserError:
            return None


def completed(
    config: DirectoryConfig, model: LanguageModel, task: Task, cache_dir: Path
) -> LanguageModel:
    """Give a loaded model what settings say beside its weights and its state; returns it.

    Task and cache play a part only where moments are estimated.
    """
    model.adam_epsilon, model.adam_beta2 = config.adam_epsilon, config.adam_beta2
    if config.optimizer_state == ESTIMATE and config.estimate_moments is not None:
        settings = config.estimate_moments
        model.estimate = partial(with_estimate, task=task, config=settings, cache_dir=cache_dir)
        model.estimate(model)
    model.learning_rate = config.learning_rate
    paths, rates = config.checkpoint_paths, config.checkpoint_learning_rates
    model.checkpoints = [Checkpoint(path, rate) for path, rate in zip(paths, rates, strict=True)]
    return model


def _checkpoint_identity(folder: Path) -> list[str | None]:
    """Hashes of a checkpoint's weights and of its second moments, if it has any."""
    moments = folder / MOMENTS
    return [
        weights_sha256(folder),
        sha256_of(moments) if moments.exists() else None,
    ]
