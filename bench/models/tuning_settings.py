"""Settings of models that are trained on here, checked before a model library is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from bench.core.errors import UserError, did_you_mean
from bench.core.fields import check_ranges, part_of_key, speed
from bench.models.settings import Geometry, check_dtype
from bench.storage.files import expand

TUNING_OPTIMIZERS = ("adafactor", "adam", "adamw")
PRECISIONS = ("float32", "bfloat16")


@dataclass
class LoraSettings:
    """Settings of low-rank adapters; defaults and reasons in ``conf/model/finetuned.yaml``."""

    rank: Optional[int] = part_of_key(at_least=1)  # noqa: UP045 - read at run time
    alpha: float = part_of_key(above=0)
    targets: list[str] = part_of_key()


@dataclass
class TrainConfig:
    """Settings of a training; defaults and reasons in ``conf/model/finetuned.yaml``."""

    lora: LoraSettings
    optimizer: str
    learning_rate: float = part_of_key(above=0)
    weight_decay: float = part_of_key(at_least=0)
    warmup_steps: int = part_of_key(at_least=0)
    last_share: float = part_of_key(above=0, at_most=1)
    epochs: int = part_of_key(at_least=1)
    until: Optional[float] = part_of_key(above=0, at_most=1)  # noqa: UP045
    batch_size: Optional[int] = part_of_key(at_least=1)  # noqa: UP045
    batch_tokens: Optional[int] = part_of_key(at_least=2)  # noqa: UP045
    accumulate: int = part_of_key(at_least=1)
    clip: Optional[float] = part_of_key(above=0)  # noqa: UP045
    precision: str = part_of_key()
    statements: float = part_of_key(at_least=0, at_most=1)
    mix: Optional[str] = part_of_key()  # noqa: UP045
    mix_share: float = part_of_key(above=0, at_most=0.99)
    threads: int = part_of_key(at_least=1)
    recompute: bool = speed()
    save_steps: Optional[int] = speed(at_least=1)  # noqa: UP045

    def check(self) -> None:
        """Refuse numbers out of range, unknown names, and settings that exclude each other.

        Raises:
            UserError: names the key.
        """
        group = "model.train"
        check_ranges(self, group)
        check_ranges(self.lora, f"{group}.lora")
        for name, known in (("optimizer", TUNING_OPTIMIZERS), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value not in known:
                raise UserError(
                    f"unknown {name} {value!r}",
                    where=f"{group}.{name}",
                    fix=did_you_mean(value, known),
                )
        if self.weight_decay and self.optimizer != "adamw":
            raise UserError(
                f"{self.optimizer} lets no weight decay",
                where=f"{group}.weight_decay={self.weight_decay:g}",
                fix=f"set {group}.optimizer=adamw, or 0",
            )
        if (self.batch_size is None) == (self.batch_tokens is None):
            raise UserError(
                "the size of a batch is given " + ("twice" if self.batch_size else "nowhere"),
                where=f"{group}.batch_size",
                fix=f"set one of {group}.batch_size and {group}.batch_tokens, and the other to "
                "null",
            )
        if self.mix is not None:
            expand(self.mix, f"{group}.mix")


@dataclass
class TrainedConfig:
    """The settings that a model trained by ``train`` has, whatever it begins from."""

    train: TrainConfig
    append_eos: bool
    context_length: Optional[int] = part_of_key(at_least=1)  # noqa: UP045
    checkpoint: Optional[int] = speed(at_least=1)  # noqa: UP045 - no part of the training's key
    gradient_dtype: str = speed()
    projection_dim: int = speed(at_least=1)
    seed: int = part_of_key(at_least=0)

    def check(self) -> None:
        """Refuse settings that cannot work, and a folder that is not there.

        Raises:
            UserError: names the key.
        """
        check_ranges(self, "model")
        check_dtype("gradient_dtype", self.gradient_dtype)
        self.train.check()
        if self.checkpoint is not None and self.checkpoint > self.train.epochs:
            raise UserError(
                f"expected an epoch from 1 to {self.train.epochs}, found {self.checkpoint}",
                where="model.checkpoint",
            )


@dataclass
class FinetunedConfig(TrainedConfig):
    """Settings of a model that is trained on; reasons in ``conf/model/finetuned.yaml``."""

    init: str = part_of_key()

    @property
    def init_path(self) -> Path:
        """The folder of the model to begin from."""
        return Path(self.init).expanduser()

    def check(self) -> None:
        """Refuse settings that cannot work, and a folder that is not there.

        Raises:
            UserError: names the key.
        """
        super().check()
        if not self.init_path.is_dir():
            raise UserError(
                "no such directory", where=f"model.init={self.init}", fix="set it to a model"
            )


@dataclass
class SizedConfig(TrainedConfig):
    """Settings of a model of a real size from random weights; reasons in ``conf/model``."""

    geometry: Geometry = part_of_key()
    tokenizer: Optional[str] = part_of_key()  # noqa: UP045
    dtype: str = speed()

    @property
    def tokenizer_path(self) -> Path | None:
        """The folder of a tokenizer that is given; None to train one."""
        return None if self.tokenizer is None else Path(self.tokenizer).expanduser()

    @property
    def context(self) -> int:
        """The most tokens of a text that are read."""
        return self.context_length or self.geometry.context_length

    def check(self) -> None:
        """Refuse settings that cannot work; raises ``UserError``."""
        super().check()
        check_dtype("dtype", self.dtype)
        if self.context > self.geometry.context_length:
            raise UserError(
                f"the model reads {self.geometry.context_length} tokens at most",
                where=f"model.context_length={self.context_length}",
                fix="raise model.geometry.context_length, too",
            )
        if self.train.lora.rank is not None:
            raise UserError(
                "random weights are no base for an adapter",
                where="model.train.lora.rank",
                fix="set null, or model=finetuned",
            )
        if (path := self.tokenizer_path) is not None and not path.is_dir():
            raise UserError("no such directory", where=f"model.tokenizer={self.tokenizer}")
