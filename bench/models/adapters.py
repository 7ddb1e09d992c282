"""Adapters of peft: a folder with LoRA matrices, put onto the model that they were trained on.

Only safetensors are read, and only what the folder holds: the base is the model that is given, and
the name of one in ``adapter_config.json`` is never looked up.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.core.errors import UserError, first_line
from bench.models.devices import device_around
from bench.models.loading import check_weights
from bench.models.parameter_names import adapter_names, bare_name, own_names, saved_module
from bench.models.sizes import check_files
from bench.storage.documents import read_json
from bench.storage.hashes import file_sha256
from bench.storage.keys import content_key

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
# Fields that say where LoRA's matrices are and what their product is multiplied by.
_MEANT = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out", "bias",
    "modules_to_save",
)  # fmt: skip
# Fields that a model which is not trained any further does not depend on.
_SILENT = (
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "lora_dropout",
)  # fmt: skip
# How the matrices may have begun: other ways change the base's weights, too.
_BEGINNINGS = (True, False, "gaussian", "orthogonal")
_PREFIX = "base_model.model."  # of every name in a file that peft writes
_ADAPTER = "default"  # the name that peft itself gives to the only one
_SHOWN = 3  # names of tensors in a message
_EXPORT = "merge it into its base (merge_and_unload) and set model.path to the result"


def check_adapter(folder: Path) -> dict[str, Any]:
    """The settings of a folder's LoRA, once it is sure that they are all of what peft would do.

    Returns:
        arguments of ``peft.LoraConfig``.

    Raises:
        UserError: no such folder or file, weights as a pickle, another tuner than LoRA, a variant
            of it such as DoRA, or peft is not installed.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            pickled = name == WEIGHTS and (folder / _PICKLED).exists()
            raise UserError(
                f"has no {name}" + (f", and {_PICKLED} is a pickle" if pickled else ""),
                where=str(folder),
                fix="save the adapter with save_pretrained, as safetensors, and set model.adapter "
                "to that folder",
            )
    check_files(folder)
    where, written = str(folder / CONFIG), read_json(folder / CONFIG)
    kind = written.get("peft_type")
    if kind != "LORA":
        raise UserError(f"peft_type is {kind!r:.40}, and LORA is read", where=where, fix=_EXPORT)
    usual = {field.name: _default(field) for field in dataclasses.fields(_peft().LoraConfig)}
    for name, value in written.items():
        if name == "init_lora_weights":
            if value not in _BEGINNINGS:
                raise UserError(
                    f"{name} is {value!r:.40}, which changed weights of the base",
                    where=where,
                    fix="save it with path_initial_model_for_weight_conversion, as plain LoRA",
                )
        elif name not in (*_MEANT, *_SILENT) and value and value != usual.get(name):
            raise UserError(
                f"{name} is {value!r:.60}, and plain LoRA is read", where=where, fix=_EXPORT
            )
    return {name: written[name] for name in _MEANT if written.get(name) is not None}


def adapter_sha256(folder: Path) -> str:
    """Hash of an adapter's two files, wherever the folder is."""
    return content_key([file_sha256(folder / name) for name in (CONFIG, WEIGHTS)], length=64)


def with_adapter(module: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with an adapter's layers in it: active, not merged, frozen and in eval mode.

    Names of parameters are the base's, with ``base_layer``, ``lora_A.default`` and
    ``lora_B.default`` below the layers that are adapted. All are in the dtype of the base. Whole
    modules and biases that were trained beside the matrices take the place of the base's.

    Args:
        module: the base, changed in place.
        folder: the adapter's, as ``save_pretrained`` of peft writes it.

    Raises:
        UserError: as ``check_adapter``, or the adapter is not one of this model: a tensor has no
            place in it, is missing, of another shape or not finite.
    """
    dtype = module.dtype
    with_empty_adapter(module, folder)
    with _putting(folder):
        tensors = load_file(folder / WEIGHTS)
    _fill(module, tensors, str(folder), dtype)
    module.eval().requires_grad_(False)
    check_weights(module, str(folder))
    return module


def with_empty_adapter(module: nn.Module, folder: Path) -> None:
    """Put an adapter's layers into a model, without memory for their weights.

    Raises:
        UserError: as ``check_adapter``, or the model has no such layers.
    """
    settings = check_adapter(folder)
    peft = _peft()
    with _putting(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of initial values, which are not used
        config = peft.LoraConfig(**settings)
        peft.inject_adapter_in_model(config, module, _ADAPTER, low_cpu_mem_usage=True)


@contextmanager
def _putting(folder: Path) -> Iterator[None]:
    try:
        yield
    except (
        ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError,
        ImportError, SafetensorError, OSError,
    ) as error:  # fmt: skip
        raise UserError(
            f"cannot be put onto the model of model.path ({first_line(error)})",
            where=str(folder),
            fix="model.adapter must be a LoRA that was trained on this very model",
        ) from error


def new_adapter(module: PreTrainedModel, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Put new LoRA layers into a model, with torch's random numbers; they alone are trained.

    Args:
        module: the model, changed in place.
        rank: the number of rows of ``lora_A`` and of columns of ``lora_B``, which begins as zeros.
        alpha: the product of the two is multiplied by ``alpha / rank``.
        targets: the names of linear layers; none for all but the head.

    Raises:
        UserError: peft is not installed, or no layer has one of these names.
    """
    peft = _peft()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which tell that GPT-2's matrices are transposed
            config = peft.LoraConfig(
                r=rank, lora_alpha=alpha, target_modules=list(targets) or "all-linear"
            )
            peft.inject_adapter_in_model(config, module, _ADAPTER)
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise UserError(
            f"no adapter can be put onto this model ({first_line(error)})",
            where=f"model.train.lora.targets={list(targets)}",
            fix="name linear layers of it, such as q_proj, or none for all",
        ) from error
    own = set(adapter_names(module))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in own)


def save_adapter(module: PreTrainedModel, folder: Path) -> None:
    """Write a model's adapter as peft does, the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = module.peft_config[_ADAPTER]  # type: ignore[index]
    fields = {**config.to_dict(), "inference_mode": True}
    plain = {key: sorted(one) if isinstance(one, set) else one for key, one in fields.items()}
    document = json.dumps(plain, indent=1, sort_keys=True)
    (folder / CONFIG).write_text(document, encoding="utf-8")
    state = _peft().get_peft_model_state_dict(module, adapter_name=_ADAPTER)
    tensors = {f"{_PREFIX}{name}": one.cpu().contiguous() for name, one in state.items()}
    save_file(tensors, folder / WEIGHTS)


def with_other_weights(module: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """A copy of a model whose adapter has the weights of a folder, of an earlier time.

    Raises:
        UserError: as ``with_adapter``.
    """
    check_adapter(folder)
    other = copy.deepcopy(module)
    tensors = load_file(folder / WEIGHTS)
    _fill(other, tensors, str(folder), module.dtype)
    check_weights(other, str(folder))
    return other


def _fill(
    module: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    where: str,
    dtype: torch.dtype,
) -> None:
    """Put an adapter's tensors in their places, and see that each has one and that none is left."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    own = own_names(parameters)
    places = {key: own.get(bare_name(key)) for key in tensors}
    strangers = sorted(key for key, name in places.items() if name is None)
    empty = sorted(
        {name for name, one in parameters.items() if one.is_meta and ".lora_" in name}
        - {*places.values()}
    )
    other = [
        f"{key} {list(tensors[key].shape)} instead of {list(parameters[name].shape)}"
        for key, name in places.items()
        if name is not None and tensors[key].shape != parameters[name].shape
    ]
    config: Any = module.peft_config[_ADAPTER]  # type: ignore[index]
    saved = config.modules_to_save
    absent = sorted({*(saved or ())} - {saved_module(bare_name(key), saved) for key in tensors})
    for what, names in {
        "tensors that have no place in the model": strangers,
        "tensors are missing": empty,
        "tensors of another shape": other,
        "modules_to_save names what is not in it": absent,
    }.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise UserError(
                f"{what}: {', '.join(names[:_SHOWN])}{more}",
                where=where,
                fix="model.adapter must be a LoRA that was trained on the model of model.path",
            )
    for key, name in places.items():
        value = tensors[key].to(device_around(module, str(name)), dtype)
        if parameters[str(name)].is_meta or saved_module(bare_name(key), saved):
            # A module that was saved is a copy of the base's, so that what was tied to it is not.
            path, _, last = str(name).rpartition(".")
            setattr(module.get_submodule(path), last, nn.Parameter(value, requires_grad=False))
        else:
            with torch.no_grad():
                parameters[str(name)].copy_(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _peft() -> Any:
    """The library peft, which is imported where an adapter is read and nowhere else."""
    try:
        import peft
    except ImportError as error:
        raise UserError(
            f"model.adapter needs the package peft ({first_line(error)})",
            where="model.adapter",
            fix="pip install 'tdabench[peft]'",
        ) from error
    return peft
