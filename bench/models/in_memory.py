"""A model that the caller of a function holds: lent for a while, and given back as it was."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench.core.errors import UserError
from bench.models.context import context_of
from bench.models.devices import device_of
from bench.models.dtypes import experts_for
from bench.models.language_model import LanguageModel
from bench.models.loading import check_vocabulary, check_weights, directory_sha256
from bench.models.moment_files import FULL, Fields, keyed_fields
from bench.models.placing import kernels_as_they_were, place
from bench.models.second_moments import SecondMoments, moments_of
from bench.models.settings import DirectoryConfig
from bench.models.states.entries import state_of
from bench.storage.keys import content_key

_MOMENTS = "moments"  # the argument, for messages
_KINDS = (
    "give the optimizer, its state_dict(), a mapping of parameter names to V, "
    "'estimate', or None for methods that need none"
)


@contextmanager
def lent(
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: DirectoryConfig,
    moments: object = None,
) -> Iterator[LanguageModel]:
    """A context with a model as methods use it: frozen, in eval mode, on the device where it is.

    After it, the model trains what it trained before, with the gradients that it had; the tokenizer
    is copied, for reading a text with its offsets changes one.

    Args:
        module: a causal language model of transformers, perhaps with peft's LoRA layers.
        tokenizer: the tokenizer that it was trained with.
        config: settings of ``conf/model/hf.yaml``; those that name the files of a folder and the
            dtype of its weights have no say.
        moments: see ``given_moments``; None for a model without second moments.

    Raises:
        UserError: no such model or tokenizer, weights that are not finite, a model that sees the
            answer, a tokenizer that does not fit, an unknown context length, or moments that are
            none of the model's.
    """
    _check_kinds(module, tokenizer)
    config.check()
    gradient_dtype: torch.dtype = getattr(torch, config.gradient_dtype)
    with _as_it_was(module):
        weights = next(module.parameters())
        with experts_for(module, weights.dtype):
            place(module.eval().requires_grad_(False), device_of(module))
            check_weights(module, "model")
            check_vocabulary(tokenizer, module, "model")
            copied = copy.deepcopy(tokenizer)
            context = context_of(module.config, copied, config.context_length, "model")
            model = LanguageModel(
                name="in memory",
                module=module,
                tokenizer=copied,
                context_length=context.tokens,
                context_source=context.source,
                sha256=contents_sha256(module, tokenizer),
                append_eos=config.append_eos,
                gradient_dtype=gradient_dtype,
            )
            if moments is not None:
                model.second_moments = given_moments(moments, module, config)
            yield model


def _check_kinds(module: object, tokenizer: object) -> None:
    if not isinstance(module, nn.Module) or not hasattr(module, "config"):
        raise UserError(
            f"expected a causal language model of transformers, found {type(module).__name__}",
            where="model",
            fix="load one with AutoModelForCausalLM.from_pretrained",
        )
    if any(parameter.is_meta for parameter in module.parameters()):
        raise UserError(
            "weights of it are on the meta device, as those are that accelerate has offloaded",
            where="model",
            fix="load it onto devices that hold it, or run model=hf with model.device_map=auto",
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(
            f"expected a tokenizer of transformers, found {type(tokenizer).__name__}",
            where="tokenizer",
            fix="load the model's with AutoTokenizer.from_pretrained",
        )


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """A context after which modes, gradients and torch's choice of kernels are what they were."""
    training = [(part, part.training) for part in module.modules()]
    own = [(one, one.requires_grad, one.grad) for one in module.parameters()]
    with kernels_as_they_were():
        try:
            for parameter, _, _ in own:
                parameter.grad = None
            yield
        finally:
            for part, mode in training:
                part.training = mode
            for parameter, requires, gradient in own:
                parameter.requires_grad_(requires)
                parameter.grad = gradient


def contents_sha256(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of weights, configuration and tokenizer; of other words than that of a folder."""
    with tempfile.TemporaryDirectory(prefix="tdabench-") as folder:
        tokenizer.save_pretrained(folder)
        module.config.save_pretrained(folder)
        files = directory_sha256(Path(folder))
    return content_key([files, _tensors_sha256(module.state_dict().items())], length=64)


def _tensors_sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ------------------------------------------------------------------ second moments


def given_moments(moments: object, module: nn.Module, config: DirectoryConfig) -> SecondMoments:
    """Second moments as a caller has them.

    Args:
        moments: a torch optimizer, whose parameters are told by what they are; its ``state_dict``,
            whose parameters are told as in a file of it; or a mapping of parameter names to V, or
            of ``PARAMETER.FIELD`` to tensors as ``bench.models.moment_files`` has them.
        module: the model.
        config: the settings that have Adam's ε and β2.

    Raises:
        UserError: something else, or moments that are none of the model's.
    """
    try:
        fields = {
            name: {
                field: value.detach().cpu() if isinstance(value, Tensor) else value
                for field, value in own.items()
            }
            for name, own in _fields(moments, module).items()
        }
        tensors = (
            (f"{name}.{field}", torch.as_tensor(value))
            for name, own in fields.items()
            for field, value in own.items()
        )
        return moments_of(
            fields, module, _MOMENTS, _tensors_sha256(tensors), config.adam_epsilon,
            config.adam_beta2,
        )  # fmt: skip
    except UserError as error:  # what helps is said of arguments, not of files
        raise UserError(error.what, where=_MOMENTS, fix=_KINDS) from error


def _fields(moments: object, module: nn.Module) -> dict[str, Fields]:
    if isinstance(moments, torch.optim.Optimizer):
        return state_of(_named_state(moments, module), module, _MOMENTS).moments
    if not isinstance(moments, Mapping) or not moments:
        raise UserError(f"expected second moments, found {moments!r:.60}")
    if {"state", "param_groups"} <= set(moments):
        return state_of(dict(moments), module, _MOMENTS).moments
    for name, tensor in moments.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"expected names and tensors, found {name!r:.60}: {tensor!r:.60}")
    own = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    named = {f"{name}.{FULL}" if name in own else name: moments[name] for name in moments}
    return keyed_fields(named, _MOMENTS)


def _named_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Any]:
    """The optimizer's state, each of its parameters under the model's name."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    state = optimizer.state_dict()
    groups = []
    for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        known = [names.get(id(parameter)) for parameter in own["params"]]
        if None in known:
            raise UserError("the optimizer has a parameter that is not the model's")
        groups.append({**group, "param_names": known})
    return {"state": state["state"], "param_groups": groups}
