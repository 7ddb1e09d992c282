"""Loading a model's folder: it is what its files say, and nothing in them is run.

What transformers would mend in silence is refused: tensors that it would draw at random, leave out
or replace, a tokenizer with more ids than there are embeddings, and a model that sees the answer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from bench.core import memory, progress
from bench.core.errors import UserError, first_line
from bench.models.context import context_of, declared_context
from bench.models.devices import (
    bytes_by_place,
    device_of,
    let_rest,
    resting_on_disk,
    weight_values,
)
from bench.models.dtypes import choose_experts, in_dtype
from bench.models.language_model import MOMENTS, LanguageModel
from bench.models.placing import place
from bench.models.sizes import check_files, check_stored, laid_out
from bench.storage.hashes import file_sha256
from bench.storage.keys import content_key

transformers_logging.disable_progress_bar()  # ours say what is loaded; theirs flood a log

_SHOWN = 3  # tensors of one kind that a message names
_PROBED = 8  # tokens of the text that tells whether a model is causal


def load_directory(
    name: str,
    path: Path,
    *,
    device: str,
    dtype: torch.dtype = torch.float32,
    gradient_dtype: torch.dtype = torch.float32,
    append_eos: bool = False,
    context_length: int | None = None,
    spread: Mapping[str, Any] | None = None,
) -> LanguageModel:
    """Load a folder that ``save_pretrained`` wrote: safetensors only, no remote code.

    Args:
        name: the model's, for messages and results.
        path: the folder, with config.json, a tokenizer and ``*.safetensors``.
        device: torch device name.
        dtype: of the weights.
        gradient_dtype: of attribution gradients.
        append_eos: end every passage with the tokenizer's end-of-text token.
        context_length: tokens that are read at most; None for what the files say.
        spread: what ``devices.spreading`` gives, for a model on several devices.

    Raises:
        UserError: no such folder, no causal language model, no safetensors, tensors that are
            missing, unexpected, of another shape or not finite, a tokenizer that does not fit, or
            an unknown context length.
    """
    _check_folder(path)
    tokenizer = load_tokenizer(path)
    module = load_module(path, dtype, torch.device(device), spread)
    check_vocabulary(tokenizer, module, str(path))
    context = context_of(module.config, tokenizer, context_length, str(path))
    return LanguageModel(
        name=name,
        module=module,
        tokenizer=tokenizer,
        context_length=context.tokens,
        context_source=context.source,
        sha256=directory_sha256(path),
        append_eos=append_eos,
        gradient_dtype=gradient_dtype,
    )


def _check_folder(path: Path) -> None:
    """Refuse a folder without a configuration, and one of an adapter, whatever else is in it.

    transformers would put the adapter onto a base that it chooses itself.
    """
    if (path / "adapter_config.json").exists():
        raise UserError(
            "holds an adapter of peft (adapter_config.json)",
            where=str(path),
            fix="set model.adapter to it, and model.path to the folder of its base alone",
        )
    if not (path / "config.json").is_file():
        raise UserError(
            "is not a model directory (no config.json)",
            where=str(path),
            fix="set model.path to a folder written by save_pretrained",
        )


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder.

    Raises:
        UserError: there is none, or one without a vocabulary.
    """
    check_files(path)
    with loading_from(str(path)):
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    if not tokenizer("any text", add_special_tokens=False)["input_ids"]:
        # transformers makes an empty tokenizer of some families where the files are missing.
        raise UserError(
            "has no tokenizer, or one without a vocabulary",
            where=str(path),
            fix="save the tokenizer of its training into it with save_pretrained",
        )
    return tokenizer


def load_module(
    path: Path, dtype: torch.dtype, device: torch.device, spread: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """The weights of a folder, frozen and in eval mode; raises as ``load_directory`` does."""
    _check_folder(path)
    check_files(path)
    with loading_from(str(path)), resting_on_disk(str(path)):
        check_stored(path)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that all of them are known, and refused below
            **(spread or {}),
        )
    module, report = loaded
    check_tensors(report, path)
    choose_experts(module, dtype)
    if spread is not None:
        let_rest(module)
        device = device_of(module)
        for one, size in bytes_by_place(module).items():
            progress.say(f"model: {size / 2**30:.3g} GiB of weights on {one}")
    place(module.eval().requires_grad_(False), device)
    check_weights(module, str(path))
    return module


def lay_out(path: Path) -> nn.Module:
    """The model of a folder without memory for its weights, which may be elsewhere.

    Raises:
        UserError: no such folder, or no configuration of a causal language model in it.
    """
    _check_folder(path)
    check_files(path)
    with loading_from(str(path)):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    return laid_out(config)


@contextmanager
def loading_from(where: str) -> Iterator[None]:
    """The context in which transformers reads files; what it raises becomes a ``UserError``."""
    try:
        yield
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError,
        IndexError, SafetensorError, struct.error,
    ) as error:  # fmt: skip
        if memory.ran_out(error) or "CUDA error" in str(error):
            raise
        raise UserError(
            f"cannot be loaded as a causal language model ({first_line(error)})",
            where=where,
            fix="it needs config.json, a tokenizer and *.safetensors; remote code is never run",
        ) from error


def check_tensors(report: dict, path: Path) -> None:
    """Refuse a folder whose tensors are not those of the model that its config.json describes.

    A head that is tied to the embeddings is not missing: transformers knows it is the same tensor.

    Args:
        report: transformers' own, of loading.
        path: the folder.

    Raises:
        UserError: names the tensors.
    """
    other = [
        f"{name} {list(stored)} instead of {list(wanted)}"
        for name, stored, wanted in sorted(report["mismatched_keys"])
    ]
    kinds = {
        "tensors are missing": sorted(report["missing_keys"]),
        "tensors of another shape": other,
        "tensors that the model does not have": sorted(report["unexpected_keys"]),
    }
    for what, names in kinds.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise UserError(
                f"{what}: {', '.join(names[:_SHOWN])}{more}",
                where=str(path),
                fix="is a file missing? config.json and *.safetensors must be of one model",
            )


def check_weights(module: PreTrainedModel, where: str) -> None:
    """Refuse weights that are not finite, and a model that sees the answer.

    Args:
        module: the model, in eval mode.
        where: its place, for messages.

    Raises:
        UserError: names the parameter, or says that the model is not causal.
    """
    _check_finite(module, where)
    _check_causal(module, where)


def _check_finite(module: PreTrainedModel, where: str) -> None:
    for name, values in weight_values(module):
        if not torch.isfinite(values).all():
            raise UserError(
                f"parameter {name} holds NaN or infinite values",
                where=where,
                fix="use another checkpoint",
            )


def _check_causal(module: PreTrainedModel, where: str) -> None:
    """Refuse a model whose logits at a token depend on a later one: it would see the answer."""
    with loading_from(where):
        try:
            sees = _sees_later_tokens(module)
        except RuntimeError as error:
            # Some families do not run in every dtype; all run in float32.
            if memory.ran_out(error) or module.dtype == torch.float32:
                raise
            sees = _sees_later_tokens(in_dtype(module, torch.float32))
    if sees:
        raise UserError(
            f"{type(module).__name__} is not causal: what it says of a token depends on later "
            "ones, so it sees the answer",
            where=where,
            fix="use a decoder-only model, which predicts each token from those before it",
        )


@torch.no_grad()
def _sees_later_tokens(module: nn.Module) -> bool:
    """Whether another last token of a short text moves the logits of the tokens before it.

    A causal model gives these the same logits bit by bit, but for the rounding of experts, which
    get other tokens beside theirs.
    """
    vocabulary = _n_embeddings(module)
    weights = next(module.parameters())
    declared = declared_context(module.config)  # type: ignore[arg-type]
    length = min(_PROBED, declared.tokens if declared is not None else _PROBED)
    if length == 1:
        return False
    ids = (torch.arange(length, device=device_of(module)) * 7919 + 11)[None] % vocabulary
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % vocabulary
    before, after = (
        module(input_ids=one, use_cache=False).logits[0, :-1].double() for one in (ids, changed)
    )
    rounding = torch.finfo(weights.dtype).eps ** 0.5 * before.abs().max()
    return bool(((after - before).abs() > rounding).any())


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, module: PreTrainedModel, where: str
) -> None:
    """Refuse, with a UserError, a tokenizer that gives ids for which there is no embedding."""
    n_ids = max(tokenizer.get_vocab().values(), default=-1) + 1
    n_rows = _n_embeddings(module)
    if n_ids > n_rows:
        raise UserError(
            f"its tokenizer has {n_ids:,} ids and its embedding {n_rows:,} rows",
            where=where,
            fix="save the tokenizer that the model was trained with into the folder",
        )


def _n_embeddings(module: nn.Module) -> int:
    """The number of token ids that a model has embeddings for."""
    embeddings = module.get_input_embeddings()  # type: ignore[operator]
    return int(embeddings.weight.shape[0])


# What transformers' tokenizers are read from, the slow ones of sentencepiece included.
_TOKENIZER_FILES = (
    "tokenizer*", "vocab.*", "merges.txt", "added_tokens.json", "special_tokens_map.json",
    "chat_template*", "spiece.model", "sentencepiece*.model",
)  # fmt: skip
_WEIGHT_FILES = ("*.safetensors", "config.json", "adapter_config.json")


def directory_sha256(path: Path) -> str:
    """Hash of weights, configuration and tokenizer, wherever the folder is."""
    return _files_sha256(path, (*_WEIGHT_FILES, *_TOKENIZER_FILES))


def tokenizer_sha256(path: Path) -> str:
    """Hash of a folder's tokenizer alone."""
    return _files_sha256(path, _TOKENIZER_FILES)


def weights_sha256(path: Path) -> str:
    """Hash of weights and configuration alone, for a checkpoint without a tokenizer of its own."""
    return _files_sha256(path, _WEIGHT_FILES)


def _files_sha256(path: Path, patterns: Sequence[str]) -> str:
    files = sorted(
        file for pattern in patterns for file in path.glob(pattern) if file.name != MOMENTS
    )
    return content_key([[file.name, file_sha256(file)] for file in files], length=64)
