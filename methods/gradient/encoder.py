"""Per-example projected gradients of batches of tokens, without forming the gradients.

For one matrix and one example the loss gradient is W = Σ_t δ_t x_tᵀ, so
P0 (W / sqrt(V)) P1ᵀ = Σ_t (A0 δ_t)(A1 x_t)ᵀ with A0 = P0 · diag(1/sqrt of V's row side) and A1
likewise, because Adafactor's V has rank one. The layer's input is projected on the way forward and
the gradient of its output on the way back. Weights are frozen, so no weight gradient is computed,
and nothing is computed below the lowest matrices. Source: 2410.17413, section 3 and appendix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.models.dtypes import accumulation_dtype, in_dtype, running_in
from bench.models.language_model import LanguageModel, Tokens, pad, target_log_probs
from bench.models.second_moments import SecondMoments
from methods.gradient.collectors import (
    Collector,
    FeatureCollector,
    ShareCollector,
    make_collector,
)
from methods.gradient.linear import watched
from methods.gradient.loss import backward_of
from methods.gradient.mixture import Places
from methods.gradient.parameters import Matrix, gradient_matrices
from methods.gradient.settings import FeatureSettings


class GradientEncoder:
    """Per-example gradients of a summed output, corrected and projected.

    Args:
        model: weights are read in ``model.gradient_dtype``.
        settings: the switches. Each block has ``projection_dim ** 2`` dimensions; where that is
            None, the exact gradients of its matrices side by side (small models only).
        second_moments: divide the gradient by sqrt(V) before projecting; None leaves it as it is.
            ``settings.optimizer_correction`` is not asked: the two sides may differ in it.

    Attributes:
        module: the model itself, in the gradient dtype.
        matrices: the matrices that carry the gradient, in the order of exact features.
        dim: dimensions of all blocks together and, with ``passage_weight``, of the weight.
        dtype: dtype of the features: the gradient dtype, float32 where that is a half precision.
        device: where texts go in and features come out. A matrix's part is made on its own device.
        fitting_tokens: padded tokens that a batch may hold, learnt from running out of memory.
    """

    def __init__(
        self,
        model: LanguageModel,
        settings: FeatureSettings,
        second_moments: SecondMoments | None = None,
    ) -> None:
        self.name, self._settings = model.name, settings
        self._gradient_dtype = model.gradient_dtype
        self.module = in_dtype(model.module, model.gradient_dtype)
        self._model = replace(model, module=self.module)
        # Exact features are ordered by block, and within a block as the model is.
        matrices = gradient_matrices(self.module, settings)
        self.matrices = sorted(matrices, key=lambda matrix: matrix.block)
        self.device = model.device
        self.dtype = accumulation_dtype(model.gradient_dtype)
        self._collectors = [
            make_collector(matrix, settings, second_moments, dtype=model.gradient_dtype)
            for matrix in self.matrices
        ]
        shared = settings.projection_dim is not None
        self._sums = _lay_out(self.matrices, self._collectors, shared)
        self.block_sizes = self._sums.block_sizes
        self._devices = [matrix.device for matrix in self.matrices]
        self.dim = sum(self.block_sizes) + settings.passage_weight
        self.fitting_tokens: int | None = None

    def encode(self, batch: Sequence[Tokens]) -> Tensor:
        """Raw projected gradients of a batch, ``[batch, dim]``; a GPU may still be at work on them.

        A text with no token to predict has a zero gradient. ``encode_all`` looks whether all are
        finite once they are on the CPU.

        Raises:
            UserError: a matrix takes no part in the forward pass, or the model does not run in the
                gradient dtype.
        """
        if all(tokens.n_loss == 0 for tokens in batch):
            return torch.zeros(len(batch), self.dim, dtype=self.dtype, device=self.device)
        ids, labels = pad(batch, self.device)
        places = list(zip(self._sums.of_matrix, self._devices, strict=True))
        totals = {  # a sum over layers of several devices has a part on each
            (index, device): torch.zeros(
                len(batch), *self._sums.sizes[index], dtype=self.dtype, device=device
            )
            for index, device in places
        }
        doubt = self.collect(self._collectors, [totals[place] for place in places], ids, labels)
        gathered: dict[int, Tensor] = {}
        for (index, _), total in totals.items():
            part = total.to(self.device)
            gathered[index] = gathered[index].add_(part) if index in gathered else part
        parts = [gathered[index].flatten(1) for index in range(len(self._sums.sizes))]
        if self._settings.passage_weight:
            parts.append(doubt.to(self.dtype)[:, None])
        return torch.cat(parts, dim=1)

    @property
    def parts(self) -> list[int]:
        """The number of dimensions of each checkpoint: this encoder has one."""
        return [sum(self.block_sizes)]

    def log_probs(self, texts: Sequence[Tokens], batch_size: int) -> Tensor:
        """The log-probability of each text's labels by this checkpoint: float64 ``[1, texts]``.

        Raises:
            UserError: the model does not run in the gradient dtype.
        """
        with running_in(self._gradient_dtype, self.name):
            log_probs, _ = target_log_probs(self._model, texts, batch_size)
        return torch.tensor([log_probs], dtype=torch.float64)

    def sharing(self, query: Tensor) -> list[Collector]:
        """The collectors of ``shares``, one a matrix.

        With a full V, or without projection, they take as much memory as the matrices.

        Args:
            query: a vector ``[blocks' dim]`` of the features' space.
        """
        sizes = self._sums.sizes
        parts = query.to(self.device, self.dtype).split([rows * columns for rows, columns in sizes])
        shaped = [part.view(size) for part, size in zip(parts, sizes, strict=True)]
        of_matrix = zip(self._collectors, self._sums.of_matrix, self._devices, strict=True)
        return [ShareCollector(one, shaped[index].to(device)) for one, index, device in of_matrix]

    def shares(self, text: Tokens, collectors: Sequence[Collector]) -> Tensor:
        """The share of each token in the inner product of a text's raw features with a query.

        The gradient of a matrix is Σ_t δ_t x_tᵀ over the positions t of its layer's input. A token
        has the terms of its own position, over all matrices.

        Args:
            collectors: what ``sharing`` makes of the query.

        Returns:
            ``[tokens]``; their sum is the inner product. A text with no token to predict has zeros.

        Raises:
            UserError: as of ``encode``.
        """
        shares = {
            device: torch.zeros(1, len(text.ids), dtype=self.dtype, device=device)
            for device in {self.device, *self._devices}
        }
        if text.n_loss:
            totals = [shares[device] for device in self._devices]
            self.collect(collectors, totals, *pad([text], self.device))
        own = shares.pop(self.device)
        for device in sorted(shares, key=str):
            own += shares[device].to(self.device)
        return own[0]

    def collect(
        self, collectors: Sequence[Collector], totals: Sequence[Tensor], ids: Tensor, labels: Tensor
    ) -> Tensor:
        """One forward and backward pass that hands the factors δ and x to each matrix's collector.

        Args:
            collectors, totals: collector and sum of each of ``matrices``, in their order.
            ids, labels: token ids and labels ``[batch, tokens]``, as of ``loss.backward_of``.

        Returns:
            mean of 1 - p over the labels of each text, ``[batch]``.

        Raises:
            UserError: a matrix takes no part in the forward pass, or the model does not run in the
                gradient dtype.
        """
        sinks = [
            _MatrixSink(matrix, collector, total, ids.shape, self._gradient_dtype)
            for matrix, collector, total in zip(self.matrices, collectors, totals, strict=True)
        ]
        with (
            running_in(self._gradient_dtype, self.name),
            watched(self.matrices, sinks, (ids.shape[0], ids.shape[1])),
            torch.enable_grad(),
        ):
            doubt = backward_of(self._settings.output, self.module, ids, labels)
        idle = [sink.matrix.name for sink in sinks if not sink.used]
        if idle:
            raise UserError(
                f"matrix {idle[0]} takes no part in the forward pass",
                where=f"model {self.name}",
                fix="an adapter must be active and not merged (see method.adapters)",
            )
        return doubt


class _MatrixSink:
    """The sink of one matrix during one batch: it hands the factors on, example by example.

    Some routers compute in float32 whatever the dtype; the factors are in the model's own.
    """

    def __init__(
        self,
        matrix: Matrix,
        collector: Collector,
        total: Tensor,
        shape: torch.Size,
        dtype: torch.dtype,
    ) -> None:
        self.matrix, self.used = matrix, False
        self._collector, self._total = collector, total
        self._shape, self._dtype = shape, dtype

    def keep(self, inputs: Tensor) -> Tensor:
        return self._collector.keep(self._by_example(inputs))

    def add(self, delta: Tensor, kept: Tensor) -> None:
        narrowed = self._collector.narrowed(self._by_example(delta))
        self._collector.add(self._total, narrowed, kept)

    def of_some(self, places: Places) -> _ExpertSink:
        return _ExpertSink(self._collector, self._total, places)

    def _by_example(self, rows: Tensor) -> Tensor:
        """Factors ``[batch, tokens, width]``, also of models that work on a flat list of tokens."""
        if rows.numel() != self._shape.numel() * rows.shape[-1]:
            raise UserError(
                f"matrix {self.matrix.name} gets {rows.numel() // rows.shape[-1]} rows for "
                f"{self._shape.numel()} tokens, so they cannot be told apart by example",
                where="model",
                fix="this architecture is not supported by gradient methods yet",
            )
        return rows.reshape(*self._shape, rows.shape[-1]).to(self._dtype)


class _ExpertSink:
    """The sink of an expert's matrix for the tokens that the expert is given.

    What can be made of each token by itself is made before the zeros come between them.
    """

    def __init__(self, collector: Collector, total: Tensor, places: Places) -> None:
        self._collector, self._total, self._places = collector, total, places

    def keep(self, inputs: Tensor) -> Tensor:
        if self._collector.positioned:
            return self._collector.keep(self._by_example(inputs))
        return self._by_example(self._collector.keep(inputs))

    def add(self, delta: Tensor, kept: Tensor) -> None:
        narrowed = self._by_example(self._collector.narrowed(delta))
        self._collector.add(self._total, narrowed, kept)

    def _by_example(self, rows: Tensor) -> Tensor:
        return self._places.by_text(rows, positioned=self._collector.positioned)


@dataclass(frozen=True)
class _Sums:
    """The sums that make up the features, in order.

    Attributes:
        of_matrix: number of the sum that each matrix adds to.
        block_sizes: number of dimensions of each block.
    """

    sizes: list[tuple[int, int]]
    of_matrix: list[int]
    block_sizes: list[int]


def _lay_out(
    matrices: Sequence[Matrix], collectors: Sequence[FeatureCollector], shared: bool
) -> _Sums:
    """The sums of some matrices: one a block if they are projected, else one for each matrix."""
    blocks = sorted({matrix.block for matrix in matrices})
    sizes, of_matrix, block_sizes = [], [], [0] * len(blocks)
    opened = None
    for matrix, collector in zip(matrices, collectors, strict=True):
        if not shared or matrix.block != opened:
            opened = matrix.block
            sizes.append(collector.size)
            block_sizes[blocks.index(opened)] += collector.size[0] * collector.size[1]
        of_matrix.append(len(sizes) - 1)
    return _Sums(sizes, of_matrix, block_sizes)
