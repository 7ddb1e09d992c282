"""Earlier moments of a training run, for methods that sum over training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from transformers import PreTrainedModel

from bench.core.errors import UserError
from bench.models import adapters
from bench.models.language_model import MOMENTS, Checkpoint, LanguageModel
from bench.models.loading import load_module, weights_sha256
from bench.models.parameter_names import adapter_names
from bench.models.second_moments import load_moments
from bench.storage.keys import content_key


def load_checkpoint(checkpoint: Checkpoint, model: LanguageModel) -> LanguageModel:
    """A checkpoint as a model of its own, with the tokenizer and settings of ``model``.

    Its second moments are those beside its weights or, where those of ``model`` are estimated,
    estimated in the same way.

    Raises:
        UserError: the checkpoint cannot be loaded, or is of another geometry than ``model``.
    """
    folder, sha256 = checkpoint.folder, weights_sha256(checkpoint.folder)
    if (folder / adapters.WEIGHTS).is_file() and adapter_names(model.module):
        module = adapters.with_other_weights(cast("PreTrainedModel", model.module), folder)
        sha256 = content_key([model.sha256, sha256], length=64)
    else:
        module = load_module(folder, next(model.module.parameters()).dtype, model.device)
    ours = {name: p.shape for name, p in model.module.named_parameters()}
    if ours != {name: p.shape for name, p in module.named_parameters()}:
        raise UserError(
            "is not a checkpoint of this model: its parameters have other names or shapes",
            where=str(folder),
            fix=f"give checkpoints of the training of model {model.name}",
        )
    moments, state = folder / MOMENTS, None
    if moments.exists():
        state = load_moments(moments, module, model.adam_epsilon, model.adam_beta2)
    earlier = replace(
        model,
        module=module,
        sha256=sha256,
        second_moments=state,
        learning_rate=checkpoint.learning_rate,
        checkpoints=(),
    )
    if state is None and model.estimate is not None:
        return model.estimate(earlier)
    return earlier


def spread_checkpoints(model: LanguageModel, n: int) -> Sequence[Checkpoint]:
    """``n - 1`` checkpoints evenly spaced over training; the model itself is the last of the n.

    Raises:
        UserError: the model has fewer.
    """
    total = len(model.checkpoints) + 1
    if n > total:
        raise UserError(
            f"{n} checkpoints are asked for, and the model has {total}, the last included",
            where="method.checkpoints",
            fix="ask for fewer, train a model here (model=tiny), or list model.checkpoints",
        )
    # Of places 1 to total, the last of which is the model itself: n evenly spaced ones.
    return [model.checkpoints[(i + 1) * total // n - 1] for i in range(n - 1)]
