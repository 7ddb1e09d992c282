"""How the two factors of a matrix's gradient become its part of the features.

There is a collector for each matrix, of a kind that depends on second moments V and projection:

| projection | V | what happens | multiplications a token |
| --- | --- | --- | --- |
| p × q | none, rank one | factors are projected, then multiplied | q·n + p·m + p·q |
| p × q | full | gradient formed, scaled, projected | m·n + (p·m·n + p·q·min(m, n)) / tokens |
| none | any | gradient formed, scaled | m·n |

A rank-one V is folded into the projections, so it costs nothing. A full V is divided elementwise:
1 / sqrt(V) has full rank, so the gradient must be formed. With 128 tokens and p = q = 64 that is
1.5 m·n a token beside the 2 m·n of a forward and backward pass; measured with
``benchmarks/encoding.py`` (hidden 256): 1.37 and 1.45 × the floor, against 1.08 and 1.11 ×
with a rank-one V. On a GPU writing and reading the formed gradients is what costs: 1.40 (154M
parameters, 512 tokens) and 1.89 (1B) × the floor, against 1.06 and 1.03 (``utilisation.py``).

Projections are products of their own and do not ride as 64 more columns in the layer's product.
Measured on an MLP (hidden 256 and 512, 2,048 and 8,192 tokens, float32, one thread, forward and
backward with a layer norm below): riding takes 4 to 8% longer in each of the four cases. The wider
product itself saves at most 15% of the 64 columns' cost, but its results are strided, and what
reads them next pays for that. It would also hold every weight twice.

Shapes: b batch, t tokens, m out, n in, p and q projected sides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from bench.models.dtypes import accumulation_dtype
from bench.models.second_moments import Factored, SecondMoments
from methods.gradient.parameters import Matrix
from methods.gradient.projection import projection
from methods.gradient.settings import FeatureSettings

# Elements of full gradients that are formed at a time, which also bounds the memory. On a CPU,
# chunks of 1 to 8 gradients of 256 × 1,024 took the same time, and 16 took 20% more, since they
# leave the cache. An accelerator has to be given much at once.
_FORMED_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}


# Whether torch can multiply half precisions into a wider result: on CUDA alone, since 2.8.
_WIDER_PRODUCTS = "dtype" in torch.ops.aten.bmm.overloads()


def formed_at_once(shape: tuple[int, int], device: torch.device) -> int:
    """Number of gradients of a matrix of that shape that are formed at a time on that device."""
    most = _FORMED_ELEMENTS.get(device.type, _FORMED_ELEMENTS["cpu"])
    return max(1, most // (shape[0] * shape[1]))


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """``left @ right``, batched, summed in ``dtype``, which is float32 for half precisions.

    On CUDA, half precisions are multiplied as they are: there is a kernel with a wider result.
    """
    if left.dtype == dtype:
        return torch.bmm(left, right)
    if left.is_cuda and _WIDER_PRODUCTS:
        return torch.bmm(left, right, out_dtype=dtype)
    return torch.bmm(left.to(dtype), right.to(dtype))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, batched, in the dtype of ``total``."""
    if left.dtype == total.dtype:
        total.baddbmm_(left, right)
    else:
        total += _product(left, right, total.dtype)


class Collector(ABC):
    """The way in which one matrix adds to a sum.

    Attributes:
        positioned: whether the t-th token has to be that at position t of its text. Else the tokens
            that an expert is given stand side by side, with zeros behind them.
    """

    positioned: ClassVar[bool] = False

    @abstractmethod
    def keep(self, x_btn: Tensor) -> Tensor:
        """The part of the layer's input that must live until the backward pass.

        Each token's depends on its own input alone, so that of a list ``[t, n]`` can be asked for,
        unless tokens are ``positioned``.
        """

    def narrowed(self, delta_btm: Tensor) -> Tensor:
        """What ``add`` takes of the gradient of the layer's output; each token's by itself."""
        return delta_btm

    @abstractmethod
    def add(self, total: Tensor, narrowed: Tensor, kept: Tensor) -> None:
        """Add what the two factors of this matrix's gradient make of each example to ``total``."""


class FeatureCollector(Collector):
    """Adds a matrix's gradient of each example, corrected and projected, to ``[b, *size]``.

    Such a gradient is a sum over tokens, so its inner product with a query is one, too.
    """

    size: tuple[int, int]

    @abstractmethod
    def paired(self, query_pq: Tensor) -> Tensor:
        """The matrix M with ⟨query, feature⟩ = Σ_t δ_tᵀ M k_t, k_t being what ``keep`` gave of x_t.

        Args:
            query_pq: a vector of the features' space, in the shape ``size``.
        """


class ShareCollector(Collector):
    """Adds δ_tᵀ M k_t of each token to ``[b, t]``: its share in the inner product with a query.

    Args:
        collector: what makes the features of the matrix.
        query_pq: as of ``FeatureCollector.paired``, in the dtype of the sums.
    """

    positioned = True

    def __init__(self, collector: FeatureCollector, query_pq: Tensor) -> None:
        self._collector = collector
        self._paired = collector.paired(query_pq)

    def keep(self, x_btn: Tensor) -> Tensor:
        """What the features' own collector keeps."""
        return self._collector.keep(x_btn)

    def add(self, total: Tensor, narrowed: Tensor, kept: Tensor) -> None:
        """Add this matrix's part of each token's share to ``total``."""
        total += (narrowed.to(total.dtype) @ self._paired * kept).sum(-1)


class _ProjectedCollector(FeatureCollector):
    """Adds Σ_t (A0 δ_t)(A1 x_t)ᵀ: V has rank one, or there is none, and no gradient is formed.

    Args:
        out_pm, in_qn: A0 and A1, the projections with V's sides folded in.
        dtype: dtype of the model.
    """

    def __init__(
        self, out_pm: Tensor, in_qn: Tensor, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.size = (len(out_pm), len(in_qn))
        # They are transposed once, so that the product reads both factors along memory.
        self._out_mp = out_pm.T.to(device, dtype).contiguous()
        self._in_nq = in_qn.T.to(device, dtype).contiguous()

    def keep(self, x_btn: Tensor) -> Tensor:
        return x_btn @ self._in_nq

    def narrowed(self, delta_btm: Tensor) -> Tensor:
        return delta_btm @ self._out_mp

    def add(self, total: Tensor, narrowed: Tensor, kept: Tensor) -> None:
        _add_product(total, narrowed.transpose(1, 2), kept)

    def paired(self, query_pq: Tensor) -> Tensor:
        return self._out_mp.to(query_pq.dtype) @ query_pq


class _FullMomentCollector(FeatureCollector):
    """Adds P0 ((Σ_t δ_t x_tᵀ) / sqrt(V)) P1ᵀ with a full V.

    Examples are taken a few at a time, as many as stay in the cache. The longer side is projected
    first and flat, as one product over all examples of the chunk: ``[b·short, long] [long, p]``.
    For a model in bfloat16 on CUDA the gradient is formed in bfloat16, too: forming it is bound by
    the memory's speed, and this rounding is far below that of the two passes.

    Args:
        out_pm, in_qn: the projections P0 and P1.
        scale_mn: ``1 / sqrt(V)``.
        dtype: dtype of the model.
    """

    def __init__(
        self,
        out_pm: Tensor,
        in_qn: Tensor,
        scale_mn: Tensor,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        wide = accumulation_dtype(dtype)
        narrow = device.type == "cuda" and dtype == torch.bfloat16
        self._formed = dtype if narrow else wide
        self.size = (len(out_pm), len(in_qn))
        m, n = scale_mn.shape
        self._in_first = n >= m
        scale = scale_mn if self._in_first else scale_mn.T
        self._scale = scale.to(device, self._formed).contiguous()
        longer, shorter = (in_qn, out_pm) if self._in_first else (out_pm, in_qn)
        self._longer_lp = longer.T.to(device, self._formed).contiguous()
        self._shorter_ps = shorter.to(device, wide).contiguous()
        self._step = formed_at_once((m, n), device)

    def keep(self, x_btn: Tensor) -> Tensor:
        return x_btn

    def add(self, total: Tensor, narrowed: Tensor, kept: Tensor) -> None:
        steps = (part.split(self._step) for part in (total, narrowed, kept))
        for some, delta, x in zip(*steps, strict=True):
            short, long = (delta, x) if self._in_first else (x, delta)
            projected = self._project(short, long, total.dtype)
            some += projected if self._in_first else projected.transpose(1, 2)

    def paired(self, query_pq: Tensor) -> Tensor:
        query = query_pq if self._in_first else query_pq.T
        longer, shorter = (one.to(query.dtype) for one in (self._longer_lp, self._shorter_ps))
        pulled_back = (shorter.T @ query @ longer.T).mul_(self._scale)
        return pulled_back if self._in_first else pulled_back.T

    def _project(self, short_bts: Tensor, long_btl: Tensor, dtype: torch.dtype) -> Tensor:
        """Projections ``[b, p, q]`` of the scaled gradients, the shorter side first."""
        gradient_bsl = _product(short_bts.transpose(1, 2), long_btl, self._formed)
        scaled = gradient_bsl.mul_(self._scale).flatten(0, 1)
        flat = _product(scaled[None], self._longer_lp[None], dtype)[0]
        return self._shorter_ps @ flat.unflatten(0, gradient_bsl.shape[:2])


class _ExactCollector(FeatureCollector):
    """Adds the gradient itself, times ``scale_mn`` if given; for small models only."""

    def __init__(
        self,
        shape: tuple[int, int],
        scale_mn: Tensor | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.size = shape
        wide = accumulation_dtype(dtype)
        self._scale_mn = None if scale_mn is None else scale_mn.to(device, wide)

    def keep(self, x_btn: Tensor) -> Tensor:
        return x_btn

    def add(self, total: Tensor, narrowed: Tensor, kept: Tensor) -> None:
        if self._scale_mn is None:
            _add_product(total, narrowed.transpose(1, 2), kept)
        else:
            total += _product(narrowed.transpose(1, 2), kept, total.dtype).mul_(self._scale_mn)

    def paired(self, query_pq: Tensor) -> Tensor:
        return query_pq if self._scale_mn is None else query_pq * self._scale_mn


def make_collector(
    matrix: Matrix,
    settings: FeatureSettings,
    moments: SecondMoments | None,
    *,
    dtype: torch.dtype,
) -> FeatureCollector:
    """The cheapest exact collector of a matrix, on the device of the matrix.

    Args:
        settings: ``projection_dim`` and ``seed``.
        moments: second moments to divide by; None leaves the gradient as it is.
        dtype: dtype of the model.

    Raises:
        UserError: ``moments`` lack this matrix.
    """
    moment = None if moments is None else moments[matrix.parameter]
    if moment is not None and matrix.expert is not None:
        moment = moment.of(matrix.expert)
    dim, seed, device = settings.projection_dim, settings.seed, matrix.device
    if dim is None:
        scale = None if moment is None else _as_out_in(matrix, moment.inverse_sqrt())
        return _ExactCollector(matrix.shape, scale, dtype, device)
    m, n = matrix.shape
    out_pm = projection(seed, matrix.name, "out", dim, m)
    in_qn = projection(seed, matrix.name, "in", dim, n)
    if moment is None:
        return _ProjectedCollector(out_pm, in_qn, dtype, device)
    if isinstance(moment, Factored):
        rows, columns = moment.inverse_sqrt_sides()
        left, right = (columns, rows) if matrix.transposed else (rows, columns)
        return _ProjectedCollector(out_pm * left.cpu(), in_qn * right.cpu(), dtype, device)
    scale = _as_out_in(matrix, moment.inverse_sqrt())
    return _FullMomentCollector(out_pm, in_qn, scale, dtype, device)


def _as_out_in(matrix: Matrix, stored: Tensor) -> Tensor:
    return stored.T if matrix.transposed else stored
