"""One training run: the order of its texts, its steps, and how they are computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerFast

from bench.core import progress
from bench.core.errors import UserError
from bench.models.batches import BatchSize, TrainingTexts, passes_of, steps_of
from bench.models.language_model import LanguageModel, Tokens, pad, token_log_probs

LAST_SHARE = 0.1  # the share of the peak learning rate that the last step has
_EOS = "<|endoftext|>"


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a stream of texts: no text is out of vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_EOS)


@contextmanager
def fixed_threads(number: int) -> Iterator[None]:
    """The context in which a model is trained: torch has so many threads, whatever the user's are.

    Sums in another order end in another model, so that the weights would depend on the machine and
    the engine. The number is a part of the model's identity, or is always 1: small models lose
    little by that, and two threads were no faster for them on a machine in use.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Loop:
    """What the steps of a training depend on beside its texts, its first weights and its optimizer.

    Attributes:
        seed: decides the order of the texts.
        epochs: the number of epochs over which the learning rate falls.
        size: how much a forward pass and a step go over.
        learning_rate: the peak.
        warmup_steps: steps until the peak.
        last_share: the share of the peak that the last step of all epochs has.
        clip: the largest norm of a step's gradient over all parameters, to which a larger one is
            shortened; None for no limit.
        precision: the dtype that products are computed in, while weights, gradients and the
            optimizer's state stay in float32; None for theirs.
        settings: the group of settings that holds the learning rate, for messages.
    """

    seed: int
    epochs: int
    size: BatchSize
    learning_rate: float
    warmup_steps: int
    last_share: float = LAST_SHARE
    clip: float | None = None
    precision: torch.dtype | None = None
    settings: str = "model"


class Training:
    """One training, from its first step or from where it was stopped.

    Some texts may be left out. Whatever is left out, the first weights, the order of the texts and
    the number of steps stay the same: a step goes over what is left of its texts, and one of which
    nothing is left is no step. So two trainings differ by the texts alone. The caller holds
    ``fixed_threads``.

    Args:
        loop: the settings of the steps.
        model: the model, in eval mode; its module's parameters that require a gradient are trained.
        optimizer: the optimizer of these parameters.
        texts: what is trained on.
        removed: the rows of texts to leave out, int64 ``[n]``.

    Attributes:
        texts: what is trained on.
        done: the number of whole epochs that are done already (``bench.models.resuming``).
        losses: the loss of each step of the epoch that is not whole, NaN where it was none.
    """

    def __init__(
        self,
        loop: Loop,
        model: LanguageModel,
        optimizer: Optimizer,
        texts: TrainingTexts,
        removed: np.ndarray | None = None,
    ) -> None:
        self.loop, self.model, self.optimizer = loop, model, optimizer
        self.done = 0
        self.losses: list[float] = []
        self.texts = texts
        self._kept = np.ones(len(texts.corpus), dtype=bool)
        if removed is not None:
            self._kept[removed] = False
        self._save_every: int | None = None
        self._save: Callable[[], None] = lambda: None

    def save_every(self, steps: int | None, save: Callable[[], None]) -> None:
        """Call ``save`` whenever so many more steps of an epoch are done; never for None."""
        self._save_every, self._save = steps, save

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        named = self.model.module.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    def epochs(self, last: int) -> Iterator[float]:
        """Train until so many epochs are done.

        Yields:
            the mean loss of each epoch's steps (nats a token), while the model is in eval mode.

        Raises:
            UserError: the training diverges.
        """
        for epoch in range(self.done, last):
            self.model.module.train()
            loss = self._epoch(epoch)
            self.model.module.eval()
            if not all(torch.isfinite(p).all() for p in self.parameters().values()):
                raise self._diverged("weights that are NaN or infinite after the last step")
            self.done, self.losses = epoch + 1, []
            yield loss

    def _epoch(self, epoch: int) -> float:
        loop, losses = self.loop, self.losses
        order = np.random.default_rng([loop.seed, epoch])
        steps = steps_of(self.texts.rows(epoch), self.texts.corpus.lengths, loop.size, order)
        label = f"train epoch {epoch + 1}/{loop.epochs}"
        n_steps = loop.epochs * len(steps)
        left = steps[len(losses) :]
        for number, step in enumerate(progress.track(left, label, unit="steps"), len(losses)):
            rows = step[self._kept[step]]
            if len(rows) == 0:
                losses.append(math.nan)
                continue
            share = learning_rate_share(
                epoch * len(steps) + number, n_steps, loop.warmup_steps, loop.last_share
            )
            for group in self.optimizer.param_groups:
                group["lr"] = loop.learning_rate * share
            loss = self._step(rows)
            if not math.isfinite(loss):
                raise self._diverged(f"loss {loss} at epoch {epoch + 1}, step {number + 1}")
            losses.append(loss)
            if self._save_every and len(losses) % self._save_every == 0 < len(steps) - len(losses):
                self._save()
        own = [loss for loss in losses if not math.isnan(loss)]
        return math.fsum(own) / max(1, len(own))

    def _step(self, rows: np.ndarray) -> float:
        """Make one step on these texts; returns its loss (nats a token)."""
        corpus, size = self.texts.corpus, self.loop.size
        passes = passes_of(rows, corpus.lengths, size, self.model.vocab_size)
        n_tokens = sum(int(corpus.lengths[row]) - 1 for row in rows)
        value = 0.0
        for part in passes:
            batch = [Tokens(corpus[row].tolist(), loss_from=1) for row in part]
            ids, labels = pad(batch, self.model.device)
            with self._computing():
                loss = -token_log_probs(self.model.module, ids, labels).sum() / n_tokens
            value += loss.item()
            if not math.isfinite(value):
                return value
            loss.backward()
        if self.loop.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters().values(), self.loop.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value

    def _computing(self) -> AbstractContextManager[None]:
        """The context of a forward pass: products in the dtype of the settings."""
        precision = self.loop.precision
        if precision is None:
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=precision)

    def _diverged(self, symptom: str) -> TrainingDivergedError:
        group = self.loop.settings
        return TrainingDivergedError(
            f"training diverged: {symptom}",
            where="model",
            fix=f"lower {group}.learning_rate or raise {group}.warmup_steps",
        )


class TrainingDivergedError(UserError):
    """The error of a training that diverges: going on from an epoch would end in the same way."""


def learning_rate_share(
    step: int, n_steps: int, warmup_steps: int, last_share: float = LAST_SHARE
) -> float:
    """The share of the peak learning rate at a step: a linear rise, then a line down to the last.

    A last rate well below the peak is what real runs end with, and tail-patch steps with the last.
    """
    rise = (step + 1) / max(1, warmup_steps)
    fall = 1 - (1 - last_share) * (step + 1) / n_steps
    return min(1.0, rise, fall)
