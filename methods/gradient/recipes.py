"""How another process gets the encoder of passages: plain data that can be sent to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.core.errors import UserError
from bench.core.fields import identifying
from bench.models.language_model import LanguageModel
from bench.storage.keys import content_key
from bench.tasks.passages import PassageStore
from methods.gradient.checkpoints import CheckpointEncoder
from methods.gradient.encoder import GradientEncoder
from methods.gradient.features import Features, features_version
from methods.gradient.settings import (
    EncodingSettings,
    GradientConfig,
    InfluenceConfig,
    exact_gradients,
)
from methods.gradient.source import EncodedFeatures
from methods.model_identity import model_identity

# The encoder that this process opened last, by what it is of: the jobs of one index share it.
_open: dict[tuple, EncodedFeatures] = {}


@dataclass(frozen=True)
class Recipe(ABC):
    """A model and how its gradients are taken.

    Attributes:
        load_model: brings the model; can be sent too.
        config: the settings of the method.
        key: the key of the features, which the model that is found elsewhere must give, too.
    """

    load_model: Callable[[], LanguageModel]
    config: EncodingSettings
    key: str
    passages: PassageStore

    @abstractmethod
    def encoder(self, model: LanguageModel) -> tuple[CheckpointEncoder, str]:
        """The encoder of passages, and the key of its features."""

    def open(self) -> EncodedFeatures:
        """The features of the passages.

        Raises:
            UserError: the model found here is not the one that the run began with.
        """
        model = self.load_model()
        encoder, key = self.encoder(model)
        if key != self.key:
            raise UserError(
                "another process finds another model than the run that started it",
                where=f"model {model.name}",
                fix="do not change the model's files while a run reads them, and give every "
                "machine the same ones",
            )
        return EncodedFeatures(model, encoder, self, range(len(self.passages)))

    def opened(self) -> EncodedFeatures:
        """The features of the passages, opened once for the jobs of a process."""
        config = self.config
        name = (self.key, self.passages.folder, config.batch_size, config.batch_tokens)
        if name not in _open:
            _open.clear()  # before the next one is loaded: two models may not fit into memory
            _open[name] = self.open()
        return _open[name]


@dataclass(frozen=True)
class EncoderRecipe(Recipe):
    """The recipe of the features of an index.

    The key is ``content_key`` of ``Features.key_settings``.
    """

    config: GradientConfig

    def encoder(self, model: LanguageModel) -> tuple[CheckpointEncoder, str]:
        """See ``Recipe.encoder``."""
        features = Features(model, self.config)
        return features.passages, content_key(features.key_settings())


@dataclass(frozen=True)
class ExactRecipe(Recipe):
    """The recipe of exact gradients, with a block for each matrix."""

    config: InfluenceConfig

    def encoder(self, model: LanguageModel) -> tuple[CheckpointEncoder, str]:
        """See ``Recipe.encoder``."""
        encoder = GradientEncoder(model, exact_gradients(self.config))
        key = content_key(exact_key_settings(model, self.config))
        return CheckpointEncoder([encoder], [1.0], weighted=False), key


def exact_key_settings(model: LanguageModel, config: InfluenceConfig) -> dict[str, Any]:
    """All that an exact gradient depends on beside its text, as JSON values."""
    return {
        "features_version": features_version(model),
        **model_identity(model),
        **identifying(config, EncodingSettings),
    }
