"""Which weight matrices carry the attribution gradient, and how they group into blocks.

The matrices are those of attention and MLP; embeddings, output head, biases and normalisation are
left out. Consecutive layers form groups, each with an attention and an MLP block. Source:
2410.17413, section 3.

An expert of a mixture has matrices of its own, each with its own projection, and they add up in the
block of their layer's MLP like its other matrices: the features of a mixture are no longer than
those of a dense model. Where each parameter is a block, so is a parameter that holds the matrices
of all experts, as long as they are projected; exact features are as long in any case, and each
expert's matrix is a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.core import progress
from bench.core.errors import UserError
from bench.models.devices import device_of
from methods.gradient.mixture import is_computable, multiplies_once
from methods.gradient.settings import (
    Adapters,
    BlockLayout,
    EncodingSettings,
    FeatureSettings,
    Unsupported,
)

_ATTENTION = ("attn", "attention")
_MLP = ("mlp", "feed_forward", "ffn", "feedforward", "moe", "fc1", "fc2")  # the last are OPT's
PLAIN_FORWARDS = (nn.Linear.forward, Conv1D.forward)
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Matrix:
    """One weight matrix, always seen as ``[out, in]``.

    Attributes:
        parameter: name of the parameter, e.g. ``"model.layers.0.mlp.up_proj.weight"``.
        module: the layer that multiplies by it.
        transposed: whether the weight is stored as ``[in, out]``, as GPT-2's ``Conv1D`` does.
        expert: which matrix of a parameter that holds those of all experts; None if it is one.
    """

    parameter: str
    module: nn.Module
    block: int
    transposed: bool
    expert: int | None = None

    @property
    def name(self) -> str:
        """The parameter's name and, of an expert's matrix, its number behind another dot."""
        return self.parameter if self.expert is None else f"{self.parameter}.{self.expert}"

    @property
    def attribute(self) -> str:
        """The name that the parameter has in its module."""
        return self.parameter.rpartition(".")[2]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape as ``(out, in)``."""
        rows, columns = self.weight.shape
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def device(self) -> torch.device:
        """The device that products by the matrix are computed on."""
        return device_of(self.module)

    @property
    def weight(self) -> Tensor:
        """The matrix itself, as stored; on the meta device where it rests elsewhere."""
        stored: Tensor = getattr(self.module, self.attribute)
        return stored if self.expert is None else stored[self.expert]


def gradient_matrices(model: nn.Module, settings: FeatureSettings) -> list[Matrix]:
    """The attention and MLP matrices of a decoder, in the order of ``named_modules``.

    Args:
        model: a causal language model of transformers, with or without peft's LoRA layers.
        settings: ``layers`` (from 0, negative ones from the last), ``adapters``, ``unsupported``,
            ``block_layout`` and, for the layout ``groups``, ``layer_blocks``: at most one group a
            layer is made. For the layout ``matrices``, ``projection_dim`` decides of experts.

    Raises:
        UserError: there are no decoder layers, a layer is not there, a matrix is unsupported and
            not to be skipped, or nothing is left.
    """
    prefix, decoder = _decoder_layers(model)
    adapters = settings.adapters
    chosen = _chosen_layers(settings.layers, len(decoder))
    n_groups = min(settings.layer_blocks, len(chosen))
    matrices: list[Matrix] = []
    faults: list[str] = []
    n_parameters, projected = 0, settings.projection_dim is not None
    for one in _examined(decoder, chosen, adapters):
        name = f"{prefix}.{one.number}.{one.path}"
        if one.fault:
            faults.append(f"{name}{_parameter_of(one.module)} ({one.fault})")
        else:
            group = chosen.index(one.number) * n_groups // len(chosen)
            transposed = _is_transposed(one.module)
            for parameter, stored in _own_matrices(one.module):
                experts: Sequence[int | None] = range(len(stored)) if stored.ndim == 3 else [None]
                for expert in experts:
                    block = {
                        BlockLayout.groups: 2 * group + (_kind(one.path) == "mlp"),
                        BlockLayout.matrices: n_parameters if projected else len(matrices),
                        BlockLayout.single: 0,
                    }[settings.block_layout]
                    full = f"{name}.{parameter}"
                    matrices.append(Matrix(full, one.module, block, transposed, expert))
                n_parameters += 1
    _judge(faults, settings.unsupported)
    if not matrices:
        raise UserError(
            f"no {'adapter' if adapters is Adapters.lora else 'attention or MLP'} matrix found in "
            f"{type(model).__name__}",
            where="method.adapters" if adapters is Adapters.lora else "model",
            fix="gradient methods need a decoder-only transformer of the transformers library",
        )
    return matrices


def coverage(model: nn.Module, settings: EncodingSettings) -> dict[str, Any]:
    """How much of the attention and MLP matrices carries the gradient, for the result.

    Args:
        model, settings: as of ``gradient_matrices``, which leaves out what it cannot take.

    Returns:
        ``share`` of the parameters of the chosen layers' matrices that count, ``parameters``: how
        many these are, and ``left_out``: the names of the other matrices and why, layers of one
        name together, as ``"model.layers.0-31.mlp.experts.down_proj (mixture-of-experts)"``.
    """
    prefix, decoder = _decoder_layers(model)
    taken: dict[int, int] = {}  # sizes by identity, since layers may share a matrix
    every: dict[int, int] = {}
    left_out: dict[str, list[int]] = {}
    chosen = _chosen_layers(settings.layers, len(decoder))
    for one in _examined(decoder, chosen, settings.adapters):
        for name, parameter in _own_matrices(one.module):
            every[id(parameter)] = parameter.numel()
            if one.fault is None:
                taken[id(parameter)] = parameter.numel()
            else:
                left_out.setdefault(f"{one.path}.{name} ({one.fault})", []).append(one.number)
    return {
        "share": round(sum(taken.values()) / max(1, sum(every.values())), 6),
        "parameters": sum(taken.values()),
        "left_out": [f"{prefix}.{_ranges(at)}.{rest}" for rest, at in left_out.items()],
    }


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers in few characters: ``"0-3,7"``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


@dataclass(frozen=True)
class _Candidate:
    """A module of a decoder layer that owns a matrix, and why its gradient cannot be taken."""

    number: int
    path: str
    module: nn.Module
    fault: str | None


def _examined(
    decoder: nn.ModuleList, chosen: Sequence[int], adapters: Adapters
) -> Iterator[_Candidate]:
    """The modules of the chosen layers that are asked for, each matrix that can be taken once."""
    seen: dict[int, nn.Module] = {}
    for number in chosen:
        for path, module in _candidates(decoder[number], adapters):
            fault = _fault(decoder[number], path, module, seen)
            own = [id(parameter) for _, parameter in _own_matrices(module)]
            if fault is None and own[0] in seen:
                continue
            if fault is None:
                seen |= dict.fromkeys(own, module)
            yield _Candidate(number, path, module, fault)


def _chosen_layers(layers: Sequence[int] | None, n_layers: int) -> list[int]:
    if layers is None:
        return list(range(n_layers))
    for number in layers:
        if not -n_layers <= number < n_layers:
            raise UserError(
                f"no layer {number}: the model has layers 0 to {n_layers - 1}",
                where="method.layers",
                fix="negative numbers count from the last layer",
            )
    return sorted({number % n_layers for number in layers})


def _decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of decoder layers: the longest ModuleList that is not inside another one."""
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    outer = [
        (name, m)
        for name, m in lists
        if not any(name.startswith(f"{other}.") for other, _ in lists)
    ]
    if not outer:
        raise UserError(
            f"no list of decoder layers found in {type(model).__name__}",
            where="model",
            fix="gradient methods need a decoder-only transformer of the transformers library",
        )
    return max(outer, key=lambda item: len(item[1]))


def _candidates(layer: nn.Module, adapters: Adapters) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of everything in a layer that owns a matrix and is asked for."""
    for path, module in layer.named_modules():
        if isinstance(module, nn.Embedding) or not _parameter_of(module):
            continue
        is_adapter = any(part.startswith("lora_") for part in path.split("."))
        if is_adapter == (adapters is Adapters.lora):
            yield path, module


def _parameter_of(module: nn.Module) -> str:
    """``".weight"`` or the name of another matrix that the module itself owns; ``""`` if none."""
    names = [f".{name}" for name, _ in _own_matrices(module)]
    return ".weight" if ".weight" in names else next(iter(names), "")


def _own_matrices(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The matrices that a module itself owns; packed weights of a linear layer are one, too.

    The biases of experts have two dimensions and are none.
    """
    return [
        (name, parameter)
        for name, parameter in module.named_parameters(recurse=False)
        if not name.endswith("bias") and (parameter.ndim > 1 or isinstance(module, nn.Linear))
    ]


def _is_transposed(module: nn.Module) -> bool:
    """Whether a module whose matrices can be taken stores them as ``[in, out]``."""
    if is_computable(module):
        return bool(module.is_transposed)
    return isinstance(module, Conv1D)


def _fault(
    layer: nn.Module, path: str, module: nn.Module, seen: dict[int, nn.Module]
) -> str | None:
    """The reason why the gradient of a matrix cannot be taken per example; None if it can."""
    parts = path.split(".")
    parent = layer.get_submodule(".".join(parts[:-1]))
    if is_computable(module):
        # peft wraps such a module where it adapts parameters of it, and computes in its own way.
        fault = "mixture-of-experts" if hasattr(parent, "lora_A") else None
    elif hasattr(parent, "experts") and parts[-1] in ("gate", "router"):
        own = type(module).forward not in PLAIN_FORWARDS
        fault = None if own and multiplies_once(module) else "mixture-of-experts"
    else:
        fault = _fault_of_experts(module) if "experts" in parts else _fault_of_linear(module)
    if fault is not None:
        return fault
    if any(seen.get(id(one), module) is not module for _, one in _own_matrices(module)):
        return "shares its weight with another layer"
    if len(getattr(parent, "lora_magnitude_vector", ())):
        return "DoRA"
    if _kind(path) is None:
        return "neither attention nor MLP by its name"
    return None


def _fault_of_experts(module: nn.Module) -> str:
    """The reason why experts cannot be taken that transformers' common form does not compute."""
    quantised = any(one.dtype.itemsize == 1 for _, one in _own_matrices(module))
    return "quantised" if quantised else "mixture-of-experts"


def _fault_of_linear(module: nn.Module) -> str | None:
    """The reason why a module is no plain layer of one matrix; None if it is."""
    if not isinstance(module, nn.Linear | Conv1D):
        return f"{type(module).__name__} is neither nn.Linear nor Conv1D"
    if type(module).forward not in PLAIN_FORWARDS:
        return f"{type(module).__name__} has a forward of its own"
    if not module.weight.is_floating_point() or module.weight.ndim != 2:
        return "quantised"
    return None


def _kind(path: str) -> str | None:
    if any(word in path for word in (*_MLP, "experts")):
        return "mlp"
    return "attention" if any(word in path for word in _ATTENTION) else None


def _judge(faults: Sequence[str], unsupported: Unsupported) -> None:
    """Refuse matrices that cannot be taken, or say that they are left out."""
    if not faults:
        return
    shown = ", ".join(faults[:_NAMES_SHOWN])
    more = f" and {len(faults) - _NAMES_SHOWN} more" if len(faults) > _NAMES_SHOWN else ""
    if unsupported is Unsupported.skip:
        progress.say(f"gradient: left out {shown}{more}")
        return
    raise UserError(
        f"gradient methods do not support {shown}{more}",
        where="model",
        fix="set method.unsupported=skip to leave these matrices out, or use another model",
    )
