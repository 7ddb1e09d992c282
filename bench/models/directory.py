"""Models that exist already: a causal language model in a folder of this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from bench.core.errors import UserError, at_least, did_you_mean
from bench.models.base import ModelSource, no_moments_to_step_with, unknown_learning_rate
from bench.models.decoder import check_decoder
from bench.models.language_model import (
    DTYPES,
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
from bench.models.moments_estimate import ESTIMATE_VERSION, EstimateConfig, with_estimate
from bench.models.second_moments import load_moments
from bench.models.sizes import check_files, check_numbers
from bench.storage.keys import content_key
from bench.tasks.base import Task

ESTIMATE = "estimate"  # a value of `optimizer_state`: a pass over the task's passages, no file


@dataclass
class Geometry:
    """The size of a decoder that is planned with before there are weights."""

    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    context_length: int


@dataclass
class DirectoryConfig:
    """Settings of a model that exists already; defaults and reasons in ``conf/model/hf.yaml``."""

    path: Optional[str]  # noqa: UP045 - omegaconf reads the annotation at run time
    optimizer_state: Optional[str]  # noqa: UP045
    estimate_moments: Optional[EstimateConfig]  # noqa: UP045
    adam_epsilon: float
    adam_beta2: float
    learning_rate: Optional[float]  # noqa: UP045
    dtype: str
    gradient_dtype: str
    append_eos: bool
    context_length: Optional[int]  # noqa: UP045
    projection_dim: int
    geometry: Optional[Geometry]  # noqa: UP045
    checkpoints: list[str]
    checkpoint_learning_rates: list[float]

    @property
    def checkpoint_paths(self) -> list[Path]:
        """The folders of earlier checkpoints, oldest first."""
        return [Path(path).expanduser() for path in self.checkpoints]

    def check(self) -> None:
        """Refuse numbers out of range, unknown dtypes, and checkpoints that are not there.

        Raises:
            UserError: names the key.
        """
        self.check_dtypes()
        at_least(1, "model.context_length", self.context_length)
        if not 0 < self.adam_beta2 < 1:
            raise UserError(
                f"expected a number between 0 and 1, found {self.adam_beta2}",
                where="model.adam_beta2",
            )
        if self.optimizer_state == ESTIMATE:
            if self.estimate_moments is None:
                raise UserError(
                    "has no value",
                    where="model.estimate_moments",
                    fix="take that of conf/model/hf.yaml: passages, batch_size and seed",
                )
            self.estimate_moments.check()
        for path in self.checkpoint_paths:
            if not path.is_dir():
                raise UserError("no such directory", where=f"model.checkpoints: {path}")
        if len(self.checkpoints) != len(self.checkpoint_learning_rates):
            raise UserError(
                f"{len(self.checkpoints)} checkpoints and "
                f"{len(self.checkpoint_learning_rates)} learning rates",
                where="model.checkpoint_learning_rates",
                fix="give one for each of model.checkpoints, oldest first",
            )

    def check_dtypes(self) -> None:
        """Refuse a dtype that is none, with a UserError."""
        for name in ("dtype", "gradient_dtype"):
            value = getattr(self, name)
            if value not in DTYPES:
                raise UserError(
                    f"unknown dtype {value!r}",
                    where=f"model.{name}",
                    fix=did_you_mean(value, DTYPES),
                )

    def complete(self, model: LanguageModel, task: Task, cache_dir: Path) -> LanguageModel:
        """Give a loaded model what settings say beside its weights and its state; returns it.

        Task and cache play a part only where moments are estimated.
        """
        model.adam_epsilon, model.adam_beta2 = self.adam_epsilon, self.adam_beta2
        if self.optimizer_state == ESTIMATE and self.estimate_moments is not None:
            with_estimate(model, task, self.estimate_moments, cache_dir)
        model.learning_rate = self.learning_rate
        paths, rates = self.checkpoint_paths, self.checkpoint_learning_rates
        model.checkpoints = [
            Checkpoint(path, rate) for path, rate in zip(paths, rates, strict=True)
        ]
        return model


class Directory(ModelSource):
    """A source that loads a folder: weights, tokenizer and, where given, second moments."""

    Config = DirectoryConfig

    def check(self) -> None:
        """Refuse numbers out of range, unknown dtypes, and files and folders that are not there.

        The sizes in the model's configuration are numbers, too.
        """
        config: DirectoryConfig = self.config
        config.check()
        if config.path is None:
            raise UserError(
                "no weights are given",
                where="model.path",
                fix="set model.path=DIR to a model",
            )
        if not self._path.is_dir():
            raise UserError(
                "no such directory", where=config.path, fix="set model.path=DIR to a model"
            )
        if (state := self._state) is not None and not state.exists():
            raise UserError(
                "no such file or folder",
                where=f"model.optimizer_state={config.optimizer_state}",
                fix="or set it to estimate",
            )
        check_files(self._path)

    def check_step(self, optimizer: str, learning_rate: float | None) -> None:
        """Refuse a step without learning rate, or with an optimizer state that is not given."""
        if learning_rate is None and self.config.learning_rate is None:
            raise unknown_learning_rate()
        if optimizer == "saved" and self.config.optimizer_state is None:
            raise no_moments_to_step_with(self.name)

    @property
    def _state(self) -> Path | None:
        """The path of the optimizer's state; None if there is none or it is estimated."""
        state = self.config.optimizer_state
        return None if state in (None, ESTIMATE) else Path(state).expanduser()

    @property
    def _path(self) -> Path:
        return Path(self.config.path).expanduser()

    def identity(self, task: Task) -> str:
        """Hash of the files and of the settings that they are read with, wherever they are."""
        settings = asdict(self.config) | {"path": directory_sha256(self._path)}
        del settings["geometry"]  # a model that is there is its files
        settings["checkpoints"] = [
            _checkpoint_identity(path) for path in self.config.checkpoint_paths
        ]
        if self.config.optimizer_state == ESTIMATE:
            settings["optimizer_state"] = [ESTIMATE, ESTIMATE_VERSION, task.corpus_sha256]
        else:
            del settings["estimate_moments"]  # it changes nothing
        if (state := self._state) is not None:
            settings["optimizer_state"] = sha256_of(state) if state.exists() else None
        return content_key(settings)

    def load(self, task: Task, cache_dir: Path, device: str) -> LanguageModel:
        """Load the folder; task and cache play a part only where moments are estimated."""
        config: DirectoryConfig = self.config
        model = load_directory(
            self.name,
            self._path,
            device=device,
            dtype=getattr(torch, config.dtype),
            gradient_dtype=getattr(torch, config.gradient_dtype),
            append_eos=config.append_eos,
            context_length=config.context_length,
        )
        if (state := self._state) is not None:
            model.second_moments = load_moments(
                state, model.module, config.adam_epsilon, config.adam_beta2
            )
        return config.complete(model, task, cache_dir)

    def architecture(self) -> PretrainedConfig:
        """The configuration in the folder or, without a folder, the one of ``geometry``."""
        self.config.check_dtypes()
        if self.config.path is None and self.config.geometry is not None:
            return _decoder(self.config.geometry)
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


def _checkpoint_identity(folder: Path) -> list[str | None]:
    """Hashes of a checkpoint's weights and of its second moments, if it has any."""
    moments = folder / MOMENTS
    return [
        weights_sha256(folder),
        sha256_of(moments) if moments.exists() else None,
    ]


def _decoder(geometry: Geometry) -> PretrainedConfig:
    """The configuration of transformers for a geometry, checked."""
    for name, value in asdict(geometry).items():
        if name != "architecture":
            at_least(1, f"model.geometry.{name}", value)
    check_decoder(geometry, "model.geometry")
    check_numbers(asdict(geometry), "model.geometry")
    inner = "n_inner" if geometry.architecture == "gpt2" else "intermediate_size"
    return AutoConfig.for_model(
        geometry.architecture,
        hidden_size=geometry.hidden_size,
        num_hidden_layers=geometry.num_layers,
        num_attention_heads=geometry.num_heads,
        vocab_size=geometry.vocab_size,
        max_position_embeddings=geometry.context_length,
        bos_token_id=None,
        eos_token_id=0,
        **{inner: geometry.intermediate_size},
    )
