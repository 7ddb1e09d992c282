"""The plan of a cell: what a run will cost, before anything is done.

Nothing is trained, encoded or written. A corpus that is not here can be planned for by its numbers.
The method says what it costs (``Method.plan``); this module finds the numbers that it asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional, TypeVar

import torch
from omegaconf import OmegaConf
from transformers import PretrainedConfig

from bench.core import progress
from bench.core.errors import UserError
from bench.core.fields import check_ranges, part_of_key
from bench.core.typed import typed
from bench.engines import ENGINES
from bench.models.trained import Trained
from bench.plan.corpus import PASSAGES, QUERIES, TOKENS, Count, count_corpus
from bench.plan.fitting import PhaseMemory, phases_of
from bench.plan.measuring import measuring_passes, training_passes
from bench.plan.model import Speed, architecture_of, calibrate
from bench.run import composing
from bench.run.parts import model_source
from bench.run.settings import Settings, settings_from
from bench.storage.keys import content_key
from methods.base import Method
from methods.choosing import chosen
from methods.costs import Costs, Pass, PlannedRun
from methods.gradient.cost import Architecture

T = TypeVar("T")


@dataclass
class PlanConfig:
    """Settings of a plan, told instead of found out; see ``plan`` in ``conf/config.yaml``."""

    # omegaconf reads the annotations at run time
    passages: Optional[int] = part_of_key(at_least=1)  # noqa: UP045
    tokens_per_passage: Optional[float] = part_of_key(at_least=1)  # noqa: UP045
    queries: Optional[int] = part_of_key(at_least=1)  # noqa: UP045
    device_tflops: Optional[float] = part_of_key(above=0)  # noqa: UP045
    tokens_per_second: Optional[float] = part_of_key(above=0)  # noqa: UP045
    devices: int = part_of_key(at_least=1)
    model_devices: int = part_of_key(at_least=1)
    device_memory_gib: Optional[float] = part_of_key(above=0)  # noqa: UP045
    disk_gb_per_second: float = part_of_key(above=0)

    def check(self) -> None:
        """Refuse numbers out of range, and devices that are no whole number of models'."""
        check_ranges(self, "plan")
        if self.devices % self.model_devices:
            raise UserError(
                f"{self.devices} devices are no multiple of {self.model_devices}",
                where="plan.devices",
                fix="set it to how many devices there are in all, plan.model_devices for each copy "
                "of the model",
            )


@dataclass(frozen=True)
class Plan(Costs):
    """Everything that is printed.

    Attributes:
        title: task × model × method.
        counted: passages, tokens a passage, queries.
        index_key: a hash that cells with the same features of the same corpus share.
        model_key: a hash that cells with the same model, trained on the same corpus, share.
        flops_per_second: FLOPs that one device computes in a second.
        devices: number of devices; only steps that an engine shares out gain from more than one.
        model_devices: how many of them each copy of the model is spread over; one of these computes
            at a time.
        device_memory: bytes of memory of a device; None if it is not told.
        phases: what each phase holds in the memory of devices.
        disk_bytes_per_second: bytes of the index that one device reads or writes in a second.
        rate: how the speed is known, in words.
        notes: what the numbers leave out, a line each.
    """

    title: str
    counted: dict[str, Count]
    architecture: Architecture
    index_key: str
    model_key: str
    flops_per_second: float
    devices: int
    model_devices: int
    device_memory: float | None
    phases: list[PhaseMemory]
    disk_bytes_per_second: float
    rate: str
    notes: list[str]

    @property
    def passages(self) -> int:
        """Number of passages to rank."""
        return int(self.counted[PASSAGES].value)

    def device_hours(self, step: Pass) -> float:
        """Hours of arithmetic that one step takes, all devices together."""
        return step.flops / self.flops_per_second / 3600

    def hours(self, step: Pass) -> float:
        """Hours of arithmetic until one step is done."""
        return self.device_hours(step) / self._devices(step)

    def disk_hours(self, step: Pass) -> float:
        """Hours of reading and writing the index until one step is done."""
        moved = step.bytes_read + step.bytes_written
        return moved / self.disk_bytes_per_second / 3600 / self._devices(step)

    def _devices(self, step: Pass) -> int:
        return self.devices // self.model_devices if step.spread else 1

    @property
    def bottleneck(self) -> tuple[Pass, str, float]:
        """The step that takes longest, whether by ``arithmetic`` or ``disk``, and its hours."""
        both = [(step, "arithmetic", self.hours(step)) for step in self.passes]
        both += [(step, "disk", self.disk_hours(step)) for step in self.passes]
        return max(both, key=lambda timed: timed[2])

    @property
    def index_bytes(self) -> int:
        """Bytes of the index in the chosen format."""
        return self.storage.get(self.chosen, 0) * self.passages


def plan_settings(overrides: Sequence[str]) -> tuple[Settings, PlanConfig]:
    """Settings of a cell, as ``tdabench run`` would have them, and of its plan."""
    config = composing.composed(overrides, "plan")
    if "plan" not in config:
        raise UserError("nothing is chosen", where="plan", fix="leave the section in place")
    values: Any = OmegaConf.to_container(config.plan, resolve=True)
    settings = settings_from(config)
    progress.set_quiet(settings.quiet)
    plan = typed(PlanConfig, values or {}, "plan")
    plan.check()
    return settings, plan


class Known(dict[str, Any]):
    """Findings of the cells of a sweep, so that none is measured twice."""

    def once(self, what: Any, find: Callable[[], T]) -> T:
        """The first result of ``find`` for this JSON value."""
        key = content_key(what)
        if key not in self:
            self[key] = find()
        result: T = self[key]
        return result


def make_plan(settings: Settings, config: PlanConfig, known: Known | None = None) -> Plan:
    """Everything that can be known of a cell's cost before it runs.

    Args:
        known: findings of other cells; they are read and added to.

    Raises:
        UserError: as a run would, as far as it shows without a model.
    """
    known = Known() if known is None else known
    method_class, method = _checked_method(settings)
    source = model_source(settings)
    geometry = source.architecture()
    context_length = settings.model.get("context_length")
    adapter = settings.model.get("adapter")
    architecture = architecture_of(
        geometry, method, context_length, adapter and Path(adapter).expanduser()
    )
    data = [settings.task, settings.model, asdict(config)]
    given = given_counts(config)
    counted = known.once(data, lambda: count_corpus(settings, source, architecture, given))
    weights, gradients = _dtypes(settings)
    run = PlannedRun(
        passages=int(counted[PASSAGES].value),
        tokens=counted[TOKENS].value,
        queries=int(counted[QUERIES].value),
        top_k=settings.top_k,
        weights=weights,
        gradients=gradients,
        # A rate that is given is that of a device elsewhere, which is not the CPU at hand.
        device=torch.device(settings.device if config.device_tflops is None else "cuda"),
        apart=config.devices > 1 or ENGINES.get(settings.engine["name"]).apart,
    )
    costs = method_class.plan(method, architecture, run)
    size = source.training_size() if isinstance(source, Trained) else None
    steps = [
        *training_passes(size, architecture, run),
        *costs.passes,
        *measuring_passes(settings, size, architecture, run),
    ]
    speed = known.once(
        [*data, costs.batch_tokens],
        lambda: _speed(config, geometry, settings.device, run, costs.batch_tokens),
    )
    all_given = all(count.source.startswith("plan.") for count in counted.values())
    corpus = "given numbers" if all_given else settings.task["name"]
    return Plan(
        **{**vars(costs), "passes": steps},
        title=f"{corpus} × {settings.model['name']} × {settings.method['name']}",
        counted=counted,
        architecture=architecture,
        index_key=content_key([*data, costs.features]),
        model_key=content_key(data),
        flops_per_second=speed.flops_per_second,
        disk_bytes_per_second=config.disk_gb_per_second * 1e9,
        devices=config.devices,
        model_devices=config.model_devices,
        device_memory=config.device_memory_gib and config.device_memory_gib * 2**30,
        phases=list(phases_of(settings, architecture, run, costs.memory, config.model_devices)),
        rate=speed.how + (f", {config.devices:,} devices" if config.devices > 1 else ""),
        notes=list(_notes(settings, costs)),
    )


def given_counts(config: PlanConfig) -> dict[str, Count]:
    """The numbers of the corpus that a plan is told."""
    values = {
        PASSAGES: (config.passages, "plan.passages"),
        TOKENS: (config.tokens_per_passage, "plan.tokens_per_passage"),
        QUERIES: (config.queries, "plan.queries"),
    }
    return {name: Count(value, key) for name, (value, key) in values.items() if value is not None}


def _speed(
    config: PlanConfig, geometry: PretrainedConfig, device: str, run: PlannedRun, batch_tokens: int
) -> Speed:
    """The speed of a device: as given, or measured here."""
    if config.device_tflops is not None:
        rate = config.device_tflops * 1e12
        return Speed(rate, f"given: {_rate(rate)} sustained (plan.device_tflops)")
    timed = calibrate(
        geometry, dtype=run.gradients, device=device, tokens=run.tokens, batch_tokens=batch_tokens
    )
    rate = timed.flops_per_second
    return Speed(rate, f"calibrated here: {_rate(rate)} ({timed.how})")


def is_planned(settings: Settings) -> bool:
    """Whether a cell's method says what it costs."""
    return chosen(settings.method)[0].planned


def _checked_method(settings: Settings) -> tuple[type[Method], Any]:
    """The method's class and its configuration, checked as far as that goes without a model."""
    method_class, method = chosen(settings.method)
    if not method_class.planned:
        raise UserError(
            f"plan covers gradient methods only, and {settings.method['name']} is none",
            where="method",
            fix="set method=trackstar, or another one that projects gradients",
        )
    method_class.check_settings(method)
    return method_class, method


def _dtypes(settings: Settings) -> tuple[torch.dtype, torch.dtype]:
    """Dtypes of the loaded weights (float32 of models trained here) and of the gradients."""
    weights = getattr(torch, settings.model.get("dtype") or "float32")
    return weights, getattr(torch, settings.model.get("gradient_dtype") or "float32")


def _rate(flops_per_second: float) -> str:
    giga = flops_per_second / 1e9
    return f"{giga / 1000:,.4g} TFLOP/s" if giga >= 1e4 else f"{giga:,.3g} GFLOP/s"


def _optimizer(settings: Settings) -> str | None:
    """The optimizer of a model that is trained here; None of others."""
    model = settings.model
    name: str | None = model.get("train", {}).get("optimizer", model.get("optimizer"))
    return name


def _notes(settings: Settings, costs: Costs) -> Iterator[str]:
    stored, kind = costs.chosen in costs.storage, settings.model["source"]
    later = " A later command that opens the index reads all of it once, to check it."
    yield (
        "Hours are those of arithmetic at one rate for all steps; disk hours those of a disk at "
        "plan.disk_gb_per_second, and go on beside them. Engines share out what goes over the "
        "passages. A query is taken to be as long as a passage; a judge that metric.judge names is "
        "not counted." + later * stored
    )
    if settings.spans:
        yield (
            "The shares of tokens (spans=true) are not counted: a pass over up to 20 passages a "
            "query, one at a time."
        )
    has_own = kind != "directory"  # moments of their own training
    if costs.needs_moments and not has_own:
        state = settings.model.get("optimizer_state")
        if not state:
            yield "A run will need model.optimizer_state=FILE, or =estimate."
        if state == "estimate":
            yield (
                "Estimating the second moments is not counted: as much as training once on "
                f"{settings.model['estimate_moments']['passages']:,} passages."
            )
    if costs.needs_moments and (not has_own or _optimizer(settings) in ("adam", "adamw")):
        yield (
            "Second moments are taken as of rank one (Adafactor). With Adam's full ones encoding "
            "took 1.4 to 1.9 times as long; passages of fewer than 128 tokens take more."
        )
