"""How another process gets the model that this one has: plain data that can be sent to it."""

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
        source: with its settings.
        task: what a model that is trained here is trained on. Another process gets it without its
            queries, which no weight depends on and which may be many.
        cache_dir: root of all caches; the same folder for every process.
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
        corpus = replace(self.task, queries=())
        return ModelRecipe, (self.source, corpus, self.cache_dir, self.device)
