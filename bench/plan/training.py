"""The plan of a training: steps, FLOPs, memory and hours, before there are weights.

The model is laid out without memory. Nothing is trained or written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from rich.text import Text
from torch import nn
from transformers import PreTrainedModel

from bench.core import console
from bench.core.escape import clean
from bench.models.adapters import new_adapter
from bench.models.padding import most_tokens
from bench.models.sizes import laid_out
from bench.models.trained import Trained, TrainingSize
from bench.plan.corpus import PASSAGES, TOKENS, Count, count_corpus
from bench.plan.measuring import train_flops
from bench.plan.model import EVERY_MATRIX, Speed, architecture_of, calibrate
from bench.plan.planning import PlanConfig, given_counts
from bench.plan.table import hours, in_binary, in_decimal, numbers_table
from bench.run.parts import model_source
from bench.run.settings import Settings
from methods.gradient.cost import Architecture

# Bytes that a token leaves in a layer for its backward pass in half precision: 34 h + 5 a s, h the
# width, a the heads, s the tokens of a text (Korthikanti et al., arXiv 2205.05198, equation 1).
_PER_WIDTH, _PER_SCORE = 34, 5
_LOGIT_BYTES = 14  # of one logit: in half precision, in float32, its exponent and its gradient


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that is printed.

    Attributes:
        title: the task and the model.
        counted: passages and tokens a passage.
        parameters, trained: the number of all parameters, and of those that are trained.
        epochs: the most epochs.
        steps: steps of all epochs.
        tokens: tokens of all epochs.
        flops: FLOPs of all epochs.
        memory: bytes by what they hold.
        disk: bytes of all epochs' checkpoints, with their moments.
        tokens_per_second: tokens that are trained on in a second.
        rate: how that is known, in words.
    """

    title: str
    counted: dict[str, Count]
    parameters: int
    trained: int
    epochs: int
    steps: int
    tokens: float
    flops: float
    memory: dict[str, float]
    disk: float
    tokens_per_second: float
    rate: str

    @property
    def hours(self) -> float:
        """Hours of all epochs."""
        return self.tokens / self.tokens_per_second / 3600


def plan_training(settings: Settings, config: PlanConfig) -> TrainingPlan:
    """Everything that can be known of a training's cost before it begins.

    Raises:
        UserError: the model is not trained here, or as a training would, as far as it shows.
    """
    source = model_source(settings)
    source.check_training()
    assert isinstance(source, Trained)
    size, geometry = source.training_size(), source.architecture()
    architecture = architecture_of(geometry, EVERY_MATRIX, settings.model.get("context_length"))
    counted = count_corpus(settings, source, architecture, given_counts(config))
    counted = {name: counted[name] for name in (PASSAGES, TOKENS)}
    passages, tokens = counted[PASSAGES].value, counted[TOKENS].value
    module = laid_out(geometry)
    if size.lora is not None:
        new_adapter(
            cast("PreTrainedModel", module), size.lora.rank or 0, size.lora.alpha, size.lora.targets
        )
    trained = [p for p in module.parameters() if p.requires_grad]
    a_token = train_flops(architecture, tokens, size) / tokens
    if config.tokens_per_second is not None:
        speed = Speed(config.tokens_per_second * a_token, "given (plan.tokens_per_second)")
    elif config.device_tflops is not None:
        rate = config.device_tflops * 1e12
        speed = Speed(rate, f"at {config.device_tflops:g} TFLOP/s sustained (plan.device_tflops)")
    else:
        dtype = torch.bfloat16 if size.half else torch.float32
        speed = calibrate(
            geometry, dtype=dtype, device=settings.device, tokens=tokens,
            batch_tokens=int(_pass_tokens(size, tokens)),
        )  # fmt: skip
    epochs_tokens = size.epochs * passages * tokens
    moments = _optimizer_bytes(trained, size.optimizer)
    weights = 4 * sum(p.numel() for p in trained)
    return TrainingPlan(
        title=f"train {settings.model['name']} on {settings.task['name']}",
        counted=counted,
        parameters=architecture.parameters,
        trained=sum(p.numel() for p in trained),
        epochs=size.epochs,
        steps=size.epochs * math.ceil(passages * tokens / _step_tokens(size, tokens)),
        tokens=epochs_tokens,
        flops=epochs_tokens * a_token,
        memory=dict(_memory(architecture, size, tokens, trained, moments)),
        disk=size.epochs * (weights + moments),
        tokens_per_second=speed.flops_per_second / a_token,
        rate=speed.how,
    )


def _pass_tokens(size: TrainingSize, tokens: float) -> float:
    """Tokens of a forward pass."""
    batch = size.batch
    return batch.texts * tokens if batch.texts is not None else float(batch.tokens or 0)


def _step_tokens(size: TrainingSize, tokens: float) -> float:
    return _pass_tokens(size, tokens) * size.batch.passes


def _optimizer_bytes(trained: list[nn.Parameter], optimizer: str) -> float:
    """Bytes of an optimizer's float32 state: of Adafactor rows and columns, of Adam two moments."""
    if optimizer != "adafactor":
        return 8.0 * sum(p.numel() for p in trained)
    return 4.0 * sum(
        p.numel() // p.shape[-1] + p.numel() // p.shape[-2] if p.ndim > 1 else p.numel()
        for p in trained
    )


def _memory(
    architecture: Architecture,
    size: TrainingSize,
    tokens: float,
    trained: list[nn.Parameter],
    moments: float,
) -> Iterator[tuple[str, float]]:
    """Bytes of a training by what they hold; those of activations are about right."""
    wide = 1 if size.half else 2  # half precision, or float32
    passed, layers = _pass_tokens(size, tokens), architecture.n_layers
    if size.batch.texts is not None:
        passed = min(passed, max(tokens, most_tokens(architecture.vocab_size)))
    heads = architecture.attention_width / 64  # of a usual width
    a_layer = wide * (_PER_WIDTH * architecture.hidden_size + _PER_SCORE * heads * tokens)
    kept = (
        2 * wide * architecture.hidden_size * layers + a_layer
        if size.recompute
        else layers * a_layer
    )
    yield "weights", 4.0 * architecture.parameters
    if size.half:
        yield "weights in half precision", 2.0 * architecture.parameters
    yield "gradients", 4.0 * sum(p.numel() for p in trained)
    yield f"state of {size.optimizer}", moments
    yield "activations of a pass, about", passed * kept
    yield "logits of a pass, about", passed * _LOGIT_BYTES * architecture.vocab_size


def print_training(plan: TrainingPlan) -> None:
    """Print the plan on standard output."""
    screen = console.stdout()
    screen.print(Text(f"plan: {clean(plan.title)}", style="bold"), "", sep="\n")
    sizes = numbers_table("what there is", ("", "number", "from"))
    for name, fact in plan.counted.items():
        sizes.add_row(name, f"{fact.value:,.1f}".removesuffix(".0"), clean(fact.source))
    sizes.add_row("parameters", f"{plan.parameters:,}", "model")
    sizes.add_row("parameters that are trained", f"{plan.trained:,}", "model.train")
    work = numbers_table("all epochs", ("", "number"))
    work.add_row("epochs", f"{plan.epochs:,}")
    work.add_row("steps", f"{plan.steps:,}")
    work.add_row("tokens", f"{plan.tokens:.3g}")
    work.add_row("FLOPs", f"{plan.flops:.3g}")
    work.add_row("tokens a second", f"{plan.tokens_per_second:,.0f}")
    work.add_row("hours", hours(plan.hours))
    work.add_row("checkpoints on disk", in_decimal(plan.disk))
    memory = numbers_table("memory of one device", ("", "bytes"))
    for name, size in plan.memory.items():
        memory.add_row(name, in_binary(size))
    memory.add_section()
    memory.add_row("together", in_binary(sum(plan.memory.values())))
    for table in (sizes, work, memory):
        screen.print(table)
    note = (
        "One device trains; hours are those of its arithmetic, checkpoints and questions are not "
        "counted. A training that reaches model.train.until ends sooner."
    )
    screen.print(Text(clean(plan.rate)), Text(note), sep="\n", soft_wrap=True)
