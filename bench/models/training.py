"""One training run of a small model: its first weights, the order of its passages, its steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.optim import Adam, Optimizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.optimization import Adafactor

from bench.core import progress
from bench.core.errors import UserError
from bench.models.language_model import LanguageModel, Tokens, pad, token_log_probs
from bench.models.placing import place
from bench.models.settings import ScratchConfig
from bench.models.tokens import TokenCorpus
from bench.tasks.base import Task

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


def geometry(config: ScratchConfig, vocab_size: int) -> PretrainedConfig:
    """The configuration of transformers; settings that are None are left to the family."""
    chosen = {
        "num_key_value_heads": config.key_value_heads,
        "tie_word_embeddings": config.tied_embeddings,
    }
    return AutoConfig.for_model(
        config.architecture,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=4 * config.hidden_size,
        vocab_size=vocab_size,
        max_position_embeddings=config.context_length,
        bos_token_id=None,
        eos_token_id=0,
        **{key: value for key, value in chosen.items() if value is not None},
    )


def _adafactor(module: nn.Module, learning_rate: float) -> Optimizer:
    return Adafactor(
        module.parameters(), lr=learning_rate, scale_parameter=False, relative_step=False
    )


def _adam(module: nn.Module, learning_rate: float) -> Optimizer:
    return Adam(module.parameters(), lr=learning_rate)


OPTIMIZERS: dict[str, Callable[[nn.Module, float], Optimizer]] = {
    "adafactor": _adafactor,
    "adam": _adam,
}


@contextmanager
def one_thread() -> Iterator[None]:
    """The context in which every model is trained: torch has one thread, whatever the user's is.

    Sums in another order end in another model, so that the weights would depend on the machine and
    the engine. The models trained here lose little: two threads were no faster on a machine in use.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Training:
    """One training on a task's passages, some of which may be left out.

    Whatever is left out, the first weights, the order of the passages and the number of steps stay
    the same: a step goes over what is left of its batch, and a batch of which nothing is left is
    no step. So two trainings differ by the passages alone. The caller holds ``one_thread``.

    Args:
        config: the settings of geometry and training; the seed decides the first weights and the
            order.
        tokenizer: the tokenizer of the whole corpus, also where passages are left out.
        task: the task whose passages are trained on.
        folder: the folder for temporary files.
        device: torch device name.
        removed: the rows to leave out, int64 ``[n]``.

    Attributes:
        model: the model that is trained.
        done: the number of epochs that are done already (``bench.models.resuming``).
    """

    def __init__(
        self,
        config: ScratchConfig,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        folder: Path,
        device: str,
        removed: np.ndarray | None = None,
    ) -> None:
        torch.manual_seed(config.seed)  # for the first weights and gpt2's dropout
        self.config = config
        self.done = 0
        module = AutoModelForCausalLM.from_config(
            geometry(config, len(tokenizer)), trust_remote_code=False
        )
        self.model = LanguageModel(
            name="", module=place(module, torch.device(device)), tokenizer=tokenizer,
            context_length=config.context_length, sha256="", append_eos=config.append_eos,
        )  # fmt: skip
        texts = (self.model.passage_tokens(passage.text) for passage in task.passages)
        self._corpus = TokenCorpus(texts, folder)
        self._kept = np.ones(len(self._corpus), dtype=bool)
        if removed is not None:
            self._kept[removed] = False
        self.optimizer = OPTIMIZERS[config.optimizer](module, config.learning_rate)

    def epochs(self) -> Iterator[float]:
        """Train all epochs, or as many as ``checkpoint`` says.

        Yields:
            the mean loss of each epoch's steps (nats a token), while the model is in eval mode.

        Raises:
            UserError: the training diverges.
        """
        for epoch in range(self.done, self.config.checkpoint or self.config.epochs):
            self.model.module.train()
            loss = self._epoch(epoch)
            self.model.module.eval()
            yield loss
        if not all(torch.isfinite(p).all() for p in self.model.module.parameters()):
            raise _diverged("weights that are NaN or infinite after the last step")

    def _epoch(self, epoch: int) -> float:
        config, optimizer = self.config, self.optimizer
        order = np.random.default_rng([config.seed, epoch])
        batches = _batches(self._corpus, config.batch_size, order)
        label = f"train epoch {epoch + 1}/{config.epochs}"
        n_steps = config.epochs * len(batches)
        losses = []
        for number, batch in enumerate(progress.track(batches, label, unit="steps")):
            rows = batch[self._kept[batch]]
            if len(rows) == 0:
                continue
            step = epoch * len(batches) + number
            share = learning_rate_share(step, n_steps, config.warmup_steps)
            optimizer.param_groups[0]["lr"] = config.learning_rate * share
            loss = self._step(rows)
            if not math.isfinite(loss):
                raise _diverged(f"loss {loss} at epoch {epoch + 1}, step {number + 1}")
            losses.append(loss)
        return math.fsum(losses) / max(1, len(losses))

    def _step(self, rows: np.ndarray) -> float:
        batch = [Tokens(self._corpus[row].tolist(), loss_from=1) for row in rows]
        ids, labels = pad(batch, self.model.device)
        n_tokens = sum(tokens.n_loss for tokens in batch)
        loss = -token_log_probs(self.model.module, ids, labels).sum() / n_tokens
        value = loss.item()
        if math.isfinite(value):
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return value


class TrainingDivergedError(UserError):
    """The error of a training that diverges: going on from an epoch would end in the same way."""


def _diverged(symptom: str) -> TrainingDivergedError:
    return TrainingDivergedError(
        f"training diverged: {symptom}",
        where="model",
        fix="lower model.learning_rate or raise model.warmup_steps",
    )


def learning_rate_share(step: int, n_steps: int, warmup_steps: int) -> float:
    """The share of the peak learning rate at a step: a linear rise, then a line down to a tenth.

    A last rate well below the peak is what real runs end with, and tail-patch steps with the last.
    """
    rise = (step + 1) / max(1, warmup_steps)
    fall = 1 - (1 - LAST_SHARE) * (step + 1) / n_steps
    return min(1.0, rise, fall)


def _batches(corpus: TokenCorpus, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Batches of rows in random order, of similar length each, so that padding is little."""
    rows = rng.permutation(len(corpus))
    rows = rows[corpus.lengths[rows] > 1]  # a single token predicts nothing
    window = 50 * batch_size
    batches: list[np.ndarray] = []
    for start in range(0, len(rows), window):
        part = rows[start : start + window]
        part = part[np.argsort(corpus.lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]
