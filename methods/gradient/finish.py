"""The last steps from raw features to those whose inner products are scores."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.gradient.checkpoints import FeatureLayout
from methods.gradient.parts import Handed
from methods.gradient.whitening import Whitening

# Numbers that are converted at a time: enough for all threads, and still in the cache they share.
_CONVERTED_AT_ONCE = 1 << 19


class Finish:
    """The last steps before inner products: R^(-1/2), then unit norm, then weights.

    With several checkpoints each has a unit norm of its own, so that a score is a weighted sum of
    their cosines. Zero rows stay zero.

    Args:
        whitening: R^(-1/2); None leaves the features as they are. To be sent to another process,
            it must have a file.
        unit_norm: whether each row is divided by its norm.
        dtype, device: dtype and device of the computation.
    """

    def __init__(
        self,
        layout: FeatureLayout,
        whitening: Handed[Whitening] | None,
        unit_norm: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.dtype, self.device, self._unit_norm = dtype, device, unit_norm
        self._layout, self._handed = layout, whitening
        self._whitening = None if whitening is None else whitening().to(dtype, device)
        roots = torch.tensor(layout.weights, dtype=torch.float64).sqrt()
        parts = torch.tensor(layout.parts)
        self._roots = None
        if layout.weights != [1.0]:
            self._roots = roots.repeat_interleave(parts).to(device, dtype)

    def __reduce__(self) -> tuple:
        return Finish, (self._layout, self._handed, self._unit_norm, self.dtype, self.device)

    def __call__(self, features: Tensor) -> Tensor:
        """Finished features ``[rows, blocks' dim]`` of raw ones, ``[rows, dim]`` in any dtype."""
        features, factors = self.apart(features)
        features = features.to(self.dtype)
        return features if factors is None else features * factors

    def products(self, features: Tensor, queries: Tensor) -> Tensor:
        """Inner products ``[rows, queries]`` of raw features with finished queries."""
        features, factors = self.apart(features)
        # The long side comes first, as in ``vector_search.scored_blocks``.
        scores = features.to(self.dtype) @ queries.T
        return scores if factors is None else scores.mul_(factors)

    def apart(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features in their final direction, and apart from them the factors of whole rows.

        A factor of a row is cheaper on its scores, which are fewer than its dimensions.

        Args:
            features: raw features, ``[rows, dim]``, of any dtype.

        Returns:
            features ``[rows, blocks' dim]``, in their own dtype if nothing was done to them, and
            the factors that rows are still to be multiplied by, ``[rows, 1]``, if there are any.
        """
        features = features.to(self.device)
        factors: Tensor | None = None
        if self._layout.weighted:
            features, factors = features[:, :-1], features[:, -1:].to(self.dtype)
        if self._whitening is not None:
            features = self._whitening.apply(features.to(self.dtype))
        if self._unit_norm and len(self._layout.parts) == 1:
            one_over_norm = _reciprocal_norms(features, self.dtype)
            factors = one_over_norm if factors is None else factors * one_over_norm
        elif self._unit_norm:
            parts = features.to(self.dtype).split(self._layout.parts, dim=1)
            features = torch.cat([part * _reciprocal_norms(part, self.dtype) for part in parts], 1)
        if self._roots is not None:
            features = features.to(self.dtype) * self._roots
        return features, factors

    def pulled_back(self, queries: Tensor) -> Tensor:
        """Vectors whose inner products with raw features are scores, but for ``own_factors``.

        Args:
            queries: finished queries, ``[queries, blocks' dim]``.
        """
        if self._roots is not None:
            queries = queries * self._roots
        return queries if self._whitening is None else self._whitening.transposed(queries)

    def own_factors(self, features: Tensor) -> Tensor:
        """What each checkpoint's part of a passage's score is multiplied by.

        It is the passage's weight, if it has one, over its norm, if that is to be one.

        Args:
            features: raw features, ``[rows, dim]``.

        Returns:
            ``[rows, checkpoints]``.
        """
        features = features.to(self.device, self.dtype)
        factors = features.new_ones(len(features), len(self._layout.parts))
        if self._layout.weighted:
            features, factors = features[:, :-1], factors * features[:, -1:]
        if self._unit_norm:
            whitened = features if self._whitening is None else self._whitening.apply(features)
            parts = whitened.split(self._layout.parts, dim=1)
            factors *= torch.cat([_reciprocal_norms(part, self.dtype) for part in parts], 1)
        return factors


def _reciprocal_norms(features: Tensor, dtype: torch.dtype) -> Tensor:
    """One over the norm of each row, ``[rows, 1]`` in ``dtype``; 1 for rows as good as zero."""
    at_once = len(features)
    if features.dtype != dtype:  # converted in parts, they stay in the cache
        at_once = _CONVERTED_AT_ONCE // features.shape[1]
    parts = features.split(max(1, at_once))
    norms = torch.cat([part.to(dtype).norm(dim=1, keepdim=True) for part in parts])
    return torch.where(norms > torch.finfo(dtype).tiny, norms, 1.0).reciprocal_()
