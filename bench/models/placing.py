"""Moving a model to its device, where it then gives the same bits each time."""

from __future__ import annotations

import os
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def place(module: Module, device: torch.device) -> Module:
    """Move a module to a device, and return it.

    On CUDA, kernels that give the same bits each time are chosen from then on, for this process:
    by default the backward pass of attention, among others, adds up in whatever order its threads
    come by, so that neither a training nor a ranking could be repeated to the last bit. Where there
    is no such kernel torch warns, and goes on.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Which would take a pass over memory that is about to be written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return module.to(device)
