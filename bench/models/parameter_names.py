"""Names of parameters as wrappers of torch and layers of peft write them, and without these parts.

peft calls one matrix ``base_model.model.….q_proj.lora_A.default.weight`` in a model that it wraps,
``….q_proj.lora_A.default.weight`` in one that it only puts layers into, and leaves the adapter's
name out in a file. The weight that it adapts is ``….q_proj.base_layer.weight`` beside it and
``….q_proj.weight`` in the model as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

_LORA = "lora_"  # how the parts of a name begin that are an adapter's own
_BASE = "base_layer"
_SAVED = "modules_to_save"  # followed by the adapter's name
_PEFT = ["base_model", "model"]  # what stands before every name of a model that peft wraps
# What wrappers of torch put into the names of parameters, at any place.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_OWN = ("weight", "bias")  # names of a layer's parameters, which no adapter is called


def bare_name(name: str) -> str:
    """A parameter's name without what wrappers of torch and peft put into it."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    if parts[: len(_PEFT)] == _PEFT:
        parts = parts[len(_PEFT) :]
    bare: list[str] = []
    while parts:
        part, *parts = parts
        if part.startswith(_LORA) and parts and parts[0] not in _OWN:
            parts = parts[1:]
        elif part == _SAVED:
            parts = parts[1:]
            continue
        if part != _BASE:
            bare.append(part)
    return ".".join(bare)


def own_names(names: Iterable[str]) -> dict[str, str]:
    """A model's names by ``bare_name``, those left out that two of them share."""
    own: dict[str, str] = {}
    shared = set()
    for name in names:
        bare = bare_name(name)
        if bare in own:
            shared.add(bare)
        own[bare] = name
    return {bare: name for bare, name in own.items() if bare not in shared}


def adapter_names(module: nn.Module) -> list[str]:
    """Names of the parameters that the training of a model's adapter moves; none without one.

    They are in the order of ``named_parameters``: LoRA's matrices, and the modules and biases that
    the adapter's settings name.
    """
    config = next(iter(getattr(module, "peft_config", {}).values()), None)
    if config is None:
        return []
    names = [name for name, _ in module.named_parameters()]
    adapted = {bare_name(name).split(f".{_LORA}")[0] for name in names if f".{_LORA}" in name}
    return [name for name in names if _is_own(bare_name(name), config, adapted)]


def _is_own(name: str, config: Any, adapted: set[str]) -> bool:
    """Whether an adapter with this configuration trains the parameter of a bare name."""
    path, _, last = name.rpartition(".")
    if f".{_LORA}" in name or saved_module(name, config.modules_to_save):
        return True
    if last != "bias":
        return False
    return config.bias == "all" or (config.bias == "lora_only" and path in adapted)


def saved_module(name: str, modules: Any) -> str | None:
    """The entry of ``modules_to_save`` that a parameter belongs to, as peft matches them."""
    path = name.rpartition(".")[0]
    if "original_module" in path.split("."):  # the base's own, which peft keeps beside the copy
        return None
    return next((one for one in modules or () if f".{one}." in f".{path}."), None)
