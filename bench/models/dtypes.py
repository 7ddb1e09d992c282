"""A model in another dtype than its own, and what transformers does not run in one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from bench.core import memory
from bench.core.errors import UserError, first_line

_HALVES = (torch.float16, torch.bfloat16)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Float32 for half precisions, whose sums would lose most of their digits; else the same."""
    return torch.float32 if dtype in _HALVES else dtype


def in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module itself if it has that dtype, else a copy: others still use the original.

    In half precision, what a checkpoint does not hold, such as the frequencies of rotary positions,
    has the dtype that it has where transformers loads such a model.

    Returns:
        frozen and in eval mode; in float64 its experts, if any, are computed one by one.
    """
    found = module
    if next(module.parameters()).dtype != dtype:
        found = copy.deepcopy(module).to(dtype)
        if dtype in _HALVES:
            _restore_buffers(found, module, dtype)
    choose_experts(found, dtype)
    return found.requires_grad_(False).eval()


def choose_experts(module: nn.Module, dtype: torch.dtype) -> None:
    """In float64, one product an expert: torch's grouped product of them all knows no float64.

    The other dtypes are left with what transformers chooses. The numbers are the same.
    """
    if dtype == torch.float64 and hasattr(module, "set_experts_implementation"):
        module.set_experts_implementation("eager")  # type: ignore[operator]


@contextmanager
def experts_for(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, ``choose_experts``: for weights of that dtype that a module of another runs with."""
    config = getattr(module, "config", None)
    before = getattr(config, "_experts_implementation", None)
    choose_experts(module, dtype)
    try:
        yield
    finally:
        if before is not None and getattr(config, "_experts_implementation", None) != before:
            module.set_experts_implementation(before)  # type: ignore[operator]


def _restore_buffers(copied: nn.Module, module: nn.Module, dtype: torch.dtype) -> None:
    """Put back the buffers that no checkpoint holds, in the dtype that a loaded model has them."""
    as_loaded = _buffer_dtypes(module, dtype)
    for name, part in module.named_modules():
        for buffer in part._non_persistent_buffers_set:
            own = getattr(part, buffer)
            path = f"{name}.{buffer}" if name else buffer
            if own is not None:
                setattr(copied.get_submodule(name), buffer, own.to(as_loaded.get(path, own.dtype)))


def _buffer_dtypes(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """By name, of such a model where transformers makes it in a dtype; nothing of other modules.

    Rotary frequencies are always float32, while the positions of XGLM follow the weights.
    """
    if not isinstance(module, PreTrainedModel):
        return {}
    with torch.device("meta"):
        twin = type(module)._from_config(copy.deepcopy(module.config), dtype=dtype)
    return {name: buffer.dtype for name, buffer in twin.named_buffers()}


@contextmanager
def running_in(dtype: torch.dtype, model: str) -> Iterator[None]:
    """Inside, a model runs in a dtype that transformers may not have written it for.

    Args:
        model: its name.

    Raises:
        UserError: it does not run. In float32 all models do: there, as where memory runs out or a
            GPU fails, an error is of another kind and passes as it is.
    """
    try:
        yield
    except RuntimeError as error:
        if dtype == torch.float32 or memory.ran_out(error) or "CUDA error" in str(error):
            raise
        name = str(dtype).removeprefix("torch.")
        raise UserError(
            f"does not run in {name} ({first_line(error)})",
            where=f"model {model}",
            fix="try model.gradient_dtype=float32",
        ) from error
