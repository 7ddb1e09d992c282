"""The sizes of a model without its weights, and how fast this machine computes such a model."""

from __future__ import annotations

import copy
import inspect
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from bench.core.errors import UserError, first_line
from bench.models.adapters import with_empty_adapter
from bench.models.context import declared_context
from bench.models.dtypes import in_dtype
from bench.models.sizes import laid_out, n_elements
from methods.gradient.cost import Architecture, backward_flops, forward_flops
from methods.gradient.parameters import Matrix, gradient_matrices
from methods.gradient.settings import (
    Adapters,
    EncodingSettings,
    FeatureSettings,
    Unsupported,
    exact_gradients,
)

# Parameters of the layer that is timed: so many that products are as fast as in the real model, and
# so few that it takes seconds. On an accelerator, small products would not show what it can do.
_LAYER_PARAMETERS = {"cpu": 2**25, "cuda": 2**28}
_MOST_TIMED = 2**29  # where a layer cannot be narrowed, or looks up a long table of positions
_RUN_FLOPS = {"cpu": 3e10, "cuda": 2e13}  # FLOPs of one timed run, about half a second
_SECONDS, _MOST_RUNS = 1.0, 20
# Names that configurations of transformers give to the number of experts a token is sent to.
_EXPERTS_A_TOKEN = ("num_experts_per_tok", "top_k_experts", "moe_topk")
_VOCABULARY = 512  # the head is a product like any other; a small one leaves room for the layer
EVERY_MATRIX = exact_gradients(
    EncodingSettings(
        layers=None,
        adapters=Adapters.base,
        unsupported=Unsupported.skip,
        batch_size=1,
        batch_tokens=None,
    )
)


@dataclass(frozen=True)
class Speed:
    """FLOP/s of a device, and how they are known, in words."""

    flops_per_second: float
    how: str


def architecture_of(
    config: PretrainedConfig,
    settings: FeatureSettings,
    context_length: int | None = None,
    adapter: Path | None = None,
) -> Architecture:
    """The sizes of a model, which is built without memory for its weights.

    Args:
        settings: which matrices carry the gradient, and in which blocks.
        context_length: number of tokens that are read at most; None for what ``config`` says.
        adapter: the folder of an adapter that the model has.

    Raises:
        UserError: the configuration is not of a causal language model whose gradients can be taken,
            or it does not say how many tokens are read, or how many experts a token is sent to.
    """
    module = laid_out(config)
    if adapter is not None:
        with_empty_adapter(module, adapter)
    matrices = gradient_matrices(module, settings)
    below = _below(module, [matrix.name for matrix in matrices])
    decoder: Any = config.get_text_config()
    heads = decoder.num_attention_heads
    head_dim = getattr(decoder, "head_dim", None) or decoder.hidden_size // heads
    return Architecture(
        parameters=n_elements(module),
        multiplied=_multiplied(module, decoder),
        matrices=tuple((*matrix.shape, matrix.block) for matrix in matrices),
        met=tuple(_met(matrix, decoder) for matrix in matrices),
        n_layers=decoder.num_hidden_layers,
        hidden_size=decoder.hidden_size,
        attention_width=heads * head_dim,
        vocab_size=decoder.vocab_size,
        context_length=context_length or _declared(config),
        unwatched_layers=len(below),
        unwatched=sum(_multiplied(layer, decoder) for layer in below),
    )


def _met(matrix: Matrix, decoder: Any) -> float:
    """The share of all tokens that is multiplied by a matrix."""
    if matrix.expert is None:
        return 1.0
    n_experts = len(matrix.module.get_parameter(matrix.attribute))
    return _experts_a_token(decoder) / n_experts


def _declared(config: PretrainedConfig) -> int:
    declared = declared_context(config)
    if declared is None:
        raise UserError(
            "its configuration does not say how many tokens it reads",
            where="model",
            fix="set model.context_length=N to what it was trained with",
        )
    return declared.tokens


def _below(module: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The decoder layers below the lowest of some parameters: ``PREFIX.NUMBER.…``."""
    matches = [re.match(r"(.*?)\.(\d+)\.", name) for name in names]
    numbers = [int(match[2]) for match in matches if match]
    prefix = next((match[1] for match in matches if match), "")
    layers: Any = module.get_submodule(prefix)
    return [layers[number] for number in range(min(numbers, default=0))]


def _multiplied(module: nn.Module, decoder: Any) -> int:
    """Number of parameters in matrices that a token is multiplied by, a tied head included.

    Embeddings are looked up. Of a layer's experts, a token meets as many as it is sent to.
    """
    mixtures = _mixtures(module)
    inside = {id(parameter) for mixture in mixtures for parameter in mixture.parameters()}
    total = sum(parameter.numel() for parameter in _matrices(module) if id(parameter) not in inside)
    for mixture, n_experts in mixtures.items():
        # All biases of such a layer are one parameter with two dimensions.
        named = mixture.named_parameters()
        stacked = sum(p.numel() for name, p in named if p.ndim > 1 and not name.endswith("bias"))
        total += stacked * _experts_a_token(decoder) // n_experts
    return total


def _matrices(module: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters that are multiplied by, not looked up, those of all experts included."""
    for part in module.modules():
        if not isinstance(part, nn.Embedding):
            yield from (p for p in part.parameters(recurse=False) if p.ndim > 1)


def _mixtures(module: nn.Module) -> dict[nn.Module, int]:
    """Modules that hold the experts of a layer and compute some for each token → their number.

    transformers stacks the weights of all experts of a layer. A module that is given nothing but
    the hidden states, as Llama 4's, computes every expert for every token, and is left out.
    """
    experts = {}
    for path, part in module.named_modules():
        stacks = [len(p) for p in part.parameters(recurse=False) if p.ndim == 3]
        n_experts = getattr(part, "num_experts", None)
        if not isinstance(n_experts, int) and type(part).__name__.endswith("Experts"):
            n_experts = max(stacks, default=None)  # some families name the number otherwise
        some = len(inspect.signature(part.forward).parameters) > 1
        if isinstance(n_experts, int) and (stacks or path.endswith("experts")) and some:
            experts[part] = n_experts
    return experts


def _experts_a_token(decoder: Any) -> int:
    number = next((n for name in _EXPERTS_A_TOKEN if (n := getattr(decoder, name, None))), None)
    if number is None:
        raise UserError(
            "its configuration does not say how many experts a token is sent to",
            where="model",
            fix=f"add {_EXPERTS_A_TOKEN[0]} to config.json",
        )
    return int(number)


def calibrate(
    config: PretrainedConfig,
    *,
    dtype: torch.dtype,
    device: str,
    tokens: float,
    batch_tokens: int,
) -> Speed:
    """Time forward and backward to the activations of one layer with random weights.

    The layer is the model's own, narrowed if it is too large for a few seconds.

    Raises:
        UserError: the layer does not run here, or not in this dtype.
    """
    kind = "cuda" if device.startswith("cuda") else "cpu"
    small = _reduced(config, _LAYER_PARAMETERS[kind])
    if (n_parameters := n_elements(laid_out(small))) > _MOST_TIMED:
        raise UserError(
            f"one layer of it has {n_parameters:,} parameters, too many to time",
            where="model",
            fix="set plan.device_tflops to what your device sustains",
        )
    limit = None if declared_context(small) else batch_tokens  # no table of positions ends
    measured = architecture_of(small, EVERY_MATRIX, limit)
    budget = int(_RUN_FLOPS[kind] / (4 * measured.multiplied))
    budget = max(1, min(budget, batch_tokens, measured.context_length * 64))
    width = max(1, min(round(tokens), budget, measured.context_length))
    rows = max(1, budget // width)
    flops = rows * (forward_flops(measured, width) + backward_flops(measured, width))
    try:
        seconds = _seconds_a_run(small, rows, width, dtype, device)
    except (RuntimeError, MemoryError, ValueError, TypeError) as error:
        reason = first_line(error)
        raise UserError(
            f"the calibration does not run on {device} ({reason})",
            where="model",
            fix="set plan.device_tflops to what your device sustains",
        ) from error
    decoder: Any = small.get_text_config()
    name = str(dtype).removeprefix("torch.")
    how = f"one layer {decoder.hidden_size:,} wide, {rows * width:,} tokens, {name} on {device}"
    return Speed(flops / seconds, how)


def _reduced(config: PretrainedConfig, most_parameters: int) -> PretrainedConfig:
    """A model of one layer and a small vocabulary, its width halved until it is small enough."""
    reduced = copy.deepcopy(config)
    decoder: Any = reduced.get_text_config()
    decoder.num_hidden_layers = 1
    decoder.vocab_size = min(decoder.vocab_size, _VOCABULARY)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(decoder, name, None)
    if getattr(decoder, "layer_types", None):
        decoder.layer_types = decoder.layer_types[:1]
    # Experts are held in memory, whether a token is sent to them or not.
    while sum(p.numel() for p in _matrices(laid_out(reduced))) > most_parameters:
        narrow = copy.deepcopy(reduced)
        if not _halve(narrow.get_text_config()):
            break
        try:
            laid_out(narrow)
        except UserError:  # this family's widths depend on each other in another way
            break
        reduced = narrow
    return reduced


def _halve(decoder: Any) -> bool:
    """Halve the heads, and the widths with them; False if their number is odd."""
    if decoder.num_attention_heads % 2:
        return False
    for name in (
        "hidden_size", "intermediate_size", "n_inner", "num_attention_heads", "num_key_value_heads"
    ):  # fmt: skip
        value = getattr(decoder, name, None)
        if value is not None:
            setattr(decoder, name, max(1, value // 2))
    return True


@torch.random.fork_rng()
def _seconds_a_run(
    config: PretrainedConfig, rows: int, width: int, dtype: torch.dtype, device: str
) -> float:
    """Median time of a run over about a second, after a first run that does not count."""
    made = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    module = in_dtype(made.to(device), dtype)
    size = config.get_text_config().hidden_size
    inputs = torch.randn(rows, width, size, dtype=dtype, device=device, requires_grad=True)
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds[1:]) < _SECONDS and len(seconds) <= _MOST_RUNS):
        inputs.grad = None
        start = time.perf_counter()
        run_once(module, inputs)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    timed = sorted(seconds[1:])
    return timed[len(timed) // 2]


def run_once(module: nn.Module, inputs: torch.Tensor) -> None:
    """Run forward from embeddings ``[rows, tokens, hidden]`` and backward to them."""
    logits = module(inputs_embeds=inputs, use_cache=False).logits
    logits.backward(torch.ones_like(logits))
