"""A model's features under some settings: the encoders of both sides, and the key of an index."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from bench.core.errors import UserError
from bench.core.fields import identifying
from bench.models.checkpoints import load_checkpoint, spread_checkpoints
from bench.models.language_model import LanguageModel
from methods.gradient.checkpoints import CheckpointEncoder
from methods.gradient.encoder import GradientEncoder
from methods.gradient.mixture import is_computable
from methods.gradient.settings import CheckpointWeights, FeatureSettings, GradientConfig
from methods.model_identity import model_identity

# Raised whenever a change of code moves a feature, or the files of an index; part of every key.
FEATURES_VERSION = 8
_MIXTURES_VERSION = 1  # the same for what experts add; part of the keys of models that have any


def features_version(model: LanguageModel) -> int | list[int]:
    """The versions of the code that computes a model's features."""
    has_experts = any(map(is_computable, model.module.modules()))
    return [FEATURES_VERSION, _MIXTURES_VERSION] if has_experts else FEATURES_VERSION


class Features:
    """The encoders of passages and queries.

    Args:
        model: the model at its last checkpoint.

    Raises:
        UserError: fewer checkpoints than asked for, no second moments where they are needed, or a
            model whose gradients cannot be taken.
    """

    def __init__(self, model: LanguageModel, config: GradientConfig) -> None:
        self._config = config
        earlier = spread_checkpoints(model, config.checkpoints)
        self._models = [*(load_checkpoint(one, model) for one in earlier), model]
        self._weights = self._checkpoint_weights()
        self.passages = self._encoder(config.optimizer_correction)

    @cached_property
    def queries(self) -> CheckpointEncoder:
        """The encoder of queries: that of the passages, unless only these are corrected."""
        same = self._config.correct_queries or not self._config.optimizer_correction
        return self.passages if same else self._encoder(False)

    def _checkpoint_weights(self) -> list[float]:
        n = len(self._models)
        if self._config.checkpoint_weights is CheckpointWeights.equal or n == 1:
            return [1 / n] * n
        rates = [model.learning_rate or 0.0 for model in self._models]
        if not sum(rates) > 0:
            raise UserError(
                "checkpoint_weights=learning_rate has nothing to weigh with: all rates are 0",
                where="model.checkpoint_learning_rates",
                fix="give those of the training, or set method.checkpoint_weights=equal",
            )
        return [rate / sum(rates) for rate in rates]

    def _encoder(self, corrected: bool) -> CheckpointEncoder:
        encoders = [
            GradientEncoder(model, self._config, model.required_moments() if corrected else None)
            for model in self._models
        ]
        return CheckpointEncoder(encoders, self._weights, self._config.passage_weight)

    def key_settings(self) -> dict[str, Any]:
        """All that a passage's stored features depend on beside its text, as JSON values.

        The task is left out, since a shard is named by its texts; so are the weights of checkpoints
        and the correction of queries, which count when features are compared.
        """
        corrected = self._config.optimizer_correction
        return {
            "version": features_version(self._models[-1]),
            "models": [model_identity(one) for one in self._models],
            "moments": [one.required_moments().identity for one in self._models if corrected],
            "settings": identifying(self._config, FeatureSettings),
        }
