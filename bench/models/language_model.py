"""A causal language model with its tokenizer and second moments, as methods and metrics use it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bench.core.errors import UserError
from bench.models.devices import device_of
from bench.models.dtypes import accumulation_dtype
from bench.models.padding import most_tokens, parts_of
from bench.models.reading import TextReader
from bench.models.second_moments import ADAM_BETA2, ADAM_EPSILON, SecondMoments
from bench.tasks.base import Query

MOMENTS = "second_moments.safetensors"  # beside the weights, by parameter name
TRAINING = "training.json"  # the log of a training, beside the weights
LEARNING_RATE = "learning_rate.json"  # that of the last step, beside the weights
IGNORE = -100  # label of a token that carries no loss, as transformers has it


@dataclass(frozen=True)
class Tokens:
    """Token ids of one text, and from which token on the loss counts.

    Attributes:
        ids: the token ids.
        loss_from: index of the first token whose prediction counts (at least 1: the first token
            of a text is predicted from nothing).
        truncated: whether the text was cut at the context length.
    """

    ids: list[int]
    loss_from: int
    truncated: bool = False

    @property
    def n_loss(self) -> int:
        """The number of tokens that carry loss."""
        return max(0, len(self.ids) - self.loss_from)


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a model at an earlier time of its training.

    Attributes:
        folder: the folder, as ``save_pretrained`` writes it, with ``second_moments.safetensors`` if
            they are at hand.
        learning_rate: the learning rate at that time.
    """

    folder: Path
    learning_rate: float


@dataclass
class LanguageModel:
    """A model under study.

    Attributes:
        name: the model's name, for messages and results.
        module: the model of transformers, in eval mode, so that dropout never touches a gradient or
            a probability.
        tokenizer: the model's tokenizer.
        context_length: the most tokens that the model reads; longer passages are cut.
        sha256: the hash of weights, configuration and tokenizer.
        context_source: which file or setting names the context length.
        append_eos: whether the end-of-text token is put behind every passage.
        gradient_dtype: the dtype of attribution gradients (float64 makes rankings independent of
            batch size and thread count; see ``conf/model``).
        second_moments: the optimizer's second moments by parameter name; None if not at hand.
        adam_epsilon: the ε that Adam adds to their root, at this checkpoint and at earlier ones.
        adam_beta2: Adam's β2 at all of these, for states that do not say it.
        learning_rate: the last learning rate of the training; None if unknown.
        checkpoints: earlier checkpoints of the training, oldest first; empty if not at hand.
        estimate: gives another checkpoint estimated second moments, where the model's own are; None
            where they are not.
        training: facts about how the model was trained, for the result.
    """

    name: str
    module: nn.Module
    tokenizer: PreTrainedTokenizerBase
    context_length: int
    sha256: str
    context_source: str = ""
    append_eos: bool = False
    gradient_dtype: torch.dtype = torch.float32
    second_moments: SecondMoments | None = None
    adam_epsilon: float = ADAM_EPSILON
    adam_beta2: float = ADAM_BETA2
    learning_rate: float | None = None
    checkpoints: Sequence[Checkpoint] = ()
    estimate: Callable[[LanguageModel], LanguageModel] | None = None
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """The device that the model reads tokens on, and what is made of them is gathered on."""
        return device_of(self.module)

    @property
    def n_params(self) -> int:
        """The number of parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def vocab_size(self) -> int:
        """The number of tokens that the tokenizer knows, and about that of a token's logits."""
        return len(self.tokenizer)

    def required_moments(self) -> SecondMoments:
        """The second moments, for methods that need them; raises UserError if there are none."""
        if self.second_moments is None:
            raise UserError(
                "optimizer_correction=true needs the optimizer's second moments, and the model "
                "has none",
                where=f"model {self.name}",
                fix="set model.optimizer_state=FILE (optimizer.pt, or a name-keyed safetensors "
                "file) or =estimate (in Python, moments=…), or method.optimizer_correction=false",
            )
        return self.second_moments

    @cached_property
    def _reader(self) -> TextReader:
        return TextReader(self.tokenizer)

    @property
    def reading(self) -> dict[str, Any]:
        """The way in which this model reads texts, as JSON values for the result.

        ``begin_tokens`` stand before every text and ``end_tokens`` behind every passage;
        ``begin_token_not_added`` is one that the configuration names and the tokenizer does not
        put before a text, or None.
        """
        reader = self._reader
        return {
            "begin_tokens": reader.words(reader.before),
            "begin_token_not_added": self._begin_token_not_added(),
            "end_tokens": reader.words(reader.behind),
            "context_length": self.context_length,
            "context_length_from": self.context_source,
        }

    def _begin_token_not_added(self) -> str | None:
        named = getattr(getattr(self.module, "config", None), "bos_token_id", None)
        ids = [self.tokenizer.bos_token_id, named]
        absent = [one for one in ids if isinstance(one, int) and one not in self._reader.before]
        return self._reader.words(absent)[0] if absent else None

    def passage_tokens(self, text: str) -> Tokens:
        """A passage as the tokenizer reads it by default; tokens after the first carry loss."""
        ids = self._reader.passage(text)
        if self.append_eos and self.tokenizer.eos_token_id is not None:
            ids = [*ids, self.tokenizer.eos_token_id]
        cut = ids[: self.context_length]
        return Tokens(cut, loss_from=1, truncated=len(cut) < len(ids))

    def passage_places(self, text: str) -> list[tuple[int, int]]:
        """Where in a passage each of its tokens begins and ends, in characters.

        Returns:
            one place a token of ``passage_tokens``; empty ones for tokens that stand around a text.

        Raises:
            UserError: the tokenizer does not tell.
        """
        places = self._reader.places(text)
        if self.append_eos and self.tokenizer.eos_token_id is not None:
            places.append((len(text), len(text)))
        return places[: self.context_length]

    def prompt_ids(self, query: Query) -> list[int]:
        """The token ids of a query's prompt alone, for a model that is to go on with it."""
        return (self._reader.chat_prompt if query.chat else self._reader.prompt)(query.prompt)

    def query_tokens(self, query: Query) -> Tokens:
        """A query as one string: prompt, separator and target, with nothing behind the target.

        The loss covers the tokens from the first that holds a character behind the prompt; the
        separator counts as the target's. A query that is a chat is the tokenizer's template, and
        its loss covers the target alone. Where other answers are accepted, the target is the answer
        that the model, as it is now, finds most probable; of equal ones the first.

        Raises:
            UserError: an answer gives no token, no token comes before those that carry loss, the
                whole does not fit the context, or the tokenizer has no template for a chat.
        """
        answers = self._accepted_tokens(query)
        if len(answers) == 1:
            return answers[0]
        log_probs, _ = target_log_probs(self, answers, batch_size=len(answers))
        return answers[log_probs.index(max(log_probs))]

    def query_answers(self, query: Query) -> list[Tokens]:
        """The answers whose probabilities sum to the query's, each with the prompt before it.

        They are one, that of ``query_tokens``, unless the query's answers are summed. Then they are
        all that are accepted but those that begin with another one, or equal it, token for token:
        nothing is asked of what comes behind an answer, so the shorter one's probability has the
        longer one's in it. So the sum is the probability that the model goes on with any of them.

        Raises:
            UserError: as of ``query_tokens``.
        """
        if not query.summed:
            return [self.query_tokens(query)]
        kept: list[Tokens] = []
        for one in sorted(self._accepted_tokens(query), key=lambda answer: len(answer.ids)):
            if not any(one.ids[: len(shorter.ids)] == shorter.ids for shorter in kept):
                kept.append(one)
        return kept

    def _accepted_tokens(self, query: Query) -> list[Tokens]:
        """The query with each answer that it accepts, the target first."""
        return [self._answer_tokens(query, one) for one in (query.target, *query.accepted)]

    def _answer_tokens(self, query: Query, answer: str) -> Tokens:
        """The query with one of its answers as the target."""
        if query.chat:
            ids, loss_from = self._reader.chat(query.prompt, answer)
            asks = loss_from < len(ids)
        else:
            ids, loss_from, asks = self._reader.query(query.prompt, query.separator, answer)
        where = f"query {query.query_id}"
        if not asks:
            raise UserError(
                f"target {answer!r} tokenises to nothing",
                where=where,
                fix="drop this query, or use another tokenizer",
            )
        if loss_from == 0:
            raise UserError(
                "the prompt tokenises to nothing, or to a part of the target's first token",
                where=where,
                fix="give it a prompt whose end is the end of a token",
            )
        if len(ids) > self.context_length:
            raise UserError(
                f"{len(ids)} tokens exceed the model's context of {self.context_length}",
                where=where,
                fix="shorten the prompt or use a model with a longer context",
            )
        return Tokens(ids, loss_from)


def pad(batch: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-pad a batch to its longest text.

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
    """The log-probability of each label given the tokens before it, 0 where there is no label.

    The one place of the causal shift: the logits at position t predict token t + 1.

    Args:
        module: the model's module, or a function that calls it with other weights.
        ids: token ids, ``[batch, tokens]``.
        labels: token ids, ``IGNORE`` where there is no loss, ``[batch, tokens]``.

    Returns:
        ``[batch, tokens - 1]``, float32 or wider.
    """
    logits = module(input_ids=ids, use_cache=False).logits
    return _label_log_probs(_next_token_logits(logits), labels)


def _next_token_logits(logits: Tensor) -> Tensor:
    """The logits of each token after the first, float32 or wider, ``[batch, tokens - 1, ids]``."""
    return logits[:, :-1].to(accumulation_dtype(logits.dtype))


def _label_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """The log-probability of each label after the first, 0 where there is none."""
    targets = labels[:, 1:]
    picked = logits.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return torch.where(targets != IGNORE, picked - logits.logsumexp(-1), 0.0)


@torch.no_grad()
def target_log_probs(
    model: LanguageModel, queries: Sequence[Tokens], batch_size: int = 64
) -> tuple[list[float], list[bool]]:
    """The log-probability of each query's target, and whether greedy decoding would give it.

    A token's log-probability is taken in the dtype of the logits, in float32 where that is a half
    precision; those of a target are summed in float64, so that long targets do not underflow.

    Returns:
        two lists of length ``len(queries)``.
    """
    log_probs: list[float] = []
    recalled: list[bool] = []
    most = most_tokens(model.vocab_size)
    for part in parts_of((len(tokens.ids) for tokens in queries), most, batch_size):
        ids, labels = pad(queries[part], model.device)
        logits = _next_token_logits(model.module(input_ids=ids, use_cache=False).logits)
        log_probs += _label_log_probs(logits, labels).double().sum(-1).tolist()
        targets = labels[:, 1:]
        recalled += ((logits.argmax(-1) == targets) | (targets == IGNORE)).all(-1).tolist()
    return log_probs, recalled


def mean_probability(log_probs: Sequence[float]) -> float:
    """The mean of the probabilities whose logarithms are given (nats)."""
    return sum(map(math.exp, log_probs)) / len(log_probs)
