"""The steps of a run around its method: training the model before, and measuring the lists after.

FLOPs are those of ``methods.gradient.cost``, and 2·N·T for the gradients of all weights. The update
of weights, element by element, is left out, as all such work is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from methods.costs import Pass, PlannedRun
from methods.gradient.cost import Architecture, backward_flops, forward_flops

if TYPE_CHECKING:
    from bench.models.trained import TrainingSize
    from bench.run.settings import Settings
    from metrics.settings import RetrainingConfig, TailPatchConfig

TRAIN = "train the model"  # a step that cells of one model share


def train_flops(architecture: Architecture, tokens: float, size: TrainingSize) -> float:
    """FLOPs of training on a text of T tokens: 6·N·T with weights, 12·a·T²·L for attention.

    That is a forward pass, a backward pass to the activations, and 2·N·T for the gradients of
    weights, which an adapter's hardly add to. Activations that are computed again cost one more
    forward pass. Symbols as in ``methods.gradient.cost``.
    """
    forward = forward_flops(architecture, tokens)
    weights = 0 if size.lora is not None else 2 * architecture.multiplied * tokens
    return forward * (2 if size.recompute else 1) + backward_flops(architecture, tokens) + weights


def training_passes(
    size: TrainingSize | None, architecture: Architecture, run: PlannedRun
) -> list[Pass]:
    """The training of a model that is trained here; nothing for one that is only read."""
    if size is None:
        return []
    rows = size.epochs * run.passages
    return [Pass(TRAIN, rows, rows * train_flops(architecture, run.tokens, size))]


def measuring_passes(
    settings: Settings, size: TrainingSize | None, architecture: Architecture, run: PlannedRun
) -> Iterator[Pass]:
    """The steps that measure a method's lists, in their order.

    - queries: q · a forward pass, for what the model says of each before any step;
    - tail-patch: of each asked query the first ``top`` proponents, a training step each, and a
      forward pass on the query after it. Passages that queries share are stepped on once: these
      are the most that there can be;
    - retraining: models · the training of the model.

    Args:
        size: of the model's training; None for a model that is only read.
    """
    metric = settings.metric
    ask = forward_flops(architecture, run.tokens)
    if metric.tail_patch.enabled:
        yield Pass("ask the queries before any step", run.queries, run.queries * ask)
        steps = _patched(metric.tail_patch, run)
        step = ask + backward_flops(architecture, run.tokens)
        step += 2 * architecture.multiplied * run.tokens  # of the gradients of weights
        yield Pass("tail-patch, at most", steps, steps * (step + ask), spread=True)
    if metric.retraining is not None:
        models = retrained_models(metric.retraining)
        for train in training_passes(size, architecture, run):
            name = f"train {models:,} models again"
            yield Pass(name, models * train.rows, models * train.flops, spread=True)


def _patched(config: TailPatchConfig, run: PlannedRun) -> int:
    """The number of pairs of a query and a passage to step on."""
    queries = run.queries if config.n_queries is None else min(run.queries, config.n_queries)
    return queries * min(config.top, run.passages) * (1 + config.opponents)


def retrained_models(config: RetrainingConfig) -> int:
    """The number of models that one method's retraining trains, at most: of each seed one on all
    passages, one without the first passages of each group and of each query, one on each subset.
    """
    groups = -(-config.removal_queries // config.removal_group)
    whole = bool(config.removal_queries or config.qld_queries)
    return config.seeds * (whole + groups + config.qld_queries + config.lds_subsets)
