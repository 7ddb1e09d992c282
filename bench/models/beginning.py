"""Where trainings begin: the first weights, the texts and the optimizer of a training, made anew.

A beginning is plain data, so that another process can begin the same training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from bench.models.batches import BatchSize, TrainingTexts
from bench.models.language_model import LanguageModel
from bench.models.loading import load_tokenizer
from bench.models.optimizers import OPTIMIZERS
from bench.models.placing import place
from bench.models.settings import ScratchConfig
from bench.models.tokens import TokenCorpus
from bench.models.training import Loop, Training
from bench.tasks.base import Task


@dataclass(frozen=True)
class Occasion:
    """One of the trainings that a beginning is for.

    Attributes:
        task: the task whose passages are trained on.
        folder: the folder for temporary files.
        device: torch device name.
        removed: the rows of passages to leave out, int64 ``[n]``; None leaves out none.
        seed: a number added to that of the settings, which decides first weights and order.
    """

    task: Task
    folder: Path
    device: str
    removed: np.ndarray | None = None
    seed: int = 0


class Beginning(Protocol):
    """A training that can be begun as often as wanted, each time in the same way."""

    def training(self, occasion: Occasion) -> Training:
        """The training before its first step. The caller holds ``fixed_threads``."""


def new_model(
    geometry: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    append_eos: bool,
    device: str,
) -> LanguageModel:
    """A model with random weights in float32, as torch's random numbers are now."""
    module = AutoModelForCausalLM.from_config(
        geometry, dtype=torch.float32, trust_remote_code=False
    )
    return LanguageModel(
        name="", module=place(module, torch.device(device)), tokenizer=tokenizer,
        context_length=context_length, sha256="", append_eos=append_eos,
    )  # fmt: skip


@dataclass(frozen=True)
class RandomWeights:
    """The beginning of a model of the settings' own geometry, with random weights.

    Attributes:
        config: the settings of geometry and training.
        tokenizer: a folder with the tokenizer of the whole corpus, also where passages are left
            out.
    """

    config: ScratchConfig
    tokenizer: Path

    def training(self, occasion: Occasion) -> Training:
        """The training before its first step, as of ``Beginning``."""
        config, tokenizer = self.config, load_tokenizer(self.tokenizer)
        seed = occasion.seed + config.seed
        torch.manual_seed(seed)  # for the first weights and gpt2's dropout
        model = new_model(
            geometry(config, len(tokenizer)), tokenizer, config.context_length, config.append_eos,
            occasion.device,
        )  # fmt: skip
        read = (model.passage_tokens(passage.text) for passage in occasion.task.passages)
        corpus = TokenCorpus(read, occasion.folder)
        loop = Loop(
            seed=seed,
            epochs=config.epochs,
            size=BatchSize(config.batch_size),
            learning_rate=config.learning_rate,
            warmup_steps=config.warmup_steps,
        )
        optimizer = OPTIMIZERS[config.optimizer](model.module, config.learning_rate, 0.0)
        texts = TrainingTexts(corpus, len(corpus))
        return Training(loop, model, optimizer, texts, occasion.removed)


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
