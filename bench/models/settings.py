"""Settings of the sources of models, which are checked before a model library is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from bench.core.errors import UserError, at_least, did_you_mean
from bench.core.fields import speed
from bench.models.decoder import check_decoder
from bench.models.hub import check_hub_id

# Settings of a model trained here that are counts of something.
_COUNTS = (
    "hidden_size", "num_layers", "num_heads", "vocab_size", "context_length", "epochs", "batch_size"
)  # fmt: skip
DTYPES = ("float32", "float64", "bfloat16", "float16")  # of weights and of gradients
DEVICE_MAPS = ("auto",)  # transformers' own; with one device each layer is there
ESTIMATE = "estimate"  # a value of `optimizer_state`: a pass over the task's passages, no file

_SIZE = re.compile(r"\d+(\.\d+)? ?[KMGT]i?B")  # of memory, as accelerate reads it


@dataclass
class Geometry:
    """The size of a decoder, known before there are weights."""

    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    context_length: int


@dataclass
class EstimateConfig:
    """Settings of the pass of ``optimizer_state=estimate``; reasons in ``conf/model/hf.yaml``."""

    passages: int
    batch_size: int
    seed: int

    def check(self) -> None:
        """Raise UserError for numbers that make no pass."""
        for name, least in (("passages", 1), ("batch_size", 1), ("seed", 0)):
            at_least(least, f"model.estimate_moments.{name}", getattr(self, name))


@dataclass
class DirectoryConfig:
    """Settings of a model that exists already; defaults and reasons in ``conf/model/hf.yaml``."""

    path: Optional[str]  # noqa: UP045 - omegaconf reads the annotation at run time
    revision: Optional[str]  # noqa: UP045
    adapter: Optional[str]  # noqa: UP045
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
    checkpoints: list[str]
    checkpoint_learning_rates: list[float]
    device_map: Optional[str] = speed()  # noqa: UP045
    gpu_memory: Optional[str] = speed()  # noqa: UP045
    cpu_memory: Optional[str] = speed()  # noqa: UP045

    @property
    def checkpoint_paths(self) -> list[Path]:
        """The folders of earlier checkpoints, oldest first."""
        return [Path(path).expanduser() for path in self.checkpoints]

    @property
    def adapter_path(self) -> Path | None:
        """The folder of the adapter; None without one."""
        return None if self.adapter is None else Path(self.adapter).expanduser()

    @property
    def state_path(self) -> Path | None:
        """The path of the optimizer's state; None if there is none or it is estimated."""
        state = self.optimizer_state
        return None if state is None or state == ESTIMATE else Path(state).expanduser()

    def check(self) -> None:
        """Refuse numbers out of range, unknown dtypes, and files that are not there.

        Raises:
            UserError: names the key.
        """
        self.check_dtypes()
        self._check_device_map()
        at_least(1, "model.context_length", self.context_length)
        if self.revision is not None:
            check_hub_id(self.path or "")
        elif self.path is not None and not Path(self.path).expanduser().is_dir():
            raise UserError(
                "no such directory",
                where=self.path,
                fix="set model.path=DIR to a model, or model.revision for one of the model hub",
            )
        if (adapter := self.adapter_path) is not None and not adapter.is_dir():
            raise UserError("no such directory", where=f"model.adapter={self.adapter}")
        if (state := self.state_path) is not None and not state.exists():
            raise UserError(
                "no such file or folder",
                where=f"model.optimizer_state={self.optimizer_state}",
                fix="or set it to estimate",
            )
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
            check_dtype(name, getattr(self, name))

    def _check_device_map(self) -> None:
        """Refuse what a model on several devices cannot have, and memory that is no size."""
        for name in ("gpu_memory", "cpu_memory"):
            value = getattr(self, name)
            if value is None:
                continue
            if not _SIZE.fullmatch(value):
                raise UserError(
                    f"{value!r:.40} is no size of memory",
                    where=f"model.{name}",
                    fix="write it like 70GiB, with KiB, MiB, GiB, TiB, KB, MB, GB or TB",
                )
            if self.device_map is None:
                raise UserError(
                    "has a say only where a model is spread over devices",
                    where=f"model.{name}",
                    fix="set model.device_map=auto, too",
                )
        if self.device_map is None:
            return
        if self.device_map not in DEVICE_MAPS:
            raise UserError(
                f"unknown device map {self.device_map!r:.40}",
                where="model.device_map",
                fix=did_you_mean(self.device_map, DEVICE_MAPS),
            )
        if self.dtype != self.gradient_dtype:
            raise UserError(
                f"a model on several devices is held once, in one dtype, and model.dtype is "
                f"{self.dtype}",
                where=f"model.gradient_dtype={self.gradient_dtype}",
                fix=f"set model.gradient_dtype={self.dtype}, or model.dtype={self.gradient_dtype}",
            )
        if self.checkpoints:
            raise UserError(
                "earlier checkpoints are held beside the model, which is itself too large for one "
                "device",
                where="model.checkpoints",
                fix="leave them out, or set model.device_map=null",
            )


@dataclass
class ScratchConfig:
    """Geometry and training of a model trained here; defaults and reasons in ``conf/model``."""

    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    key_value_heads: int | None
    tied_embeddings: bool | None
    vocab_size: int
    context_length: int
    append_eos: bool
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    warmup_steps: int
    checkpoint: int | None
    gradient_dtype: str
    projection_dim: int
    seed: int

    def check(self) -> None:
        """Refuse geometries that cannot be built, an unknown dtype, and an epoch that is none.

        Raises:
            UserError: names the key.
        """
        for field in _COUNTS:
            at_least(1, f"model.{field}", getattr(self, field))
        check_dtype("gradient_dtype", self.gradient_dtype)
        if self.checkpoint is not None and not 1 <= self.checkpoint <= self.epochs:
            raise UserError(
                f"expected an epoch from 1 to {self.epochs}, found {self.checkpoint}",
                where="model.checkpoint",
            )
        check_decoder(self, "model")
        self._check_shared_heads()

    def _check_shared_heads(self) -> None:
        shared = self.key_value_heads
        if shared is None:
            return
        if self.architecture != "llama" or shared < 1 or self.num_heads % shared:
            raise UserError(
                f"{self.architecture} with {self.num_heads} heads cannot share {shared}",
                where="model.key_value_heads",
                fix="choose a divisor of model.num_heads, and model.architecture=llama",
            )


@dataclass
class PublishedConfig:
    """Settings of a published model; their reasons are in ``conf/model/quickstart.yaml``."""

    weights: str
    sha256: str
    gradient_dtype: str
    append_eos: bool
    projection_dim: int

    def check(self) -> None:
        """Refuse a dtype that is none, with a UserError."""
        check_dtype("gradient_dtype", self.gradient_dtype)


def check_dtype(name: str, value: str) -> None:
    """Refuse a dtype that is none.

    Args:
        name: the key below ``model`` that holds it.
    """
    if value not in DTYPES:
        raise UserError(
            f"unknown dtype {value!r}", where=f"model.{name}", fix=did_you_mean(value, DTYPES)
        )
