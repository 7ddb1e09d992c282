"""Moving a model to its device, where it then gives the same bits each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from bench.models.devices import is_spread

Module = TypeVar("Module", bound=nn.Module)

_cuda: Any = torch.backends.cuda
_memory: Any = torch.utils.deterministic
# Whether each kernel of attention may be chosen on CUDA. Only the plain one adds up in a fixed
# order behind `warn_only`: the backward passes of the others do so only where a missing kernel
# elsewhere is an error.
_ATTENTION = {"math": True, "flash": False, "mem_efficient": False, "cudnn": False}


def place(module: Module, device: torch.device) -> Module:
    """Move a module to a device, and return it; one that is spread over several stays where it is.

    On CUDA, kernels that give the same bits each time are chosen from then on, for this process:
    by default the backward pass of attention, among others, adds up in whatever order its threads
    come by, so that neither a training nor a ranking could be repeated to the last bit. Where there
    is no such kernel torch warns, and goes on.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product
        torch.use_deterministic_algorithms(True, warn_only=True)
        _choose_attention(_ATTENTION)
        # Which would take a pass over memory that is about to be written.
        _memory.fill_uninitialized_memory = False
    return module if is_spread(module) else module.to(device)


@contextmanager
def kernels_as_they_were() -> Iterator[None]:
    """A context after which torch chooses kernels as before, whatever was placed in it."""
    chosen = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    attention = {name: getattr(_cuda, f"{name}_sdp_enabled")() for name in _ATTENTION}
    fills = _memory.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(chosen, warn_only=warns)
        _choose_attention(attention)
        _memory.fill_uninitialized_memory = fills


def _choose_attention(allowed: dict[str, bool]) -> None:
    for name, is_allowed in allowed.items():
        getattr(_cuda, f"enable_{name}_sdp")(is_allowed)
