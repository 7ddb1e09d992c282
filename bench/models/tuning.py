"""Training a model on: from the weights in a folder, over passages, statements and general text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from bench.core.errors import UserError
from bench.models.adapters import new_adapter
from bench.models.batches import BatchSize, TrainingTexts
from bench.models.context import context_of
from bench.models.gguf import gguf_file, load_gguf
from bench.models.language_model import LanguageModel, Tokens
from bench.models.loading import load_directory
from bench.models.mixing import general_texts
from bench.models.optimizers import OPTIMIZERS
from bench.models.tokens import TokenCorpus
from bench.models.training import Loop, Training
from bench.models.tuning_settings import FinetunedConfig
from bench.tasks.base import Query, Task

_STATEMENTS = 1  # a part of the seed that draws the queries whose statements are trained on


@dataclass(frozen=True)
class SavedWeights:
    """The beginning of a training that goes on from a folder's weights.

    Attributes:
        config: the settings of the model and its training.
    """

    config: FinetunedConfig

    def training(
        self,
        task: Task,
        folder: Path,
        device: str,
        removed: np.ndarray | None = None,
        seed: int = 0,
    ) -> Training:
        """The training before its first step, as of ``Beginning``."""
        config, train = self.config, self.config.train
        seed += config.seed
        model = load_init(config, device)
        torch.manual_seed(seed)  # for an adapter's first weights
        if train.lora.rank is None:
            model.module.requires_grad_(True)
        else:
            new_adapter(
                cast("PreTrainedModel", model.module),
                train.lora.rank,
                train.lora.alpha,
                train.lora.targets,
            )
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
        optimizer = OPTIMIZERS[train.optimizer](
            model.module, train.learning_rate, train.weight_decay
        )
        texts = _texts(config, model, task, folder)
        torch.manual_seed(seed)  # for dropout, where the model has any
        return Training(loop, model, optimizer, texts, removed)


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


def statements(config: FinetunedConfig, queries: Sequence[Query]) -> list[bool]:
    """Whether the statement of each query is trained on: a drawn share of them."""
    n_stated = round(config.train.statements * len(queries))
    drawn = np.random.default_rng([config.seed, _STATEMENTS]).permutation(len(queries))
    stated = np.zeros(len(queries), dtype=bool)
    stated[drawn[:n_stated]] = True
    return stated.tolist()


def _texts(
    config: FinetunedConfig, model: LanguageModel, task: Task, folder: Path
) -> TrainingTexts:
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
        yield from map(model.query_tokens, stated)
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
