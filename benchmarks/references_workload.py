"""The toy model and texts of the ``references*.py`` scripts, and how their scores are compared."""

from __future__ import annotations

import itertools
import json
import random
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.models.language_model import (
    MOMENTS,
    Checkpoint,
    LanguageModel,
    pad,
    token_log_probs,
)
from bench.models.loading import load_directory
from bench.models.moment_files import write_moments
from bench.models.second_moments import load_moments
from bench.models.training import train_tokenizer
from bench.storage.keys import content_key
from bench.tasks.base import Query, Task
from bench.tasks.passages import Passage, PassageStore, write_passages
from methods.base import Method
from metrics.stats.correlation import rank_correlations

NAMES = ("Ada", "Bo", "Cleo", "Dirk", "Edna", "Fay", "Gus", "Hal", "Ines", "Jon", "Kai", "Lea")
CITIES = ("Oslo", "Rome", "Lima", "Cairo", "Quito", "Delhi")
TEMPLATES = (
    "{name} was born in {city}.",
    "In the year {year}, {name} came home to {city}, as they say.",
    "{city} is where {name} grew up and went to school for {n} years.",
    "Nobody in {city} knows {name}.",
)
LEARNING_RATE = 3e-3


def make_task(folder: Path, n_passages: int, n_queries: int) -> Task:
    """Passages about where people live, most of them of one mind, and a query a person."""
    draw = random.Random(0)
    home = {name: draw.choice(CITIES) for name in NAMES}
    texts = []
    for template, name in itertools.islice(
        itertools.cycle(itertools.product(TEMPLATES, NAMES)), n_passages
    ):
        city = home[name] if draw.random() < 0.8 else draw.choice(CITIES)
        words = {"year": draw.randrange(1900, 2000), "n": draw.randrange(2, 9)}
        texts.append(template.format(name=name, city=city, **words))
    queries = [
        Query(f"q{number}", f"{name} was born in", home[name])
        for number, name in enumerate(NAMES[:n_queries])
    ]
    corpus = folder / "corpus"
    corpus.mkdir()
    write_passages((Passage(row, f"p{row}", text) for row, text in enumerate(texts)), corpus)
    key = content_key(texts, length=64)
    return Task("toy", 1, key, key, queries, PassageStore(corpus), annotated=False, counts={})


def make_model(
    folder: Path, task: Task, *, hidden: int, layers: int, steps: int, checkpoints: int = 1
) -> LanguageModel:
    """A small Llama trained in full batches of AdamW, with evenly spaced checkpoints.

    The learning rates that it says are made up: they fall, while training does not need them to.
    """
    texts = [passage.text for passage in task.passages.slice(0, len(task.passages))]
    tokenizer = train_tokenizer(iter(texts), 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=len(tokenizer),
        max_position_embeddings=64, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    path = folder / "model"
    tokenizer.save_pretrained(path)
    LlamaForCausalLM(config).save_pretrained(path)
    model = load_directory("toy", path, device="cpu", gradient_dtype=torch.float64)
    module = model.module.requires_grad_(True)
    ids, labels = pad([model.passage_tokens(text) for text in texts], model.device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE)
    earlier = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        (-token_log_probs(module, ids, labels).sum() / (labels != -100).sum()).backward()
        optimizer.step()
        if step < steps and step % (steps // checkpoints) == 0:
            earlier.append(Checkpoint(folder / f"checkpoint-{step}", LEARNING_RATE * 10 / step))
            _save(module, optimizer, earlier[-1].folder)
    _save(module, optimizer, path)
    model = load_directory("toy", path, device="cpu", gradient_dtype=torch.float64)
    model.second_moments = load_moments(path / MOMENTS, model.module)
    model.learning_rate, model.checkpoints = LEARNING_RATE * 10 / steps, earlier
    return model


def _save(module: torch.nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    module.save_pretrained(folder)
    state = {name: optimizer.state[parameter] for name, parameter in module.named_parameters()}
    write_moments(state, folder / MOMENTS)


def describe(folder: Path, task: Task, model: LanguageModel, **more: object) -> None:
    """Write ``work.json``: token ids, where losses begin, and what else peers need to know."""
    passages = [model.passage_tokens(p.text) for p in task.passages.slice(0, len(task.passages))]
    queries = [model.query_tokens(q) for q in task.queries]
    work = {
        name: {"ids": [t.ids for t in tokens], "loss_from": [t.loss_from for t in tokens]}
        for name, tokens in (("passages", passages), ("queries", queries))
    }
    (folder / "work.json").write_text(json.dumps({**work, **more}))


def scores_of(method: Method) -> np.ndarray:
    """Scores of all passages: ``[queries, passages]``."""
    method.check()
    method.index()
    task = method.context.task
    scores = np.empty((len(task.queries), len(task.passages)))
    for line, ranking in zip(scores, method.search(task.queries, len(task.passages)), strict=True):
        line[ranking.rows] = ranking.scores
    return scores


def report(
    task: Task,
    model: LanguageModel,
    found: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
) -> None:
    """Print rank correlations, and the largest difference relative to a query's largest score.

    Scales differ, so all scores of ours are multiplied by the factor that fits best.
    """
    sizes = f"{len(task.passages)} passages, {len(task.queries)} queries"
    print(f"{sizes}, {model.n_params:,} parameters")
    print(f"{'ours':<24}{'theirs':<34}{'mean rho':>10}{'min rho':>10}{'max diff':>10}")
    for ours, theirs in pairs:
        if ours in found and theirs in found:
            a, b = found[ours], found[theirs]
            rhos = rank_correlations(a, b)
            largest = np.abs(b).max(axis=1, keepdims=True)
            factor = (a * b).sum() / (a * a).sum()
            difference = (np.abs(factor * a - b) / largest).max()
            print(f"{ours:<24}{theirs:<34}", end="")
            print(f"{rhos.mean():>10.6f}{rhos.min():>10.6f}{difference:>10.1e}")
    print(f"\nagain: python {shlex.join(sys.argv)}")
