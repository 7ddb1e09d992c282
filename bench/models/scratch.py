"""Small models trained from random weights on the task's own passages, cached by content."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.optimization import Adafactor

from bench import progress
from bench.errors import UserError, did_you_mean
from bench.models import second_moments
from bench.models.base import ModelSource
from bench.models.language_model import (
    DTYPES,
    MOMENTS,
    Checkpoint,
    LanguageModel,
    Tokens,
    load_directory,
    mean_probability,
    pad,
    target_log_probs,
    token_log_probs,
)
from bench.models.tokens import TokenCorpus
from bench.storage import content_key, whole_folder
from bench.tasks.base import Task

# Raised whenever a change of this file would train another model from the same settings, or keep
# other files of it.
TRAINING_VERSION = 4
_PROBE_QUERIES = 200  # facts looked at after each epoch; enough to see learning, cheap
_EOS = "<|endoftext|>"
LAST_SHARE = 0.1  # of the peak learning rate, reached at the last step


@dataclass
class ScratchConfig:
    """Geometry and training of a model trained here; defaults and reasons in ``conf/model``."""

    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    context_length: int
    append_eos: bool
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    gradient_dtype: str
    projection_dim: int
    seed: int


class Scratch(ModelSource):
    """Trains once per (task content, settings), then loads from the cache.

    The optimizer is Adafactor, as in the paper (section 4); after the warm-up the learning rate
    falls in a line to a tenth. Second moments are saved by parameter name.
    """

    Config = ScratchConfig

    def check(self) -> None:
        """Refuse geometries that cannot be built, and what would fail only after training."""
        config: ScratchConfig = self.config
        for field in _COUNTS:
            if getattr(config, field) < 1:
                raise UserError(
                    f"expected at least 1, found {getattr(config, field)}", where=f"model.{field}"
                )
        if config.gradient_dtype not in DTYPES:
            raise UserError(
                f"unknown dtype {config.gradient_dtype!r}",
                where="model.gradient_dtype",
                fix=did_you_mean(config.gradient_dtype, DTYPES),
            )
        if config.hidden_size % config.num_heads:
            raise UserError(
                f"hidden_size {config.hidden_size} is not a multiple of num_heads "
                f"{config.num_heads}",
                where="model.num_heads",
                fix="choose a divisor",
            )
        if config.architecture not in ("gpt_neox", "gpt2", "llama"):
            raise UserError(
                f"unknown architecture {config.architecture!r}",
                where="model.architecture",
                fix="known: gpt2, gpt_neox, llama",
            )

    def identity(self, task: Task) -> str:
        """Hash of what it is trained on and by, and of what it is read with."""
        return content_key([self._training_key(task), self.config.gradient_dtype])

    def _training_key(self, task: Task) -> str:
        settings = asdict(self.config)
        # What the model is read with does not change what is trained.
        trained_by = {k: v for k, v in settings.items() if k not in _READ_WITH}
        return content_key([TRAINING_VERSION, task.corpus_sha256, trained_by])

    def _folder(self, task: Task, cache_dir: Path) -> Path:
        return cache_dir / "models" / self.name / self._training_key(task)

    def load(self, task: Task, cache_dir: Path, device: str) -> LanguageModel:
        """Open the cached model, training it first if there is none."""
        folder = self._folder(task, cache_dir)
        if not (folder / "training.json").exists():
            with whole_folder(folder) as partial:
                train(self.config, task, partial, device)
        model = load_directory(
            self.name,
            folder,
            device=device,
            gradient_dtype=getattr(torch, self.config.gradient_dtype),
            append_eos=self.config.append_eos,
        )
        model.second_moments = second_moments.load(folder / MOMENTS, model.module)
        model.checkpoints = _checkpoints(folder)
        model.learning_rate = self.config.learning_rate * LAST_SHARE
        model.training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        return model

    def architecture(self) -> PretrainedConfig:
        """The geometry, with as many tokens as the vocabulary may have."""
        self.check()
        return _geometry(self.config, self.config.vocab_size)

    def tokenizer(self, task: Task | None, cache_dir: Path) -> PreTrainedTokenizerBase | None:
        """That of the cached model; None if it is not trained yet."""
        if task is None or not (self._folder(task, cache_dir) / "training.json").exists():
            return None
        return AutoTokenizer.from_pretrained(self._folder(task, cache_dir), local_files_only=True)


_CHECKPOINTS, _RATE = "checkpoints", "learning_rate.json"
_READ_WITH = ("gradient_dtype", "projection_dim")
_COUNTS = (
    "hidden_size", "num_layers", "num_heads", "vocab_size", "context_length", "epochs", "batch_size"
)  # fmt: skip


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


@torch.random.fork_rng()  # the caller's random numbers go on as if nothing had been trained
def train(config: ScratchConfig, task: Task, folder: Path, device: str) -> None:
    """Train on the task's passages and save model, tokenizer, second moments and a log."""
    torch.manual_seed(config.seed)  # of the first weights and of gpt2's dropout
    progress.say(f"train {config.architecture} on {len(task.passages):,} passages")
    tokenizer = train_tokenizer((p.text for p in task.passages), config.vocab_size)
    tokenizer.model_max_length = config.context_length
    module = AutoModelForCausalLM.from_config(_geometry(config, len(tokenizer)))
    model = LanguageModel(
        name="", module=module.to(device), tokenizer=tokenizer,
        context_length=config.context_length, sha256="", append_eos=config.append_eos,
    )  # fmt: skip
    corpus = TokenCorpus((model.passage_tokens(p.text) for p in task.passages), folder)
    optimizer = Adafactor(
        module.parameters(), lr=config.learning_rate, scale_parameter=False, relative_step=False
    )
    history = []
    for epoch in range(config.epochs):
        if epoch:  # the moment between two epochs; the last one is the model itself
            _save(module, optimizer, folder / _CHECKPOINTS / f"epoch-{epoch:03}")
        history.append(_epoch(config, epoch, model, optimizer, corpus, task))
    if not all(torch.isfinite(parameter).all() for parameter in module.parameters()):
        raise _diverged("weights that are NaN or infinite after the last step")
    _save(module, optimizer, folder)
    tokenizer.save_pretrained(folder)
    log = {"optimizer": "adafactor", "epochs": history, **history[-1]}
    (folder / "training.json").write_text(json.dumps(log, indent=1), encoding="utf-8")


def _save(module: PreTrainedModel, optimizer: Adafactor, folder: Path) -> None:
    """Weights, second moments, and the learning rate of the last step."""
    module.save_pretrained(folder, safe_serialization=True)
    names: dict[Tensor, str] = {p: name for name, p in module.named_parameters()}
    state = {names[parameter]: values for parameter, values in optimizer.state.items()}
    second_moments.save(state, folder / MOMENTS)
    rate = {"learning_rate": optimizer.param_groups[0]["lr"]}
    (folder / _RATE).write_text(json.dumps(rate), encoding="utf-8")


def _checkpoints(folder: Path) -> list[Checkpoint]:
    found = sorted((folder / _CHECKPOINTS).iterdir()) if (folder / _CHECKPOINTS).exists() else []
    return [
        Checkpoint(path, json.loads((path / _RATE).read_text())["learning_rate"]) for path in found
    ]


def _geometry(config: ScratchConfig, vocab_size: int) -> PretrainedConfig:
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
    )


def _epoch(
    config: ScratchConfig,
    epoch: int,
    model: LanguageModel,
    optimizer: Adafactor,
    corpus: TokenCorpus,
    task: Task,
) -> dict[str, float]:
    """One pass over the corpus in seeded order; returns the loss and what the probe recalls."""
    model.module.train()
    batches = _batches(corpus, config.batch_size, np.random.default_rng([config.seed, epoch]))
    label = f"train epoch {epoch + 1}/{config.epochs}"
    steps_before, n_steps = epoch * len(batches), config.epochs * len(batches)
    total = 0.0
    for step, rows in enumerate(progress.track(batches, label, unit="steps")):
        share = learning_rate_share(steps_before + step, n_steps, config.warmup_steps)
        optimizer.param_groups[0]["lr"] = config.learning_rate * share
        batch = [Tokens(corpus[row].tolist(), loss_from=1) for row in rows]
        ids, labels = pad(batch, model.device)
        n_tokens = sum(tokens.n_loss for tokens in batch)
        loss = -token_log_probs(model.module, ids, labels).sum() / n_tokens
        if not math.isfinite(loss.item()):
            raise _diverged(f"loss {loss.item()} at epoch {epoch + 1}, step {step + 1}")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()
    model.module.eval()
    probability, recalled = _probe(model, task)
    mean_loss = total / max(1, len(batches))
    progress.say(
        f"{label}: loss {mean_loss:.3f}, facts recalled {recalled:.0%}, "
        f"mean target probability {probability:.2f}"
    )
    return {"loss": mean_loss, "facts_recalled": recalled, "target_probability": probability}


def _diverged(found: str) -> UserError:
    return UserError(
        f"training diverged: {found}",
        where="model",
        fix="lower model.learning_rate or raise model.warmup_steps",
    )


def learning_rate_share(step: int, n_steps: int, warmup_steps: int) -> float:
    """Share of the peak learning rate at a step: a linear rise, then a line down to a tenth.

    A last rate well below the peak is what real runs end with, and tail-patch steps with the last.
    """
    rise = (step + 1) / max(1, warmup_steps)
    fall = 1 - (1 - LAST_SHARE) * (step + 1) / n_steps
    return min(1.0, rise, fall)


def _batches(corpus: TokenCorpus, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows in random order, grouped by similar length within windows, so that padding is little."""
    rows = rng.permutation(len(corpus))
    rows = rows[corpus.lengths[rows] > 1]  # a single token predicts nothing
    window = 50 * batch_size
    batches: list[np.ndarray] = []
    for start in range(0, len(rows), window):
        part = rows[start : start + window]
        part = part[np.argsort(corpus.lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _probe(model: LanguageModel, task: Task) -> tuple[float, float]:
    """Mean target probability and share of facts recalled, on evenly spaced queries."""
    every = max(1, len(task.queries) // _PROBE_QUERIES)
    probe = [
        model.query_tokens(query.query_id, query.prompt, query.target)
        for query in task.queries[::every]
    ]
    log_probs, recalled = target_log_probs(model, probe)
    return mean_probability(log_probs), sum(recalled) / len(recalled)
