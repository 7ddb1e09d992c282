"""Training and search on a GPU, beside what bounds them: kernels of the optimizer, and copies.

    python benchmarks/on_gpu.py
    python benchmarks/on_gpu.py --device cpu --layers 2 --batch-tokens 512 --rows 2000 --rounds 2

Training: steps of a model of ``conf/model`` with random weights, in bfloat16 with weights in
float32, on texts of one length; with Adafactor as it is on a GPU, and with transformers' own.
Search: a gradient method's, both stages, over rows of a file whose pages are in memory, beside one
copy of the same bytes from pinned memory to the device. Contenders take turns. On a CPU nothing is
pinned, and the figures say nothing but that the script runs.

Targets: training of 110M parameters at 120,000 tokens/s and more, and a search in at most 1.25
times the copy. That bits are equal every time is ``tests/models/test_cuda.py``.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from contenders import interleave
from search import drain, gradient_search, make_rows
from torch.optim import Optimizer
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.optimization import Adafactor
from utilisation import config_of, finished

from bench.models.batches import BatchSize, TrainingTexts
from bench.models.language_model import LanguageModel, Tokens
from bench.models.stacked_adafactor import StackedAdafactor
from bench.models.tokens import TokenCorpus
from bench.models.training import Loop, Training
from methods.vector_search import as_tensor

RATE = 1e-4


def main() -> None:
    """Measure and print."""
    options = _options()
    kind = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    print(
        f"{kind}, torch {torch.__version__}; median of {options.rounds} rounds (least–greatest)\n"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for line in _training(Path(folder), options):
            print(line, flush=True)
        print()
        for line in _search(Path(folder), options):
            print(line, flush=True)
    print(f"\nagain: python {shlex.join(sys.argv)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", default="154m", help="of conf/model")
    parser.add_argument("--layers", type=int, help="fewer than the model's own")
    parser.add_argument("--tokens", type=int, default=512, help="of a text")
    parser.add_argument("--batch-tokens", type=int, default=16384, help="of a step")
    parser.add_argument("--steps", type=int, default=8, help="a round")
    parser.add_argument("--rows", type=int, default=320_000, help="of the index: 5.2 GB")
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--top-k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--folder", help="where the rows are written; the system's if not given")
    return parser.parse_args()


def _training(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """Lines with the tokens a second of each optimizer."""
    config = config_of(options.model, options.layers)
    draw = np.random.default_rng(0)
    tokens = min(options.tokens, options.batch_tokens)
    a_step = options.batch_tokens // tokens
    texts = [
        Tokens(draw.integers(0, config.vocab_size, tokens).tolist(), 1)
        for _ in range(a_step * options.steps)
    ]
    kinds: dict[str, Callable[[list[torch.nn.Parameter]], Optimizer]] = {
        "in stacks": lambda all_of: StackedAdafactor(all_of, RATE),
        "transformers' own": lambda all_of: Adafactor(
            all_of, lr=RATE, scale_parameter=False, relative_step=False
        ),
    }
    contenders, n_parameters = {}, 0
    for name, kind in kinds.items():
        torch.manual_seed(0)
        with torch.device(options.device):
            module = AutoModelForCausalLM.from_config(config, trust_remote_code=False).eval()
        n_parameters = sum(parameter.numel() for parameter in module.parameters())
        corpus = TokenCorpus(texts, folder)
        run = _epochs(module, kind(list(module.parameters())), corpus, options.batch_tokens)
        contenders[name] = finished(run, options.device)
    seconds = interleave(contenders, options.rounds)
    yield (
        f"training of {n_parameters / 1e6:,.0f}M parameters in bfloat16, {options.batch_tokens:,} "
        f"tokens a step in texts of {tokens}"
    )
    yield from ("| Adafactor | tokens/s | ms a step |", "| --- | --: | --: |")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        rate, a_step_ms = len(texts) * tokens / median, 1000 * median / options.steps
        yield f"| {name} | {rate:,.0f} | {a_step_ms:,.0f} |"


def _epochs(
    module: PreTrainedModel, optimizer: Optimizer, corpus: TokenCorpus, batch_tokens: int
) -> Callable[[], object]:
    """A function that trains for one epoch more."""
    loop = Loop(
        seed=0,
        epochs=1_000_000,
        size=BatchSize(None, batch_tokens),
        learning_rate=RATE,
        warmup_steps=0,
        precision=torch.bfloat16,
    )
    known = range(module.config.vocab_size)  # a tokenizer, of which its size alone is asked
    model = LanguageModel("trained", module, known, corpus.lengths.max(), "")  # type: ignore[arg-type]
    training = Training(loop, model, optimizer, TrainingTexts(corpus, len(corpus)))
    return lambda: next(training.epochs(training.done + 1))


def _search(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """Lines with the bytes a second of a copy and of searches."""
    stored, queries = make_rows(folder, options.rows, options.queries, options.dim)
    device, asked = torch.device(options.device), torch.from_numpy(queries)
    source = as_tensor(stored)
    if options.device == "cuda":
        source = torch.empty(stored.shape, pin_memory=True).copy_(source)
    there = torch.empty(stored.shape, device=device)
    runs: dict[str, Callable[[], object]] = {"copy": lambda: there.copy_(source)}
    for name, unit_norm in (("search", False), ("search, cosine", True)):
        search = gradient_search(stored, len(queries), unit_norm=unit_norm, device=device)
        runs[name] = partial(drain, search, asked.to(device), options.top_k)
    seconds = interleave(
        {name: finished(run, options.device) for name, run in runs.items()}, options.rounds
    )
    yield (
        f"{options.rows:,} × {options.dim} rows in float32, {stored.nbytes / 1e9:.1f} GB, the "
        f"{options.top_k} best for each of {options.queries} queries"
    )
    yield from ("| what | GB/s | speed / copy |", "| --- | --: | :-- |")
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(seconds["copy"], taken, strict=True)]
        yield (
            f"| {name} | {stored.nbytes / 1e9 / statistics.median(taken):.2f} "
            f"| {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}) |"
        )


if __name__ == "__main__":
    main()
