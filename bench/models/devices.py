"""Models larger than one device: their layers on several, and weights that rest elsewhere.

accelerate spreads the layers, and its hooks move what a layer is given to its device. Weights that
fit no GPU rest in CPU memory, or on disk in the model's own files, and are meta tensors in the
model. accelerate would bring them for a forward pass, keep all of them on the GPU for the backward
pass, and give a module other weights than those that ``functional_call`` put into it. So they are
brought here: they come for the forward pass of their own module, leave after it, and come again
when the backward pass needs them.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from bench.core.errors import UserError

_RESTING = "_resting_weights"  # the attribute of a module whose weights rest elsewhere
_FREE = 0.9  # the share of free memory that weights may fill; transformers takes as much


def check_accelerate() -> None:
    """Raise UserError if accelerate, which spreads a model, is not installed."""
    if importlib.util.find_spec("accelerate") is None:
        raise UserError(
            "needs the package accelerate",
            where="model.device_map",
            fix="pip install 'tdabench[accelerate]'",
        )


def spreading(
    device: torch.device, gpu_memory: str | None, cpu_memory: str | None
) -> dict[str, Any]:
    """Arguments with which ``from_pretrained`` spreads a model over what this process sees.

    Args:
        device: the device of the run; a CPU means that no GPU is used.
        gpu_memory: the most of each GPU that weights may fill, as ``"70GiB"``; None for what is
            free, with a margin.
        cpu_memory: likewise of the CPU.
    """
    check_accelerate()
    from accelerate.utils import get_max_memory

    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # where all is, is told
    free = {place: int(size * _FREE) for place, size in get_max_memory().items()}
    room: dict[str | int, str | int] = {}
    for place, size in free.items():
        if place == "cpu":
            room[place] = cpu_memory or size
        elif device.type != "cpu":
            room[place] = gpu_memory or size
    return {"device_map": "auto", "max_memory": room}


@contextmanager
def resting_on_disk(where: str) -> Iterator[None]:
    """A context that loads a spread model; what transformers cannot leave on disk is a UserError.

    Args:
        where: the model's folder, for the message.
    """
    try:
        yield
    except ValueError as error:
        if "offload_folder" not in str(error):
            raise
        raise UserError(
            "its weights do not fit, and some cannot rest on disk: they are stored in another form",
            where=where,
            fix="use more GPUs, or raise model.gpu_memory or model.cpu_memory",
        ) from error


def is_spread(module: nn.Module) -> bool:
    """Whether accelerate moves what a model computes from device to device."""
    return hasattr(module, "_hf_hook")


def device_of(module: nn.Module) -> torch.device:
    """The device that a module computes on, wherever its weights rest."""
    hook: Any = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        device = getattr(one, "execution_device", None)
        if device is not None:
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return next(module.parameters()).device


def device_around(module: nn.Module, name: str) -> torch.device:
    """The device of the module that a parameter's own is part of, also where it is new there."""
    path = name.split(".")[:-1]
    for length in range(len(path), -1, -1):
        part = module.get_submodule(".".join(path[:length]))
        if is_spread(part):
            return device_of(part)
    return device_of(module)


def weight_values(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and values of each parameter, one after the other; those that rest on disk are read."""
    for name, parameter in module.named_parameters():
        yield name, resting_value(module, name) if parameter.is_meta else parameter


def resting_value(module: nn.Module, name: str) -> Tensor:
    """The values of a parameter that rests elsewhere, as they are stored there."""
    path, _, last = name.rpartition(".")
    value: Tensor = getattr(module.get_submodule(path), _RESTING).weights[last]
    return value


def rests(module: nn.Module) -> bool:
    """Whether some weights of a model rest in CPU memory or on disk between their uses."""
    return any(hasattr(part, _RESTING) for part in module.modules())


def place_of(module: nn.Module, name: str) -> str | None:
    """The place that accelerate chose for a parameter: ``"0"``, ``"cpu"``, ``"disk"``; or None."""
    chosen: Mapping[str, Any] = getattr(module, "hf_device_map", {})
    prefixes = [key for key in chosen if not key or f"{name}.".startswith(f"{key}.")]
    return str(chosen[max(prefixes, key=len)]) if prefixes else None


def bytes_by_place(module: nn.Module) -> dict[str, int]:
    """Bytes of weights by the place that accelerate chose; empty for a model in one place."""
    sizes: dict[str, int] = {}
    for name, parameter in module.named_parameters():
        if (place := place_of(module, name)) is not None:
            sizes[place] = sizes.get(place, 0) + parameter.nbytes
    return sizes


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, as accelerate counts them."""
    from accelerate.utils import get_max_memory

    free: dict[Any, int] = get_max_memory()
    return free["cpu" if device.type == "cpu" else device.index]


def let_rest(module: nn.Module) -> None:
    """Take over from accelerate the bringing of weights that rest elsewhere.

    Parameters that are tied are one parameter again: accelerate leaves several on the meta device.
    """
    for part in module.modules():
        hook: Any = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            if getattr(one, "offload", False):
                resting = _Resting(one.weights_map, device_of(part))
                one.offload, one.weights_map = False, None  # it moves inputs from now on, no more
                part.register_forward_pre_hook(resting.bring)
                part.register_forward_hook(resting.send_back, always_call=True)
                setattr(part, _RESTING, resting)
    for name, source in getattr(module, "all_tied_weights_keys", {}).items():
        path, _, last = name.rpartition(".")
        shared = module.get_parameter(source)
        if shared.is_meta and module.get_parameter(name).is_meta:
            module.get_submodule(path)._parameters[last] = shared


class _Resting:
    """The weights of one module, which are on its device only while it computes.

    Args:
        weights: the stored values by the names that they have in the module.
        device: the device that the module computes on.
    """

    def __init__(self, weights: Mapping[str, Tensor], device: torch.device) -> None:
        self.weights, self._device = weights, device
        self._own: dict[str, nn.Parameter | None] = {}  # what the module holds between its uses
        self._brought: dict[int, Callable[[], Tensor]] = {}  # by address: where it came from
        self._saving: saved_tensors_hooks | None = None

    def bring(self, module: nn.Module, inputs: Any) -> None:  # noqa: ARG002
        """Put the weights into the module: the stored ones or, of ``functional_call``, its own."""
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            self._own[name] = parameter
            value = self._value(name, parameter)
            if value is not parameter:
                module._parameters[name] = value  # type: ignore[assignment]
        if torch.is_grad_enabled() and self._brought:
            self._saving = saved_tensors_hooks(self._noted, _recalled)
            self._saving.__enter__()

    def _value(self, name: str, parameter: Tensor) -> Tensor:
        """The values on the module's device; a gradient of given ones finds its way back."""
        if parameter.is_meta:
            stored, dtype = self.weights, parameter.dtype
            fetch = lambda: stored[name].to(self._device, dtype)  # noqa: E731
            value: Tensor = nn.Parameter(fetch(), requires_grad=False)
        elif parameter.device != self._device:
            fetch = lambda: parameter.detach().to(self._device)  # noqa: E731
            value = parameter.to(self._device)
        else:
            return parameter
        self._brought[value.untyped_storage().data_ptr()] = fetch
        return value

    def send_back(self, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG002
        """Leave the module as it was, also where its forward pass failed."""
        if self._saving is not None:
            self._saving.__exit__(None, None, None)
            self._saving = None
        module._parameters.update(self._own)
        self._own, self._brought = {}, {}

    def _noted(self, saved: Tensor) -> Tensor | _Note:
        """What the backward pass keeps of a tensor: of a weight that was brought, a note."""
        fetch = self._brought.get(saved.untyped_storage().data_ptr())
        if fetch is None:
            return saved
        return _Note(fetch, saved.shape, saved.stride(), int(saved.storage_offset()))


@dataclass(frozen=True)
class _Note:
    """A weight, or a view of one, that the backward pass fetches again.

    Attributes:
        fetch: brings the whole weight.
        shape, stride, offset: of the view.
    """

    fetch: Callable[[], Tensor]
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


def _recalled(noted: Tensor | _Note) -> Tensor:
    if isinstance(noted, Tensor):
        return noted
    return noted.fetch().as_strided(noted.shape, noted.stride, noted.offset)
