"""The interface of a model source: where a model under study comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from bench.engines.base import Engine
    from bench.models.language_model import LanguageModel
    from bench.models.retraining import Removal
    from bench.storage.mirror import Mirror
    from bench.tasks.base import Task


class ModelSource(ABC):
    """A way to get a model from its settings; a subclass is one entry of ``SOURCES``.

    Subclasses set ``Config``: a dataclass whose fields are the keys of ``conf/model/NAME.yaml``
    (less ``name`` and ``source``), without defaults.

    Attributes:
        reads_queries: whether the model depends on the task's queries, beside its passages.
    """

    Config: ClassVar[type]
    reads_queries: ClassVar[bool] = False

    def __init__(self, name: str, config: Any) -> None:
        self.name = name
        self.config = config

    def check(self) -> None:  # noqa: B027 - a source may have nothing to check
        """Raise UserError, before any work starts, if the settings cannot work."""

    @abstractmethod
    def identity(self, task: Task) -> str:
        """A hash that changes whenever the model would, known without loading or training it."""

    @abstractmethod
    def load(self, task: Task, cache_dir: Path, device: str) -> LanguageModel:
        """The model, ready for gradients; trained first if that is what the source does."""

    def check_step(  # noqa: B027 - most sources have both
        self, optimizer: str, learning_rate: float | None
    ) -> None:
        """Raise UserError, before any work starts, if tail-patch could not step on this model.

        Args:
            optimizer: ``saved`` needs the model's second moments.
            learning_rate: None needs the last one of the model's training.
        """

    def trained_folder(
        self,
        task: Task,  # noqa: ARG002
        cache_dir: Path,  # noqa: ARG002
    ) -> Path | None:
        """The folder of a model that is trained here, once it is trained; None for other models."""
        return None

    def check_training(self) -> None:
        """Raise UserError if this source trains no models."""
        raise UserError(
            f"model {self.name} is not trained here",
            where="model",
            fix="train one that is (model=tiny)",
        )

    def train(
        self,
        task: Task,  # noqa: ARG002
        cache_dir: Path,  # noqa: ARG002
        device: str,  # noqa: ARG002
    ) -> Path:
        """Train the model, go on with a training that was stopped, or find it done.

        Returns:
            the model's folder, as ``save_pretrained`` writes it.

        Raises:
            UserError: as ``check_training``, or a training that diverges.
        """
        self.check_training()
        raise NotImplementedError

    def check_retraining(self) -> None:
        """Raise UserError if this model cannot be trained again without some passages."""
        raise UserError(
            "a model that was not trained here cannot be retrained",
            where="metric.retraining",
            fix="use a model that is (model=tiny), or leave metric.retraining out",
        )

    def retrain(
        self,
        task: Task,  # noqa: ARG002
        cache: Mirror,  # noqa: ARG002
        device: str,  # noqa: ARG002
        removals: Sequence[Removal],  # noqa: ARG002
        engine: Engine,  # noqa: ARG002
    ) -> np.ndarray:
        """Train again without some passages; outcomes that are kept already are not made again.

        Args:
            cache: the cache and its copy in a store, from which outcomes are brought and where they
                are kept, too.

        Returns:
            the log-probability of each query's target after each retraining (nats), float64
            ``[removals, queries]``.

        Raises:
            UserError: as ``check_retraining``.
        """
        self.check_retraining()
        raise NotImplementedError

    # ------------------------------------------------------------------ known before the model is

    def architecture(self) -> PretrainedConfig:
        """The configuration that the model has or will have; no weights are read or trained.

        Raises:
            UserError: this source does not know it before the model is there.
        """
        raise UserError(
            "this model source cannot say what its model will be",
            where=f"model {self.name}",
            fix="plan with another model",
        )

    def tokenizer(self, task: Task | None, cache_dir: Path) -> PreTrainedTokenizerBase | None:  # noqa: ARG002
        """The tokenizer, if it is at hand without training; ``task`` is None if not prepared."""
        return None


def unknown_learning_rate() -> UserError:
    """The error for a tail-patch whose learning rate nobody gives: neither metric nor model."""
    return UserError(
        "the learning rate of the model's training is not known",
        where="metric.tail_patch.learning_rate",
        fix="set it, or model.learning_rate, or metric=attribution to go without",
    )


def no_moments_to_step_with(name: str) -> UserError:
    """The error for a tail-patch with the optimizer's state, where the model has none."""
    return UserError(
        f"model {name} has no second moments to step with",
        where="metric.tail_patch.optimizer",
        fix="set model.optimizer_state=FILE or =estimate, metric.tail_patch.optimizer=sgd, or "
        "metric=attribution to go without",
    )
