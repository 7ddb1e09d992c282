"""Second moments of a model whose optimizer's state nobody has: estimated by a pass over passages.

V is the mean over batches of the squared gradient of a batch's mean loss: what Adam and Adafactor
average over the steps of a training, at weights that stand still. Matrices keep the means of V over
rows and over columns, as Adafactor does (Shazeer & Stern, 1804.04235), and so does each matrix of a
stack, as experts are; all else keeps V as it is.
The loss is that of training: the mean over all predicted tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.core import progress
from bench.core.errors import UserError
from bench.models.devices import rests
from bench.models.language_model import MOMENTS, LanguageModel, Tokens, pad, token_log_probs
from bench.models.moment_files import write_moments
from bench.models.padding import parts_of
from bench.models.second_moments import load_moments
from bench.models.settings import EstimateConfig
from bench.storage.keys import content_key
from bench.storage.sealed import open_or_make
from bench.tasks.base import Task

# The version is raised whenever a change of code moves an estimate.
ESTIMATE_VERSION = 3
ESTIMATED = "estimated"  # what a result's `model.training.second_moments` then says
# The most padded tokens of one forward pass. A batch's gradient is summed over such parts, so that
# memory does not grow with the batch; a single passage may be longer.
_TOKENS_AT_ONCE = 2048


def with_estimate(
    model: LanguageModel, task: Task, config: EstimateConfig, cache_dir: Path
) -> LanguageModel:
    """Give a model estimated second moments, from the cache if they are there; returns it.

    ``model.training`` then says that they are estimated, and from how much.

    Raises:
        UserError: a gradient is not finite, no passage has a token to predict, or the cached
            moments are damaged.
    """
    dtypes = [str(next(model.module.parameters()).dtype), model.append_eos, model.context_length]
    corpus = task.corpus_sha256
    made_from = [ESTIMATE_VERSION, model.sha256, dtypes, corpus, asdict(config)]
    folder = cache_dir / "moments" / content_key(made_from)

    def make(partial: Path) -> dict[str, int]:
        rows = sampled_rows(len(task.passages), config)
        tokens = (model.passage_tokens(task.passages[int(row)].text) for row in rows)
        batches = progress.track(
            _batches(tokens, config.batch_size),
            "estimate second moments",
            total=-(-len(rows) // config.batch_size),
            unit="batches",
        )
        state, facts = estimate(model, batches)
        write_moments(state, partial / MOMENTS)
        return facts

    facts = open_or_make(folder, "second moments", made_from, make)
    model.second_moments = load_moments(folder / MOMENTS, model.module)
    model.training = {**model.training, "second_moments": ESTIMATED, **facts}
    return model


def sampled_rows(n_passages: int, config: EstimateConfig) -> np.ndarray:
    """The rows of the passages that the pass goes over, in its order, each once; int64 ``[n]``."""
    return np.random.default_rng(config.seed).permutation(n_passages)[: config.passages]


def _batches(tokens: Iterator[Tokens], size: int) -> Iterator[list[Tokens]]:
    batch: list[Tokens] = []
    for one in tokens:
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def estimate(
    model: LanguageModel, batches: Iterator[list[Tokens]]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
    """Mean squared gradients by parameter name, in the form that ``write_moments`` takes.

    Args:
        model: the model, whose weights stay as they are; gradients are taken in their dtype.
        batches: batches of passages; those with no token to predict play no part.

    Returns:
        the moments in float32 (sums are kept in float64), and how many passages and batches they
        are made of.

    Raises:
        UserError: a gradient is not finite, no passage has a token to predict, or weights rest
            elsewhere than where they are used.
    """
    if rests(model.module):
        raise UserError(
            "an estimate sums the gradients of all weights, and some of them rest in CPU memory or "
            "on disk",
            where="model.optimizer_state=estimate",
            fix="use GPUs that hold the model, or set model.optimizer_state=FILE",
        )
    sums = {name: _zeros(parameter) for name, parameter in model.module.named_parameters()}
    facts = {"moment_passages": 0, "moment_batches": 0}
    with _trainable(model.module):
        for batch in batches:
            texts = [tokens for tokens in batch if tokens.n_loss > 0]
            if not texts:
                continue
            _backward(model, texts)
            for name, parameter in model.module.named_parameters():
                _add_squares(sums[name], parameter, name, model.name)
            model.module.zero_grad(set_to_none=True)
            facts["moment_passages"] += len(texts)
            facts["moment_batches"] += 1
    if not facts["moment_batches"]:
        raise UserError(
            "no sampled passage has a token to predict",
            where="model.optimizer_state=estimate",
            fix="raise model.estimate_moments.passages",
        )
    n_batches = facts["moment_batches"]
    state = {
        name: {field: (total / n_batches).float() for field, total in fields.items()}
        for name, fields in sums.items()
    }
    return state, facts


def _zeros(parameter: Tensor) -> dict[str, Tensor]:
    """Zeros for the sums of one parameter, in float64."""
    shape = parameter.shape
    rooms = {"exp_avg_sq_row": shape[:-1], "exp_avg_sq_col": (*shape[:-2], *shape[-1:])}
    if parameter.ndim < 2:
        rooms = {"exp_avg_sq": shape}
    device = parameter.device
    return {
        name: torch.zeros(room, dtype=torch.float64, device=device) for name, room in rooms.items()
    }


def _backward(model: LanguageModel, texts: Sequence[Tokens]) -> None:
    """Leave the gradient of the batch's mean loss in the parameters' ``grad``."""
    n_tokens = sum(tokens.n_loss for tokens in texts)
    rising = sorted(texts, key=lambda tokens: len(tokens.ids))
    for part in parts_of((len(tokens.ids) for tokens in rising), _TOKENS_AT_ONCE):
        ids, labels = pad(rising[part], model.device)
        (-token_log_probs(model.module, ids, labels).sum() / n_tokens).backward()


def _add_squares(sums: dict[str, Tensor], parameter: Tensor, name: str, model: str) -> None:
    """Add one batch's squared gradient; a parameter that no token reaches has none."""
    if parameter.grad is None:
        return
    wide = torch.promote_types(parameter.dtype, torch.float32)
    squares = parameter.grad.to(wide).square()
    if not torch.isfinite(squares).all():
        raise UserError(
            f"the gradient of parameter {name} is NaN or infinite",
            where=f"model {model}",
            fix="use model.dtype=float32 or wider, or another checkpoint",
        )
    for field, total in sums.items():
        if field == "exp_avg_sq":
            total += squares
        else:
            total += squares.mean(-1 if field == "exp_avg_sq_row" else -2, dtype=torch.float64)


@contextmanager
def _trainable(module: nn.Module) -> Iterator[None]:
    """A context in which all parameters may have gradients, gone after it; eval mode stays."""
    try:
        module.requires_grad_(True)
        yield
    finally:
        module.requires_grad_(False)
        module.zero_grad(set_to_none=True)
