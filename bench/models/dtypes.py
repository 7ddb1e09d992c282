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
from bench.models.devices import is_spread

_HALVES = (torch.float16, torch.bfloat16)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype to sum in: float32 for half precisions, which would lose digits; else the same."""
    return torch.float32 if dtype in _HALVES else dtype


def in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module in a dtype: itself if it has that dtype, else a copy, since others use it.

    In half precision, the buffers that a checkpoint does not hold, such as the frequencies of
    rotary positions, have the dtype that transformers gives them when it loads such a model.

    Returns:
        the module, frozen and in eval mode; in float64 its experts, if any, are computed one by
        one.

    Raises:
        UserError: the model is spread over several devices, which hold it once.
    """
    cast, own = module, next(module.parameters()).dtype
    if own != dtype:
        if is_spread(module):
            raise UserError(
                f"weights are {own} and gradients {dtype}, and a model on several devices is held "
                "once, in one dtype".replace("torch.", ""),
                where="model.gradient_dtype",
                fix="set model.dtype and model.gradient_dtype to the same",
            )
        cast = copy.deepcopy(module).to(dtype)
        if dtype in _HALVES:
            _restore_buffers(cast, module, dtype)
    choose_experts(cast, dtype)
    return cast.requires_grad_(False).eval()


def choose_experts(module: nn.Module, dtype: torch.dtype) -> None:
    """Let a float64 model multiply by one expert at a time; the numbers are the same.

    torch's grouped product of all experts does not take float64. Other dtypes keep what
    transformers chooses.
    """
    if dtype == torch.float64 and hasattr(module, "set_experts_implementation"):
        module.set_experts_implementation("eager")  # type: ignore[operator]


@contextmanager
def experts_for(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """A context in which ``choose_experts`` holds for a dtype other than the module's own.

    Functions that run a module with other weights than its own use it.
    """
    config = getattr(module, "config", None)
    before = getattr(config, "_experts_implementation", None)
    choose_experts(module, dtype)
    try:
        yield
    finally:
        if before is not None and getattr(config, "_experts_implementation", None) != before:
            module.set_experts_implementation(before)  # type: ignore[operator]


def _restore_buffers(copied: nn.Module, module: nn.Module, dtype: torch.dtype) -> None:
    """Give buffers that no checkpoint holds their values back, in the dtype of a loaded model's."""
    as_loaded = _buffer_dtypes(module, dtype)
    for name, part in module.named_modules():
        for buffer in part._non_persistent_buffers_set:
            own = getattr(part, buffer)
            path = f"{name}.{buffer}" if name else buffer
            if own is not None:
                setattr(copied.get_submodule(name), buffer, own.to(as_loaded.get(path, own.dtype)))


def _buffer_dtypes(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype of each buffer, by name, of a model that transformers makes in a dtype.

    Rotary frequencies are always float32, while the positions of XGLM follow the weights. Empty for
    a module that is not of transformers.
    """
    if not isinstance(module, PreTrainedModel):
        return {}
    with torch.device("meta"):
        twin = type(module)._from_config(copy.deepcopy(module.config), dtype=dtype)
    return {name: buffer.dtype for name, buffer in twin.named_buffers()}


@contextmanager
def running_in(dtype: torch.dtype, model: str) -> Iterator[None]:
    """A context in which a model runs in a dtype that transformers may not have written it for.

    Args:
        dtype: the dtype of the computation.
        model: the model's name, for the message.

    Raises:
        UserError: the model does not run in this dtype. All models run in float32: an error there
            has another cause, as have those of memory and of a GPU, and these pass as they are.
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
