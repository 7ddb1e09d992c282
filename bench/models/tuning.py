"""Trainings by the settings of ``train``: from a folder's weights or from random ones of any size.

They go over the task's passages, statements of its queries and general text.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench.core.errors import UserError
from bench.models.adapters import new_adapter
from bench.models.batches import BatchSize, TrainingTexts
from bench.models.beginning import Occasion, new_model
from bench.models.context import context_of
from bench.models.geometry import decoder_of
from bench.models.gguf import gguf_file, gguf_tokenizer, load_gguf
from bench.models.language_model import LanguageModel, Tokens
from bench.models.learning import Course
from bench.models.loading import check_vocabulary, load_directory, load_tokenizer
from bench.models.mixing import general_texts
from bench.models.optimizers import OPTIMIZERS
from bench.models.resuming import Log
from bench.models.tokens import TokenCorpus
from bench.models.training import Loop, Training
from bench.models.tuning_settings import FinetunedConfig, SizedConfig, TrainedConfig
from bench.tasks.base import Query, Task

_STATEMENTS = 1  # a part of the seed that draws the queries whose statements are trained on


@dataclass(frozen=True)
class SavedWeights:
    """The beginning of a training that goes on from a folder's weights.

    Attributes:
        config: the settings of the model and its training.
    """

    config: FinetunedConfig

    def training(self, occasion: Occasion) -> Training:
        """The training before its first step, as of ``Beginning``."""
        config, lora = self.config, self.config.train.lora
        seed = occasion.seed + config.seed
        model = load_init(config, occasion.device)
        torch.manual_seed(seed)  # for an adapter's first weights
        if lora.rank is None:
            model.module.requires_grad_(True)
        else:
            module = cast("PreTrainedModel", model.module)
            new_adapter(module, lora.rank, lora.alpha, lora.targets)
        return _begun(config, model, occasion, seed)


@dataclass(frozen=True)
class NewWeights:
    """The beginning of a model of a given geometry, with random weights in float32.

    Attributes:
        config: the settings of the model and its training.
        tokenizer: a folder with the tokenizer, also where passages are left out.
    """

    config: SizedConfig
    tokenizer: Path

    def training(self, occasion: Occasion) -> Training:
        """The training before its first step, as of ``Beginning``."""
        config, tokenizer = self.config, load_tokenizer(self.tokenizer)
        seed = occasion.seed + config.seed
        torch.manual_seed(seed)  # for the first weights
        model = new_model(
            decoder_of(config.geometry), tokenizer, config.context, config.append_eos,
            occasion.device,
        )  # fmt: skip
        check_vocabulary(tokenizer, cast("PreTrainedModel", model.module), str(self.tokenizer))
        return _begun(config, model, occasion, seed)


def _begun(config: TrainedConfig, model: LanguageModel, occasion: Occasion, seed: int) -> Training:
    """The training of a model by the settings of ``train``, before its first step."""
    train = config.train
    loop = Loop(
        seed=seed,
        epochs=train.epochs,
        size=BatchSize(train.batch_size, train.batch_tokens, train.accumulate),
        learning_rate=train.learning_rate,
        warmup_steps=train.warmup_steps,
        last_share=train.last_share,
        clip=train.clip,
        precision=None if train.precision == "float32" else getattr(torch, train.precision),
        settings="model.train",
    )
    module = cast("PreTrainedModel", model.module)
    if train.recompute:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a name that older ones do not have
            module.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = OPTIMIZERS[train.optimizer](module, train.learning_rate, train.weight_decay)
    texts = _texts(config, model, occasion.task, occasion.folder)
    torch.manual_seed(seed)  # for dropout, where the model has any
    return Training(loop, model, optimizer, texts, occasion.removed)


def course_of(
    config: TrainedConfig,
    training: Training,
    task: Task,
    ask: Callable[[LanguageModel], Log],
    facts: dict[str, Any],
) -> Course:
    """The course of a training by the settings of ``train``.

    Args:
        config: the settings of the model and its training.
        training: the training before its first step.
        task: the task, whose passages are trained on.
        ask: what a model knows, for the log.
        facts: what the log says of the training, beside its texts and epochs.
    """
    train = config.train
    return Course(
        train.epochs,
        ask=ask,
        facts={
            "optimizer": train.optimizer,
            **facts,
            "before": ask(training.model),
            "passages": len(task.passages),
            "statements": training.texts.every_epoch - len(task.passages),
            "general_texts_an_epoch": training.texts.taking_turns,
        },
        until=train.until,
        save_steps=train.save_steps,
    )


def load_init(config: FinetunedConfig, device: str) -> LanguageModel:
    """The model to begin from, in float32.

    Raises:
        UserError: the folder holds no model, as ``load_directory`` and ``load_gguf`` say it.
    """
    path = config.init_path
    file = gguf_file(path)
    if file is None:
        return load_directory(
            "", path, device=device, append_eos=config.append_eos,
            context_length=config.context_length,
        )  # fmt: skip
    module, tokenizer = load_gguf(file, torch.device(device))
    context = context_of(module.config, tokenizer, config.context_length, str(file))
    return LanguageModel(
        name="", module=module, tokenizer=tokenizer, context_length=context.tokens, sha256="",
        context_source=context.source, append_eos=config.append_eos,
    )  # fmt: skip


def init_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder to begin from; raises as ``load_init``."""
    file = gguf_file(path)
    return load_tokenizer(path) if file is None else gguf_tokenizer(file)


def statements(config: TrainedConfig, queries: Sequence[Query]) -> list[bool]:
    """Whether the statement of each query is trained on: a drawn share of them."""
    n_stated = round(config.train.statements * len(queries))
    drawn = np.random.default_rng([config.seed, _STATEMENTS]).permutation(len(queries))
    stated = np.zeros(len(queries), dtype=bool)
    stated[drawn[:n_stated]] = True
    return stated.tolist()


def _texts(config: TrainedConfig, model: LanguageModel, task: Task, folder: Path) -> TrainingTexts:
    """The passages, then the statements that are trained on, then general text."""
    chosen = statements(config, task.queries)
    stated = [query for query, is_stated in zip(task.queries, chosen, strict=True) if is_stated]
    own = len(task.passages) + len(stated)
    train = config.train
    share = train.mix_share
    mixed = 0 if train.mix is None else max(1, round(own * share / (1 - share)))

    def tokens() -> Iterator[Tokens]:
        for passage in task.passages:
            yield model.passage_tokens(passage.text)
        for query in stated:
            yield model.query_tokens(replace(query, accepted=()))
        if train.mix is not None:  # no more than all epochs take
            for text in islice(general_texts(train.mix), mixed * train.epochs):
                yield model.passage_tokens(text)

    corpus = TokenCorpus(tokens(), folder)
    if len(corpus) - own < mixed:
        raise UserError(
            f"holds {len(corpus) - own:,} texts, and an epoch takes {mixed:,} beside the task's "
            f"{own:,}",
            where=f"model.train.mix={train.mix}",
            fix="give more text, or lower model.train.mix_share",
        )
    return TrainingTexts(corpus, own, mixed)
