"""What a stored feature depends on, as one value: it builds encoders and names indexes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bench.core.errors import UserError
from bench.models.checkpoints import load_checkpoint, spread_checkpoints
from bench.models.language_model import LanguageModel
from methods.gradient.checkpoints import CheckpointEncoder
from methods.gradient.encoder import GradientEncoder
from methods.gradient.loss import Output
from methods.gradient.parameters import Adapters, BlockLayout, Unsupported

# Raised whenever a change of code moves a feature, or the files of an index; part of every key.
FEATURES_VERSION = 8


class CheckpointWeights(Enum):
    """How much each checkpoint counts: all alike (TRAK), or by learning rate (TracIn)."""

    equal = "equal"
    learning_rate = "learning_rate"


@dataclass(frozen=True)
class FeatureSettings:
    """As in ``conf/method/_gradient.yaml``.

    Attributes:
        corrected: divide by sqrt(V), on the side of the passages.
        weighted: keep ``1 - p`` of a passage as its weight.
    """

    corrected: bool
    output: Output
    weighted: bool
    checkpoints: int
    checkpoint_weights: CheckpointWeights
    projection_dim: int | None
    layer_blocks: int
    block_layout: BlockLayout
    layers: Sequence[int] | None
    adapters: Adapters
    unsupported: Unsupported
    seed: int


class Features:
    """A model's features under some settings: encoders of both sides, and the key.

    Args:
        model: the last checkpoint.
        correct_queries: divide the queries' gradients by sqrt(V) too, if the passages' are.

    Attributes:
        passages, queries: encoders; one and the same unless only the passages are corrected.

    Raises:
        UserError: fewer checkpoints than asked for, no second moments where they are needed, or a
            model whose gradients cannot be taken.
    """

    def __init__(
        self, model: LanguageModel, settings: FeatureSettings, *, correct_queries: bool
    ) -> None:
        self._settings = settings
        earlier = spread_checkpoints(model, settings.checkpoints)
        self._models = [*(load_checkpoint(one, model) for one in earlier), model]
        self._weights = self._checkpoint_weights()
        self.passages = self._encoder(settings.corrected)
        same = correct_queries or not settings.corrected
        self.queries = self.passages if same else self._encoder(False)

    def _checkpoint_weights(self) -> list[float]:
        n = len(self._models)
        if self._settings.checkpoint_weights is CheckpointWeights.equal or n == 1:
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
        settings = self._settings
        encoders = [
            GradientEncoder(
                model,
                projection_dim=settings.projection_dim,
                layer_blocks=settings.layer_blocks,
                seed=settings.seed,
                second_moments=model.required_moments() if corrected else None,
                adapters=settings.adapters,
                unsupported=settings.unsupported,
                block_layout=settings.block_layout,
                layers=settings.layers,
                output=settings.output,
                weighted=settings.weighted,
            )
            for model in self._models
        ]
        return CheckpointEncoder(encoders, self._weights, settings.weighted)

    def key_settings(self) -> dict[str, Any]:
        """All that a passage's stored features depend on beside its text.

        Not the batch size (see ``conf/model``), nor the task: a shard is named by its texts. Nor
        the weights of checkpoints, which count when features are compared.
        """
        settings, model = self._settings, self._models[-1]
        return {
            "version": FEATURES_VERSION,
            "models": [one.sha256 for one in self._models],
            "moments": [one.required_moments().identity for one in self._models]
            if settings.corrected
            else None,
            "append_eos": model.append_eos,
            "context_length": model.context_length,
            "dtype": str(model.gradient_dtype),
            "weights_dtype": str(next(model.module.parameters()).dtype),
            "output": settings.output.value,
            "weighted": settings.weighted,
            "projection_dim": settings.projection_dim,
            "layer_blocks": settings.layer_blocks,
            "block_layout": settings.block_layout.value,
            "layers": settings.layers and list(settings.layers),
            "adapters": settings.adapters.value,
            "unsupported": settings.unsupported.value,
            "seed": settings.seed,
        }
