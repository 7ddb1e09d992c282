"""Layers that hand inputs and output gradients to sinks and form no weight gradient.

Each product with a watched matrix is an autograd function, since that saves two costs of hooks: the
input of the lowest watched layers gets no gradient (nothing below asks for one), and of a layer's
input only what the sink keeps stays alive until the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's own documentation has it

from bench.core.errors import UserError
from methods.gradient.mixture import DOWN, OwnProducts, Places, is_computable, sent, up_name
from methods.gradient.parameters import PLAIN_FORWARDS, Matrix


class Receiver(Protocol):
    """The receiver of the two factors of a matrix's gradient, W = Σ_t δ_t x_tᵀ."""

    def keep(self, inputs: Tensor) -> Tensor:
        """The part of the layer's input ``[..., in]`` that must live until the backward pass."""

    def add(self, delta: Tensor, kept: Tensor) -> None:
        """Take the gradient of the layer's output ``[..., out]`` and what ``keep`` returned."""


class Sink(Receiver, Protocol):
    """The receiver of a matrix that is given all tokens, or, if it is an expert's, some.

    Attributes:
        used: whether the module of the matrix has run.
    """

    used: bool

    def of_some(self, places: Places) -> Receiver:
        """The receiver of the factors of some tokens, ``[given, width]``."""


class _WatchedLinear(torch.autograd.Function):
    """``x @ weightᵀ + bias`` with a frozen weight ``[out, in]``."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        anchor: Tensor,  # noqa: ARG004 - makes the output require a gradient where x does not
        weight: Tensor,
        bias: Tensor | None,
        sink: Receiver,
    ) -> Tensor:
        ctx.sink = sink
        ctx.save_for_backward(weight, sink.keep(x))
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, kept = ctx.saved_tensors
        ctx.sink.add(delta, kept)
        below = delta @ weight if ctx.needs_input_grad[0] else None
        return below, None, None, None, None


@contextmanager
def watched(
    matrices: Sequence[Matrix], sinks: Sequence[Sink], shape: tuple[int, int]
) -> Iterator[None]:
    """Within this context, the frozen module of each matrix runs with the sink of the matrix.

    Args:
        shape: number of texts and of positions in the batch.
    """
    watchings: dict[nn.Module, list[tuple[Matrix, Sink]]] = {}
    for matrix, sink in zip(matrices, sinks, strict=True):
        watchings.setdefault(matrix.module, []).append((matrix, sink))
    before = [module.__dict__.get("forward") for module in watchings]
    anchor = torch.zeros((), requires_grad=True)
    try:
        for module, pairs in watchings.items():
            module.forward = _forward(module, pairs, anchor, shape)
        yield
    finally:
        for module, forward in zip(watchings, before, strict=True):
            del module.forward
            if forward is not None:  # accelerate, for instance, had replaced it
                module.forward = forward


def _forward(
    module: nn.Module,
    pairs: Sequence[tuple[Matrix, Sink]],
    anchor: Tensor,
    shape: tuple[int, int],
) -> Callable[..., Any]:
    """The function that takes the place of ``module.forward``."""
    if is_computable(module):
        return _Experts(module, pairs, anchor, shape)
    ((_, sink),) = pairs
    watching = _Product if type(module).forward in PLAIN_FORWARDS else _Router
    return watching(module, anchor, sink)


class _Product:
    """The forward of ``nn.Linear`` or ``Conv1D``."""

    def __init__(self, module: nn.Module, anchor: Tensor, sink: Sink) -> None:
        self._module, self._anchor, self._sink = module, anchor, sink

    def __call__(self, x: Tensor) -> Tensor:
        self._sink.used = True
        module = self._module  # whose weights may be there only while it computes
        stored: Tensor = module.weight  # type: ignore[assignment]
        weight = stored if isinstance(module, nn.Linear) else stored.T  # Conv1D: [in, out]
        return _WatchedLinear.apply(x, self._anchor, weight, module.bias, self._sink)


class _Router:
    """The forward of a router: its own, with the product by its weight watched."""

    def __init__(self, module: nn.Module, anchor: Tensor, sink: Sink) -> None:
        self._module, self._anchor, self._sink = module, anchor, sink

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._sink.used = True
        weight: Tensor = self._module.weight  # type: ignore[assignment]
        with _WatchedProducts(weight, self._anchor, self._sink) as products:
            result = type(self._module).forward(self._module, *args, **kwargs)
        if products.others:
            raise UserError(
                f"{type(self._module).__name__} uses its weight beside the product by it, so that "
                "its gradient is not that of a matrix",
                where="model",
                fix="use another model",
            )
        return result


class _WatchedProducts(OwnProducts):
    def __init__(self, weight: Tensor, anchor: Tensor, sink: Sink) -> None:
        super().__init__(weight)
        self._anchor, self._sink = anchor, sink

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _WatchedLinear.apply(x, self._anchor, weight, bias, self._sink)


class _Experts:
    """The forward of a layer's experts, one after the other, each with the tokens sent to it.

    Its numbers are those of transformers but for the order of sums: ``mixture.py``.
    """

    def __init__(
        self,
        module: Any,
        pairs: Sequence[tuple[Matrix, Sink]],
        anchor: Tensor,
        shape: tuple[int, int],
    ) -> None:
        self._module, self._anchor, self._shape = module, anchor, shape
        self._sinks = {(matrix.attribute, matrix.expert): sink for matrix, sink in pairs}
        self._name = pairs[0][0].parameter

    def __call__(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """The sum over each token's experts, ``[tokens, hidden]``.

        Args:
            hidden: states of all tokens of the batch, ``[tokens, hidden]``.
            chosen, weights: experts of each token and their weights, ``[tokens, experts a token]``.

        Raises:
            UserError: the tokens are not those of the batch.
        """
        if len(hidden) != self._shape[0] * self._shape[1]:
            raise UserError(
                f"the experts of {self._name} get {len(hidden)} rows for "
                f"{self._shape[0] * self._shape[1]} tokens, so they cannot be told apart by text",
                where="model",
                fix="set method.unsupported=skip, or use another model",
            )
        module = self._module
        for sink in self._sinks.values():
            sink.used = True  # whether tokens reach the expert or not
        total = torch.zeros_like(hidden)
        up = up_name(module)
        for expert, places in sent(chosen, len(getattr(module, up)), self._shape):
            x = self._multiply(up, expert, hidden.index_select(0, places.tokens), places)
            x = module._apply_gate(x) if module.has_gate else module.act_fn(x)
            x = self._multiply(DOWN, expert, x, places)
            if module.has_post_expert_norm:
                x = module.post_expert_norm(x)
            x = x * weights[places.tokens, places.choices, None]
            # An expert gets a token once, so that nothing is added twice and the order is fixed.
            total.index_add_(0, places.tokens, x.to(total.dtype))
        return total

    def _multiply(self, name: str, expert: int, x: Tensor, places: Places) -> Tensor:
        module = self._module
        weight = getattr(module, name)[expert]
        weight = weight.T if module.is_transposed else weight
        bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
        factors = self._sinks[name, expert].of_some(places)
        return _WatchedLinear.apply(x, self._anchor, weight, bias, factors)
