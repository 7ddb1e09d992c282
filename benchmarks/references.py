"""Scores of EK-FAC and DataInf beside those of other implementations, on one toy model and data.

    OMP_NUM_THREADS=1 python benchmarks/references.py \
        --kronfluence-python /tmp/peers/kron/bin/python \
        --dattri-python /tmp/peers/dattri/bin/python

Prints for each pair the rank correlation (Spearman) of the scores of all passages for a query, its
mean and minimum over queries, and the largest difference relative to a query's largest score.

The model is a small Llama (grouped queries, no biases: kronfluence counts them in, we do not),
trained on the passages for some steps, so that gradients differ in size as they do in practice. All
compute in float64. How settings correspond:

| here | kronfluence | dattri |
| --- | --- | --- |
| labels=empirical | use_empirical_fisher=True | always |
| labels=sampled | use_empirical_fisher=False; own draws | |
| damping=0.1, a share of mean(Λ) | damping_factor=None, which is 0.1 · mean(Λ) | |
| damping=0.1, a share of mean g² | | regularization=λ, a number, so one run a matrix |
| Λ, a mean over passages | a sum, divided by their number before damping | |
| A over tokens that predict another | all that the mask leaves: both masks are run | |
| summed loss; target tokens for a query | the task's two losses, written so | likewise |

Environments, made once, with torch of the version here, so that no CUDA build comes along (tried
with kronfluence 1.0.1 and dattri 0.3.0):

    cd /tmp/peers && echo "torch==2.13.0" > c.txt
    python -m venv kron && kron/bin/pip install -c c.txt torch transformers kronfluence==1.0.1
    kron/bin/pip uninstall -y torchvision
    python -m venv dattri && dattri/bin/pip install -c c.txt torch transformers dattri==0.3.0
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.models.language_model import LanguageModel, load_directory, pad, token_log_probs
from bench.models.scratch import train_tokenizer
from bench.passages import Passage, PassageStore, write_passages
from bench.progress import set_quiet
from bench.storage import content_key
from bench.tasks.base import Query, Task
from methods.base import Context
from methods.gradient.datainf import DataInf
from methods.gradient.ekfac import Ekfac, EkfacConfig, Labels
from methods.gradient.influence import Influence, InfluenceConfig
from methods.gradient.parameters import Adapters, Unsupported

SETTINGS = {
    "damping": 0.1, "sample": None, "opponents": 0, "memory_mib": 512, "batch_size": 32,
    "batch_tokens": None, "layers": None, "adapters": Adapters.base,
    "unsupported": Unsupported.refuse, "seed": 0,
}  # fmt: skip
NAMES = ("Ada", "Bo", "Cleo", "Dirk", "Edna", "Fay", "Gus", "Hal", "Ines", "Jon", "Kai", "Lea")
CITIES = ("Oslo", "Rome", "Lima", "Cairo", "Quito", "Delhi")
TEMPLATES = (
    "{name} was born in {city}.",
    "In the year {year}, {name} came home to {city}, as they say.",
    "{city} is where {name} grew up and went to school for {n} years.",
    "Nobody in {city} knows {name}.",
)


def main() -> None:
    """Score, compare and print."""
    options = _options()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = _task(folder, options.passages, options.queries)
        model = _model(folder, task, options)
        _describe(folder, task, model)
        found = _scores(task, model, folder, options)
    print(f"{options.passages} passages, {options.queries} queries, {model.n_params:,} parameters")
    print(f"{'ours':<18}{'theirs':<34}{'mean rho':>10}{'min rho':>10}{'max diff':>10}")
    for ours, theirs in PAIRS:
        if ours in found and theirs in found:
            rhos = [_spearman(a, b) for a, b in zip(found[ours], found[theirs], strict=True)]
            largest = np.abs(found[theirs]).max(axis=1, keepdims=True)
            difference = (np.abs(found[ours] - found[theirs]) / largest).max()
            print(
                f"{ours:<18}{theirs:<34}{np.mean(rhos):>10.6f}{min(rhos):>10.6f}{difference:>10.1e}"
            )


PAIRS = (
    ("ekfac empirical", "kronfluence empirical predicting"),
    ("ekfac empirical", "kronfluence empirical all"),
    ("ekfac sampled", "kronfluence sampled predicting"),
    ("ekfac sampled", "ekfac sampled, seed 1"),
    ("ekfac sampled", "ekfac empirical"),
    ("datainf", "dattri"),
    ("datainf", "ekfac empirical"),
)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--passages", type=int, default=160)
    parser.add_argument("--queries", type=int, default=12)
    parser.add_argument("--steps", type=int, default=60, help="of training, before scoring")
    parser.add_argument("--kronfluence-python", help="interpreter with kronfluence")
    parser.add_argument("--dattri-python", help="interpreter with dattri")
    return parser.parse_args()


def _task(folder: Path, n_passages: int, n_queries: int) -> Task:
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


def _model(folder: Path, task: Task, options: argparse.Namespace) -> LanguageModel:
    """Trained in full batches, saved, and opened again."""
    texts = [passage.text for passage in task.passages.slice(0, len(task.passages))]
    tokenizer = train_tokenizer(iter(texts), 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=options.hidden, intermediate_size=2 * options.hidden,
        num_hidden_layers=options.layers, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(tokenizer), max_position_embeddings=64, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    module = LlamaForCausalLM(config)
    path = folder / "model"
    tokenizer.save_pretrained(path)
    module.save_pretrained(path)
    model = load_directory("toy", path, device="cpu", gradient_dtype=torch.float64)
    module = model.module.requires_grad_(True)
    ids, labels = pad([model.passage_tokens(text) for text in texts], model.device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(options.steps):
        optimizer.zero_grad()
        (-token_log_probs(module, ids, labels).sum() / (labels != -100).sum()).backward()
        optimizer.step()
    module.save_pretrained(path)
    return load_directory("toy", path, device="cpu", gradient_dtype=torch.float64)


def _describe(folder: Path, task: Task, model: LanguageModel) -> None:
    """Token ids and where losses begin, for the peers."""
    passages = [model.passage_tokens(p.text) for p in task.passages.slice(0, len(task.passages))]
    queries = [model.query_tokens(q.query_id, q.prompt, q.target) for q in task.queries]
    work = {
        name: {"ids": [t.ids for t in tokens], "loss_from": [t.loss_from for t in tokens]}
        for name, tokens in (("passages", passages), ("queries", queries))
    }
    (folder / "work.json").write_text(json.dumps({**work, "damping": SETTINGS["damping"]}))


def _scores(
    task: Task, model: LanguageModel, folder: Path, options: argparse.Namespace
) -> dict[str, np.ndarray]:
    """By name: ``[queries, passages]``."""
    context = Context(task, folder / "cache", load_model=lambda: model)

    def ekfac(labels: Labels, seed: int = 0) -> np.ndarray:
        return _of(Ekfac(EkfacConfig(**{**SETTINGS, "seed": seed}, labels=labels), context))

    found = {
        "ekfac empirical": ekfac(Labels.empirical),
        "ekfac sampled": ekfac(Labels.sampled),
        "ekfac sampled, seed 1": ekfac(Labels.sampled, seed=1),
        "datainf": _of(DataInf(InfluenceConfig(**SETTINGS), context)),
    }
    for peer, python in (
        ("kronfluence", options.kronfluence_python),
        ("dattri", options.dattri_python),
    ):
        if python:
            script = Path(__file__).with_name("references_peer.py")
            subprocess.run([python, script, folder, peer], check=True)
            for path in sorted(folder.glob(f"{peer}*.npy")):
                found[path.stem] = np.load(path)
    return found


def _of(method: Influence) -> np.ndarray:
    method.check()
    method.index()
    task = method.context.task
    scores = np.empty((len(task.queries), len(task.passages)))
    for line, ranking in zip(scores, method.search(task.queries, len(task.passages)), strict=True):
        line[ranking.rows] = ranking.scores
    return scores


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Ties are as good as absent among float64 scores of distinct texts."""
    ranks = [np.argsort(np.argsort(scores, kind="stable")) for scores in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    main()
