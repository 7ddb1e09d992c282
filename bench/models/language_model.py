"""A causal language model with its tokenizer and second moments, as methods and metrics use it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from bench.core.errors import UserError
from bench.models.dtypes import accumulation_dtype, choose_experts
from bench.models.placing import place
from bench.models.second_moments import ADAM_EPSILON, SecondMoments
from bench.storage.hashes import file_sha256
from bench.storage.keys import content_key

transformers_logging.disable_progress_bar()  # ours say what is loaded; theirs flood a log

DTYPES = ("float32", "float64", "bfloat16", "float16")  # of weights and of gradients
MOMENTS = "second_moments.safetensors"  # beside the weights, by parameter name
IGNORE = -100  # label of a token that carries no loss, as transformers has it


@dataclass(frozen=True)
class Tokens:
    """Token ids of one text, and from which token on the loss counts.

    Attributes:
        ids: token ids.
        loss_from: index of the first token whose prediction counts (at least 1: the first token
            of a text is predicted from nothing).
        truncated: whether the text was cut at the context length.
    """

    ids: list[int]
    loss_from: int
    truncated: bool = False

    @property
    def n_loss(self) -> int:
        """How many tokens carry loss."""
        return max(0, len(self.ids) - self.loss_from)


@dataclass(frozen=True)
class Checkpoint:
    """Weights on the way to a model.

    Attributes:
        folder: as ``save_pretrained`` writes it, with ``second_moments.safetensors`` if at hand.
        learning_rate: when it was saved.
    """

    folder: Path
    learning_rate: float


@dataclass
class LanguageModel:
    """A model under study.

    Attributes:
        module: in eval mode, so that dropout never touches a gradient or a probability.
        gradient_dtype: dtype for attribution gradients (float64 makes rankings independent of
            batch size and thread count; see ``conf/model``).
        second_moments: the optimizer's, by parameter name; None if not at hand.
        adam_epsilon: added to their root by Adam, at this checkpoint and at earlier ones.
        learning_rate: the last learning rate of its training; None if unknown.
        checkpoints: earlier moments of its training, oldest first; empty if not at hand.
        sha256: hash of weights, configuration and tokenizer.
        training: facts about how it came to be, for the result.
    """

    name: str
    module: nn.Module
    tokenizer: PreTrainedTokenizerBase
    context_length: int
    sha256: str
    append_eos: bool = False
    gradient_dtype: torch.dtype = torch.float32
    second_moments: SecondMoments | None = None
    adam_epsilon: float = ADAM_EPSILON
    learning_rate: float | None = None
    checkpoints: Sequence[Checkpoint] = ()
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def n_params(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def required_moments(self) -> SecondMoments:
        """The second moments, for who cannot do without. Raises UserError if there are none."""
        if self.second_moments is None:
            raise UserError(
                "optimizer_correction=true needs the optimizer's second moments, and the model "
                "has none",
                where=f"model {self.name}",
                fix="set model.optimizer_state=FILE (optimizer.pt, or a name-keyed safetensors "
                "file) or =estimate, or method.optimizer_correction=false",
            )
        return self.second_moments

    def passage_tokens(self, text: str) -> Tokens:
        """A passage as the tokenizer does it by default; loss on every token after the first."""
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        if self.append_eos and self.tokenizer.eos_token_id is not None:
            ids = [*ids, self.tokenizer.eos_token_id]
        cut = ids[: self.context_length]
        return Tokens(cut, loss_from=1, truncated=len(cut) < len(ids))

    def query_tokens(self, query_id: str, prompt: str, target: str) -> Tokens:
        """The prompt's tokens, then those of a space and the target; loss on the target only.

        Raises:
            UserError: the target gives no token, or the whole does not fit the context.
        """
        prompt_ids = self.tokenizer(prompt)["input_ids"]
        target_ids = self.tokenizer(f" {target}", add_special_tokens=False)["input_ids"]
        eos = self.tokenizer.eos_token_id
        if prompt_ids and prompt_ids[-1] == eos and eos != self.tokenizer.bos_token_id:
            prompt_ids = prompt_ids[:-1]  # T5-style tokenizers end every text: the prompt goes on
        if not target_ids:
            raise UserError(
                f"target {target!r} tokenises to nothing",
                where=f"query {query_id}",
                fix="drop this query, or use another tokenizer",
            )
        if not prompt_ids:
            raise UserError(
                "the prompt tokenises to nothing", where=f"query {query_id}", fix="give it a prompt"
            )
        if len(prompt_ids) + len(target_ids) > self.context_length:
            raise UserError(
                f"{len(prompt_ids) + len(target_ids)} tokens exceed the model's context "
                f"of {self.context_length}",
                where=f"query {query_id}",
                fix="shorten the prompt or use a model with a longer context",
            )
        return Tokens([*prompt_ids, *target_ids], loss_from=len(prompt_ids))


def pad(batch: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-pad to the longest.

    Right padding needs no attention mask in a causal model: no real token sees a later one, and
    pad positions carry no loss, so they send back no gradient.

    Returns:
        input ids and labels, both int64 ``[batch, tokens]``; labels are ``IGNORE`` where no loss.
    """
    width = max(len(tokens.ids) for tokens in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.int64)
    labels = torch.full((len(batch), width), IGNORE, dtype=torch.int64)
    for row, tokens in enumerate(batch):
        length = len(tokens.ids)
        ids[row, :length] = torch.tensor(tokens.ids)
        labels[row, tokens.loss_from : length] = ids[row, tokens.loss_from : length]
    return ids.to(device), labels.to(device)


def token_log_probs(module: Callable[..., Any], ids: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each label given the tokens before it, 0 where there is none.

    The one place of the causal shift: the logits at position t predict token t + 1.

    Args:
        module: the model's module, or a function that calls it with other weights.
        ids: ``[batch, tokens]``.
        labels: ``[batch, tokens]``, ``IGNORE`` where no loss.

    Returns:
        ``[batch, tokens - 1]``, float32 or wider.
    """
    logits = module(input_ids=ids, use_cache=False).logits[:, :-1]
    logits = logits.to(accumulation_dtype(logits.dtype))
    targets = labels[:, 1:]
    counted = targets != IGNORE
    picked = logits.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return torch.where(counted, picked - logits.logsumexp(-1), 0.0)


def load_directory(
    name: str,
    path: Path,
    *,
    device: str,
    dtype: torch.dtype = torch.float32,
    gradient_dtype: torch.dtype = torch.float32,
    append_eos: bool = False,
) -> LanguageModel:
    """Load a directory that ``save_pretrained`` wrote: safetensors only, no remote code.

    Raises:
        UserError: no such directory, not a causal model, no safetensors, weights that are not
            finite.
    """
    if not (path / "config.json").is_file():
        raise UserError(
            "is not a model directory (no config.json)",
            where=str(path),
            fix="set model.path to a folder written by save_pretrained",
        )
    with _loading(path):
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    if not tokenizer("any text", add_special_tokens=False)["input_ids"]:
        # transformers makes an empty tokenizer of some families where the files are missing.
        raise UserError(
            "has no tokenizer, or one without a vocabulary",
            where=str(path),
            fix="save the tokenizer of its training into it with save_pretrained",
        )
    module = load_module(path, dtype, torch.device(device))
    return LanguageModel(
        name=name,
        module=module,
        tokenizer=tokenizer,
        context_length=_context_length(module, tokenizer),
        sha256=directory_sha256(path),
        append_eos=append_eos,
        gradient_dtype=gradient_dtype,
    )


def load_module(path: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The weights of a directory, frozen and in eval mode; raises as ``load_directory`` does."""
    with _loading(path):
        module = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    choose_experts(module, dtype)
    place(module.eval().requires_grad_(False), device)
    _check_finite(module, path)
    return module


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"cannot be loaded as a causal language model ({reason[0][:200] if reason else error})",
            where=str(path),
            fix="it needs config.json, a tokenizer and *.safetensors; remote code is never run",
        ) from error


def _check_finite(module: nn.Module, path: Path) -> None:
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UserError(
                f"parameter {name} holds NaN or infinite values",
                where=str(path),
                fix="use another checkpoint",
            )


def _context_length(module: nn.Module, tokenizer: PreTrainedTokenizerBase) -> int:
    declared = getattr(module.config, "max_position_embeddings", None)
    limits = [int(n) for n in (declared, tokenizer.model_max_length) if n and n < 1e9]
    return min(limits) if limits else 2048  # neither says: a length every current family has


# What transformers' tokenizers are read from, the slow ones of sentencepiece included.
_TOKENIZER_FILES = (
    "tokenizer*", "vocab.*", "merges.txt", "added_tokens.json", "special_tokens_map.json",
    "spiece.model", "sentencepiece*.model",
)  # fmt: skip


_WEIGHT_FILES = ("*.safetensors", "config.json", "adapter_config.json")


def directory_sha256(path: Path) -> str:
    """Hash of weights, configuration and tokenizer, wherever the directory is."""
    return _files_sha256(path, (*_WEIGHT_FILES, *_TOKENIZER_FILES))


def weights_sha256(path: Path) -> str:
    """Hash of weights and configuration alone: of a checkpoint, read with another's tokenizer."""
    return _files_sha256(path, _WEIGHT_FILES)


def _files_sha256(path: Path, patterns: Sequence[str]) -> str:
    files = sorted(
        file for pattern in patterns for file in path.glob(pattern) if file.name != MOMENTS
    )
    return content_key([[file.name, file_sha256(file)] for file in files], length=64)


@torch.no_grad()
def target_log_probs(
    model: LanguageModel, queries: Sequence[Tokens], batch_size: int = 64
) -> tuple[list[float], list[bool]]:
    """Log-probability of each query's target, and whether greedy decoding would give it.

    Log-probabilities are summed over the target's tokens in float64, so long targets do not
    underflow.

    Returns:
        two lists of length ``len(queries)``.
    """
    log_probs: list[float] = []
    recalled: list[bool] = []
    for start in range(0, len(queries), batch_size):
        ids, labels = pad(queries[start : start + batch_size], model.device)
        logits = model.module(input_ids=ids, use_cache=False).logits[:, :-1].float()
        targets = labels[:, 1:]
        counted = targets != IGNORE
        picked = logits.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        token_scores = torch.where(counted, picked - logits.logsumexp(-1), 0.0)
        log_probs += token_scores.double().sum(-1).tolist()
        recalled += ((logits.argmax(-1) == targets) | ~counted).all(-1).tolist()
    return log_probs, recalled


def mean_probability(log_probs: Sequence[float]) -> float:
    """Mean over queries of exp(log-probability)."""
    return sum(map(math.exp, log_probs)) / len(log_probs)
