"""A recipe for a model, as plain data: what another process needs to get the same model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.models.base import ModelSource
    from bench.models.language_model import LanguageModel
    from bench.tasks.base import Task


@dataclass(frozen=True)
class ModelRecipe:
    """A function without arguments that brings a model.

    Attributes:
        source: the model's source, with its settings.
        task: the task that a model is trained on, if it is trained here. Another process gets the
            task without its queries, which may be many, unless weights depend on them.
        cache_dir: the root of all caches, the same folder for every process.
        device: torch device name.
    """

    source: ModelSource
    task: Task
    cache_dir: Path
    device: str

    def __call__(self) -> LanguageModel:
        """The model: loaded, or trained if nobody has trained it yet."""
        return self.source.load(self.task, self.cache_dir, self.device)

    def __reduce__(self) -> tuple:
        task = self.task if self.source.reads_queries else replace(self.task, queries=())
        return ModelRecipe, (self.source, task, self.cache_dir, self.device)
