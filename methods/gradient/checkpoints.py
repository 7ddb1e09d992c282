"""Features of several checkpoints of a model side by side, for methods that sum over training.

Σ_c w_c ⟨g_c(z_m), g_c(z_q)⟩ is one inner product: that of the features of all checkpoints laid side
by side, each times √w_c. So an index, a Hessian and a search see one long row of features. Source:
TracInCP, 2002.08484, section 3.3; TRAK, 2303.14186, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.models.language_model import Tokens
from methods.gradient.collectors import Collector
from methods.gradient.encoder import GradientEncoder


@dataclass(frozen=True)
class FeatureLayout:
    """The meaning of the dimensions of a feature row.

    Attributes:
        blocks: sizes of the blocks of all checkpoints, in order.
        parts: number of dimensions of each checkpoint.
        weights: weight of each checkpoint in a score.
        weighted: whether one more dimension holds the passage's own weight.
    """

    blocks: list[int]
    parts: list[int]
    weights: list[float]
    weighted: bool

    @property
    def dim(self) -> int:
        """Number of dimensions of a row."""
        return sum(self.blocks) + self.weighted


class CheckpointEncoder:
    """Encodes texts with an encoder for each checkpoint.

    Args:
        encoders: the encoder of each checkpoint, all with the same settings.
        weights: weight of each checkpoint in a score.
        weighted: whether each encoder appends a text's weight; the row gets their mean.

    Attributes:
        name, dim, dtype, device, fitting_tokens: as in ``GradientEncoder``.
    """

    def __init__(
        self, encoders: Sequence[GradientEncoder], weights: Sequence[float], weighted: bool
    ) -> None:
        self._encoders = encoders
        self.layout = FeatureLayout(
            blocks=[size for encoder in encoders for size in encoder.block_sizes],
            parts=[sum(encoder.block_sizes) for encoder in encoders],
            weights=list(weights),
            weighted=weighted,
        )
        self.name, self.dim = encoders[0].name, self.layout.dim
        self.device, self.dtype = encoders[0].device, encoders[0].dtype
        self.fitting_tokens: int | None = None

    @property
    def only(self) -> GradientEncoder:
        """The encoder of the only checkpoint; there must be one."""
        (encoder,) = self._encoders
        return encoder

    def encode(self, batch: Sequence[Tokens]) -> Tensor:
        """Features of a batch: ``[batch, dim]``. Raises what ``GradientEncoder.encode`` raises."""
        encoded = [encoder.encode(batch) for encoder in self._encoders]
        if not self.layout.weighted:
            return torch.cat(encoded, dim=1)
        weight = torch.stack([features[:, -1] for features in encoded]).mean(0)
        return torch.cat([*(features[:, :-1] for features in encoded), weight[:, None]], dim=1)

    @property
    def parts(self) -> list[int]:
        """The number of dimensions of each checkpoint."""
        return self.layout.parts

    def log_probs(self, texts: Sequence[Tokens], batch_size: int) -> Tensor:
        """The log-probability of each text's labels: float64 ``[checkpoints, texts]``."""
        return torch.cat([encoder.log_probs(texts, batch_size) for encoder in self._encoders])

    def sharing(self, query: Tensor) -> list[list[Collector]]:
        """The collectors of ``shares``, by checkpoint, of a vector ``[blocks' dim]``."""
        parts = zip(self._encoders, query.split(self.layout.parts), strict=True)
        return [encoder.sharing(part) for encoder, part in parts]

    def shares(self, text: Tokens, collectors: Sequence[Sequence[Collector]]) -> Tensor:
        """The shares of a text's tokens in its inner product with a query, by checkpoint.

        Args:
            collectors: what ``sharing`` makes of the query.

        Returns:
            ``[checkpoints, tokens]``; see ``GradientEncoder.shares``.
        """
        pairs = zip(self._encoders, collectors, strict=True)
        return torch.stack([encoder.shares(text, own) for encoder, own in pairs])
