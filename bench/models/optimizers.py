"""The optimizers that models are trained with here, each with the settings of its own authors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from transformers.optimization import Adafactor

from bench.models.stacked_adafactor import StackedAdafactor


def _adafactor(module: nn.Module, learning_rate: float, _: float) -> Optimizer:
    """Adafactor with a rate from outside: transformers' own on a CPU, few kernels on a GPU."""
    trained = _trained(module)
    if any(parameter.is_cuda for parameter in trained):
        return StackedAdafactor(trained, learning_rate)
    return Adafactor(trained, lr=learning_rate, scale_parameter=False, relative_step=False)


def _adam(module: nn.Module, learning_rate: float, _: float) -> Optimizer:
    return Adam(_trained(module), lr=learning_rate)


def _adamw(module: nn.Module, learning_rate: float, weight_decay: float) -> Optimizer:
    """AdamW, which lets matrices decay and leaves vectors (biases, scales of norms) alone."""
    groups = [
        {"params": [p for p in _trained(module) if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in _trained(module) if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate)


# Each makes the optimizer of a module's trained parameters from the learning rate and the decay.
OPTIMIZERS: dict[str, Callable[[nn.Module, float, float], Optimizer]] = {
    "adafactor": _adafactor,
    "adam": _adam,
    "adamw": _adamw,
}


def _trained(module: nn.Module) -> Sequence[nn.Parameter]:
    """The parameters that a training moves; an adapter's alone, where there is one."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
