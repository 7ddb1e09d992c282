"""Adafactor in a few kernels a step, however many layers a model has: for GPUs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.optimization import Adafactor

# Bytes of gradients that are stacked at once. Enough for the matrices of one shape of a model of
# 100M parameters; several times as much is held while they are stepped on.
STACKED_BYTES = 256 * 2**20


class StackedAdafactor(Adafactor):
    """transformers' Adafactor, whose parameters of one shape take their step together.

    A step of transformers' own launches a score of small kernels for each parameter, and a GPU
    waits for them (Shazeer & Stern, arXiv 1804.04235, algorithm 4; no first moment, no decay of
    weights and a learning rate from outside). Steps agree with transformers' to rounding, and so
    do its states, which either goes on from.

    Args:
        parameters: what is trained, in float32 or float64.
        learning_rate: the step's size; ``param_groups`` may change it.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], learning_rate: float) -> None:
        super().__init__(parameters, lr=learning_rate, scale_parameter=False, relative_step=False)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step by the gradients that are there; returns what ``closure`` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            with_gradient = [p for p in group["params"] if p.grad is not None]
            for alike in _of_one_shape(with_gradient, self._steps_done):
                self._step_on(alike, group)
        return loss

    def _steps_done(self, parameter: nn.Parameter) -> int:
        return int(self.state[parameter].get("step", 0))

    def _step_on(self, parameters: Sequence[nn.Parameter], group: dict[str, Any]) -> None:
        """Take the step of parameters that have one shape and as many steps behind them."""
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state.update(_new_state(parameter))
            state["step"] += 1
        kept = 1.0 - math.pow(states[0]["step"], group["decay_rate"])
        gradient = torch.stack([p.grad for p in parameters if p.grad is not None])
        squares = gradient.square() + group["eps"][0]
        if "exp_avg_sq" in states[0]:
            update = _moved(states, "exp_avg_sq", squares, kept).rsqrt()
        else:
            row = _moved(states, "exp_avg_sq_row", squares.mean(dim=-1), kept)
            column = _moved(states, "exp_avg_sq_col", squares.mean(dim=-2), kept)
            share = (row / row.mean(dim=-1, keepdim=True)).rsqrt()
            update = share.unsqueeze(-1) * column.unsqueeze(-2).rsqrt()
        update = update.mul_(gradient)
        sizes = update.reshape(len(parameters), -1).square().mean(dim=1).sqrt()
        factors = group["lr"] / (sizes / group["clip_threshold"]).clamp_(min=1.0)
        update.mul_(factors.view(-1, *[1] * (update.ndim - 1)))
        torch._foreach_sub_(list(parameters), list(update.unbind()))


def _of_one_shape(
    parameters: Sequence[nn.Parameter], steps_done: Callable[[nn.Parameter], int]
) -> Iterator[list[nn.Parameter]]:
    """Parameters of one shape, dtype, device and number of steps, at most STACKED_BYTES of them."""
    alike: dict[Any, list[nn.Parameter]] = {}
    for p in parameters:
        alike.setdefault((p.shape, p.dtype, p.device, steps_done(p)), []).append(p)
    for group in alike.values():
        at_once = max(1, STACKED_BYTES // max(1, group[0].nbytes))
        for start in range(0, len(group), at_once):
            yield group[start : start + at_once]


def _new_state(parameter: nn.Parameter) -> dict[str, Any]:
    """The state before the first step, in the fields of transformers' Adafactor."""
    shape = parameter.shape
    # RMS, which only a relative step asks for, is a field of it all the same.
    state: dict[str, Any] = {"step": 0, "RMS": 0}
    if len(shape) < 2:
        state["exp_avg_sq"] = torch.zeros_like(parameter)
    else:
        state["exp_avg_sq_row"] = parameter.new_zeros(shape[:-1])
        state["exp_avg_sq_col"] = parameter.new_zeros(shape[:-2] + shape[-1:])
    return state


def _moved(states: Sequence[dict[str, Any]], field: str, new: Tensor, kept: float) -> Tensor:
    """The running means of a field, moved towards ``new`` in the states; stacked ``[n, …]``."""
    means = [state[field] for state in states]
    torch._foreach_lerp_(means, list(new.unbind()), 1.0 - kept)
    return torch.stack(means)
