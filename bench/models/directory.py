"""Any causal language model in a local directory, as ``save_pretrained`` writes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

import torch

from bench.errors import UserError, did_you_mean
from bench.models import second_moments
from bench.models.base import ModelSource
from bench.models.language_model import (
    DTYPES,
    LanguageModel,
    directory_sha256,
    load_directory,
)
from bench.storage import content_key, file_sha256
from bench.tasks.base import Task


@dataclass
class DirectoryConfig:
    """Settings of a model that exists already; defaults and reasons in ``conf/model/hf.yaml``."""

    path: str
    optimizer_state: Optional[str]  # noqa: UP045 - omegaconf reads the annotation at run time
    adam_epsilon: float
    learning_rate: Optional[float]  # noqa: UP045
    dtype: str
    gradient_dtype: str
    append_eos: bool
    projection_dim: int


class Directory(ModelSource):
    """Loads weights, tokenizer and, where given, the optimizer's second moments."""

    Config = DirectoryConfig

    def check(self) -> None:
        """Refuse unknown dtypes and a missing directory."""
        for field in ("dtype", "gradient_dtype"):
            if getattr(self.config, field) not in DTYPES:
                raise UserError(
                    f"unknown dtype {getattr(self.config, field)!r}",
                    where=f"model.{field}",
                    fix=did_you_mean(getattr(self.config, field), DTYPES),
                )
        if not Path(self.config.path).expanduser().is_dir():
            raise UserError(
                "no such directory", where=self.config.path, fix="set model.path=DIR to a model"
            )

    def identity(self, task: Task) -> str:  # noqa: ARG002
        """Hash of the files and of what they are read with, not of where they are."""
        settings = asdict(self.config) | {
            "path": directory_sha256(Path(self.config.path).expanduser())
        }
        if self.config.optimizer_state is not None:
            state = Path(self.config.optimizer_state).expanduser()
            settings["optimizer_state"] = file_sha256(state) if state.is_file() else None
        return content_key(settings)

    def load(self, task: Task, cache_dir: Path, device: str) -> LanguageModel:  # noqa: ARG002
        """Load the directory; ``task`` and ``cache_dir`` play no part."""
        config: DirectoryConfig = self.config
        model = load_directory(
            self.name,
            Path(config.path).expanduser(),
            device=device,
            dtype=getattr(torch, config.dtype),
            gradient_dtype=getattr(torch, config.gradient_dtype),
            append_eos=config.append_eos,
        )
        if config.optimizer_state is not None:
            model.second_moments = second_moments.load(
                Path(config.optimizer_state).expanduser(), model.module, config.adam_epsilon
            )
        model.learning_rate = config.learning_rate
        return model
