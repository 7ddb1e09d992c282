"""From token batches to per-example projected gradients, without forming the gradients.

For one matrix and one example the loss gradient is W = Σ_t δ_t x_tᵀ, so
P0 (W / sqrt(V)) P1ᵀ = Σ_t (A0 δ_t)(A1 x_t)ᵀ with A0 = P0 · diag(1/sqrt of V's row side) and A1
likewise, because Adafactor's V has rank one. Hooks project the layer's input on the way forward and
the output gradient on the way back; the weights are frozen, so no weight gradient is computed.
Source: 2410.17413, section 3 and appendix.

Shapes: b batch, t tokens, m out, n in, p and q projected sides.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.models.language_model import LanguageModel, Tokens, pad, token_log_probs
from bench.models.second_moments import Factored, SecondMoments
from methods.gradient.parameters import Matrix, gradient_matrices
from methods.gradient.projection import projection


class GradientEncoder:
    """Per-example gradients of the summed loss, corrected and projected.

    Args:
        model: weights are read in ``model.gradient_dtype``.
        projection_dim: per side; each block has ``projection_dim ** 2`` dimensions. None keeps
            the exact gradients (small models only): a block then holds its matrices side by side.
        layer_blocks: groups of consecutive layers, each × {attention, MLP}.
        seed: of the projections.
        second_moments: divide the gradient by sqrt(V) before projecting; None leaves it as it is.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        projection_dim: int | None,
        layer_blocks: int,
        seed: int,
        second_moments: SecondMoments | None,
    ) -> None:
        self._model = model
        self._dtype = model.gradient_dtype
        self._module = _in_dtype(model.module, self._dtype)
        matrices = gradient_matrices(self._module, layer_blocks)
        self._slots: list[_Slot] = [
            _ExactSlot(matrix, self._dtype, model.device, second_moments)
            if projection_dim is None
            else _ProjectedSlot(
                matrix, self._dtype, model.device, second_moments, projection_dim, seed
            )
            for matrix in matrices
        ]
        self.block_sizes = _lay_out(self._slots)
        self.dim = sum(self.block_sizes)

    def encode(self, batch: Sequence[Tokens]) -> Tensor:
        """Raw projected gradients of a batch: ``[batch, dim]`` in the gradient dtype.

        Texts with no token to predict have zero gradient.

        Raises:
            UserError: the loss or a gradient is not finite.
        """
        features = torch.zeros(len(batch), self.dim, dtype=self._dtype, device=self._model.device)
        ids, labels = pad(batch, self._model.device)
        if ids.shape[1] < 2:
            return features
        with self._hooked(features), torch.enable_grad():
            loss = -token_log_probs(self._module, ids, labels).sum()
            loss.backward()
        if not torch.isfinite(features).all():
            raise UserError(
                "a gradient is NaN or infinite",
                where=f"model {self._model.name}",
                fix="use model.gradient_dtype=float32 or wider, or another checkpoint",
            )
        return features

    @contextmanager
    def _hooked(self, features: Tensor) -> Iterator[None]:
        embeddings = self._module.get_input_embeddings()  # type: ignore[operator]
        with ExitStack() as stack:
            handles = [embeddings.register_forward_hook(_start_gradient)]
            handles += [slot.register(features) for slot in self._slots]
            for handle in handles:
                stack.callback(handle.remove)
            yield


def _in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module itself if it has that dtype, else a copy: others still use the original."""
    if next(module.parameters()).dtype == dtype:
        return module.requires_grad_(False).eval()
    return copy.deepcopy(module).to(dtype).requires_grad_(False).eval()


def _start_gradient(module: nn.Module, inputs: object, output: Tensor) -> None:  # noqa: ARG001
    """With all weights frozen, the graph must start at the embeddings."""
    output.requires_grad_(True)


class _Slot:
    """Where one matrix adds its part to the features."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self.start = self.stop = 0  # columns in the features, set by _lay_out

    size: int

    def register(self, features: Tensor) -> torch.utils.hooks.RemovableHandle:
        """Hook the module so that the coming backward pass adds into ``features``."""

        def forward_hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kept = self.forward_side(inputs[0].detach())

            def backward_hook(delta_btm: Tensor) -> None:
                features[:, self.start : self.stop] += self.outer(delta_btm, kept).flatten(1)

            output.register_hook(backward_hook)

        return self.matrix.module.register_forward_hook(forward_hook)

    def forward_side(self, x_btn: Tensor) -> Tensor:
        raise NotImplementedError

    def outer(self, delta_btm: Tensor, kept: Tensor) -> Tensor:
        raise NotImplementedError


class _ProjectedSlot(_Slot):
    """Two-sided projection; V is folded into the sides if it has rank one."""

    def __init__(
        self,
        matrix: Matrix,
        dtype: torch.dtype,
        device: torch.device,
        moments: SecondMoments | None,
        projection_dim: int,
        seed: int,
    ) -> None:
        super().__init__(matrix)
        m, n = matrix.shape
        out_pm = projection(seed, matrix.name, "out", projection_dim, m)
        in_qn = projection(seed, matrix.name, "in", projection_dim, n)
        self._full_mn: Tensor | None = None
        if moments is not None:
            moment = moments[matrix.name]
            if isinstance(moment, Factored):
                left, right = moment.inverse_sqrt_sides()
                if matrix.transposed:
                    left, right = right, left
                out_pm, in_qn = out_pm * left.cpu(), in_qn * right.cpu()
            else:
                self._full_mn = _inverse_sqrt(matrix, moments).to(device, dtype)
        self._out_mp = out_pm.T.to(device, dtype)
        self._in_nq = in_qn.T.to(device, dtype)
        self.size = projection_dim**2

    def forward_side(self, x_btn: Tensor) -> Tensor:
        # A full V is divided elementwise, so the gradient itself is needed: keep the input whole.
        return x_btn if self._full_mn is not None else x_btn @ self._in_nq

    def outer(self, delta_btm: Tensor, kept: Tensor) -> Tensor:
        if self._full_mn is None:
            return (delta_btm @ self._out_mp).transpose(1, 2) @ kept
        gradient_bmn = (delta_btm.transpose(1, 2) @ kept) * self._full_mn
        return self._out_mp.T @ gradient_bmn @ self._in_nq


class _ExactSlot(_Slot):
    """The gradient itself, divided by sqrt(V) if asked for."""

    def __init__(
        self,
        matrix: Matrix,
        dtype: torch.dtype,
        device: torch.device,
        moments: SecondMoments | None,
    ) -> None:
        super().__init__(matrix)
        m, n = matrix.shape
        self.size = m * n
        self._scale_mn = (
            None if moments is None else _inverse_sqrt(matrix, moments).to(device, dtype)
        )

    def forward_side(self, x_btn: Tensor) -> Tensor:
        return x_btn

    def outer(self, delta_btm: Tensor, kept: Tensor) -> Tensor:
        gradient_bmn = delta_btm.transpose(1, 2) @ kept
        return gradient_bmn if self._scale_mn is None else gradient_bmn * self._scale_mn


def _inverse_sqrt(matrix: Matrix, moments: SecondMoments) -> Tensor:
    """``1 / sqrt(V)`` as ``[out, in]``."""
    scale = moments[matrix.name].inverse_sqrt()
    return scale.T if matrix.transposed else scale


def _lay_out(slots: Sequence[_Slot]) -> list[int]:
    """Give each slot its columns; returns the size of each block.

    Projected matrices of a block share its columns (their features add up); exact ones stand side
    by side.
    """
    sizes: list[int] = []
    start = 0
    for block in sorted({slot.matrix.block for slot in slots}):
        members = [slot for slot in slots if slot.matrix.block == block]
        shared = isinstance(members[0], _ProjectedSlot)
        offset = 0
        for slot in members:
            slot.start, slot.stop = start + offset, start + offset + slot.size
            offset += 0 if shared else slot.size
        sizes.append(members[0].size if shared else offset)
        start += sizes[-1]
    return sizes
