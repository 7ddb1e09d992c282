"""The task, the model and the engine that settings name, each made when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from bench.core.registry import DESCRIPTION, Registry
from bench.core.typed import typed
from bench.engines import ENGINES
from bench.models import SOURCES
from bench.models.recipe import ModelRecipe
from bench.tasks import TASKS, load_task

if TYPE_CHECKING:
    import numpy as np

    from bench.engines.base import Engine
    from bench.models.base import ModelSource
    from bench.models.language_model import LanguageModel
    from bench.models.retraining import Removal
    from bench.run.settings import Settings
    from bench.tasks.base import Task, TaskBuilder

T = TypeVar("T")


def model_source(settings: Settings) -> ModelSource:
    """The source of the model; raises UserError for settings that are none of its own."""
    kind = SOURCES.get(settings.model["source"])
    config = typed(kind.Config, settings.model, "model", ("name", "source"))
    return kind(settings.model["name"], config)


def task_builder(settings: Settings) -> TaskBuilder:
    """The builder of the task; raises UserError for settings that are none of its own."""
    return _made(TASKS, settings.task)


def _made(registry: Registry[T], settings: Mapping[str, Any]) -> T:
    """The task or the engine that settings name, or that their ``target`` is."""
    kind: Any = registry.get(settings.get("target") or settings["name"])
    made: T = kind(typed(kind.Config, settings, registry.kind, ("name", *DESCRIPTION)))
    return made


class Parts:
    """What cells of one task and model share. Making it makes nothing.

    Args:
        settings: the settings of one of the cells.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def beside(self, settings: Settings) -> Parts:
        """The parts of another cell of the same task, model and engine: what is made is shared."""
        parts = Parts(settings)
        vars(parts).update({name: one for name, one in vars(self).items() if name != "settings"})
        return parts

    def check_files(self) -> None:
        """Raise UserError if a file that the task reads is not there; it needs no torch."""
        self.builder.fingerprint()

    def check_device(self) -> None:
        """Raise UserError if torch cannot use the device."""
        _ = self.settings.device

    @cached_property
    def builder(self) -> TaskBuilder:
        """The builder of the task."""
        return task_builder(self.settings)

    @cached_property
    def task(self) -> Task:
        """The task, prepared now if the cache has none."""
        return load_task(self.settings.task["name"], self.builder, self.settings.cache_dir)

    @cached_property
    def source(self) -> ModelSource:
        """The source of the model."""
        return model_source(self.settings)

    @cached_property
    def engine(self) -> Engine:
        """The engine that runs independent jobs."""
        return _made(ENGINES, self.settings.engine)

    @cached_property
    def model(self) -> LanguageModel:
        """The model: loaded, brought from the store, or trained and then kept there."""
        with self.trained_model_shared():
            return self.recipe()

    @cached_property
    def recipe(self) -> ModelRecipe:
        """What brings the same model in another process."""
        settings = self.settings
        return ModelRecipe(self.source, self.task, settings.cache_dir, settings.device)

    def trained_model_shared(self) -> AbstractContextManager[None]:
        """A context around what may train the model: the store's copy is brought, or one is kept.

        Nothing is shared of a model that is not trained here.
        """
        trained = self.source.trained_folder(self.task, self.settings.cache_dir)
        return nullcontext() if trained is None else self.settings.cache.shared(trained)

    def retrain(self, removals: Sequence[Removal]) -> np.ndarray:
        """What models trained without some passages say; see ``ModelSource.retrain``."""
        settings = self.settings
        with self.trained_model_shared():
            return self.source.retrain(
                self.task, settings.cache, settings.device, removals, self.engine
            )
