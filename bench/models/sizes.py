"""The sizes that a model's files give, refused from the numbers where they are absurd.

A ``config.json`` of a kilobyte can ask for a model that no memory holds, and transformers builds
what it asks for. So its numbers are looked at before transformers reads them; then the model is
laid out without memory for its weights, and compared with what the files hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from bench.core.errors import UserError, first_line
from bench.models.kernels import refuse_kernels
from bench.models.language_model import MOMENTS
from bench.storage.documents import read_json

# What the name of a number says it is, the first that fits, and the most that it may be. The
# largest models of today are 126 layers of 16,384 (or 61 with 384 experts each), with vocabularies
# of 262,144 tokens and contexts of ten million.
_MOST = (
    (re.compile(r"(layers?|blocks|stages|depths?)$|^n_layers?$"), 1_000),
    (re.compile(r"experts?($|_)"), 4_096),
    (re.compile("vocab"), 1 << 24),
    (re.compile(r"position|length|ctx|seq|window|context"), 10**9),
    (
        re.compile(
            r"size|dim|hidden|inner|embd|heads?($|_)|width|ffn|rank|labels|channels|kernel"
            r"|groups|state|^d_|^r$"
        ),
        1 << 20,
    ),
)
MOST_PARAMETERS = 10**13  # some times the largest model that was ever published
_FILES = ("config.json", "adapter_config.json")
# Elements that a model may have beyond twice the stored ones: what is left out of a small model is
# better told by the names of its tensors.
_SPARE = 1 << 26
_MOST_BUFFER_BYTES = 1 << 32  # masks and tables of positions, which are in no file


def check_files(folder: Path) -> None:
    """Refuse a folder whose configuration, if it has one, gives absurd sizes or names a kernel.

    Nothing is built.

    Raises:
        UserError: it does, or it is no JSON object.
    """
    for name in _FILES:
        path = folder / name
        if path.exists():
            document = read_json(path)
            if not isinstance(document, dict):
                raise UserError("is no JSON object", where=str(path))
            check_numbers(document, str(path))
            refuse_kernels(document, str(path))


def check_numbers(config: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration with a number that is too large for what its name says it is.

    Args:
        where: the file, or the group of settings, that it is from.

    Raises:
        UserError: names the number and the most that it may be.
    """
    for name, value in _numbers(config):
        most = next((most for pattern, most in _MOST if pattern.search(name)), None)
        if most is not None and not -most <= value <= most:
            raise UserError(
                f"{name} is {value:,}, and {most:,} is the most that is built",
                where=where,
                fix="is it the configuration of this model?",
            )


def _numbers(config: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number with the name that it has, or that the list has which it is in."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _numbers(value, str(key))
    elif isinstance(config, list):
        for value in config:
            yield from _numbers(value, name)
    elif isinstance(config, int | float) and not isinstance(config, bool):
        yield name, config


def laid_out(config: PretrainedConfig) -> nn.Module:
    """The model of a configuration without memory for its weights.

    Raises:
        UserError: it is no causal language model, or one of absurd size.
    """
    try:
        with torch.device("meta"):
            module: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        reason = first_line(error)
        raise UserError(
            f"no causal language model can be built from its configuration ({reason})",
            where="model",
        ) from error
    n_parameters, buffers = n_elements(module), _buffer_bytes(module)
    if n_parameters > MOST_PARAMETERS or buffers > _MOST_BUFFER_BYTES:
        raise UserError(
            f"its configuration is of a model of {n_parameters:,} parameters and {buffers:,} bytes "
            f"of tables, and {MOST_PARAMETERS:,} and {_MOST_BUFFER_BYTES:,} are the most",
            where="model",
            fix="is it the configuration of this model?",
        )
    return module


def n_elements(module: nn.Module) -> int:
    """The number of a module's parameters, those that are shared counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _buffer_bytes(module: nn.Module) -> int:
    return sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())


def check_stored(folder: Path) -> None:
    """Refuse a folder whose configuration is of a model far larger than the weights beside it.

    transformers would make the rest of it at random, in memory. A model that is quantized is stored
    in fewer numbers than it has, and is not compared.

    Raises:
        UserError: it is; or the configuration cannot be read.
    """
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if getattr(config, "quantization_config", None):
        return
    described, stored = n_elements(laid_out(config)), sum(map(_stored, _weights(folder)))
    if described > 2 * stored + _SPARE:
        raise UserError(
            f"its config.json is of a model of {described:,} parameters, and its weights are "
            f"{stored:,} numbers",
            where=str(folder),
            fix="config.json and *.safetensors must be of one model",
        )


def _weights(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*.safetensors") if path.name != MOMENTS)


def _stored(path: Path) -> int:
    """The number of elements of all tensors of a file; only its header is read."""
    total = 0
    with safe_open(path, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
            size = 1
            for length in tensors.get_slice(name).get_shape():
                size *= length
            total += size
    return total
