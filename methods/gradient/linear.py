"""A linear layer that hands its input and output gradient to a sink and forms no weight gradient.

It is an autograd function, since that saves two costs of hooks: the input of the lowest watched
layers gets no gradient (nothing below asks for one), and of a layer's input only what the sink
keeps stays alive until the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's own documentation has it


class Sink(Protocol):
    """The receiver of the two factors of a matrix's gradient, W = Σ_t δ_t x_tᵀ."""

    def keep(self, inputs: Tensor) -> Tensor:
        """The part of the layer's input ``[..., in]`` that must live until the backward pass."""

    def add(self, delta: Tensor, kept: Tensor) -> None:
        """Take the gradient of the layer's output ``[..., out]`` and what ``keep`` returned."""


class _WatchedLinear(torch.autograd.Function):
    """``x @ weightᵀ + bias`` with a frozen weight ``[out, in]``."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        anchor: Tensor,  # noqa: ARG004 - makes the output require a gradient where x does not
        weight: Tensor,
        bias: Tensor | None,
        sink: Sink,
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
def watched(modules: Sequence[nn.Module], sinks: Sequence[Sink]) -> Iterator[None]:
    """Within this context, each module (``nn.Linear`` or ``Conv1D``, frozen) runs with its sink."""
    before = [module.__dict__.get("forward") for module in modules]
    anchor = torch.zeros((), requires_grad=True)
    try:
        for module, sink in zip(modules, sinks, strict=True):
            module.forward = _Forward(module, anchor, sink)
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            del module.forward
            if forward is not None:  # accelerate, for instance, had replaced it
                module.forward = forward


class _Forward:
    """The function that takes the place of ``module.forward``."""

    def __init__(self, module: nn.Module, anchor: Tensor, sink: Sink) -> None:
        stored: Tensor = module.weight  # type: ignore[assignment]
        self._weight = stored if isinstance(module, nn.Linear) else stored.T  # Conv1D: [in, out]
        self._bias: Tensor | None = module.bias  # type: ignore[assignment]
        self._anchor, self._sink = anchor, sink

    def __call__(self, x: Tensor) -> Tensor:
        return _WatchedLinear.apply(x, self._anchor, self._weight, self._bias, self._sink)
