"""``tdabench plan``: what a run with a gradient method will cost, before anything is done.

Nothing is trained, encoded or written. A corpus that is not here can be planned for by its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Optional, TypeVar

import torch
from omegaconf import OmegaConf
from transformers import PretrainedConfig

from bench.core import progress
from bench.core.errors import UserError, at_least
from bench.core.typed import typed
from bench.engines import ENGINES
from bench.plan.corpus import PASSAGES, QUERIES, TOKENS, Fact, count
from bench.plan.model import Speed, architecture_of, calibrate
from bench.run import composing
from bench.run.settings import Settings, settings_from
from bench.storage.keys import content_key
from methods import METHODS
from methods.gradient.codecs import Storage, make_codec
from methods.gradient.cost import Architecture, Choices, Pass, Workload, memory, passes
from methods.gradient.hessian import MAX_BLOCK
from methods.gradient.method import COUNTS, Gradient, feature_settings
from methods.gradient.search import MemoryPlan
from methods.vector_search import MARGIN

T = TypeVar("T")
_OF_MATRICES = ("adapters", "unsupported", "block_layout", "layers")


@dataclass
class PlanConfig:
    """What plan is told instead of finding out; defaults and reasons in ``conf/config.yaml``."""

    passages: Optional[int]  # noqa: UP045 - omegaconf reads the annotation at run time
    tokens_per_passage: Optional[float]  # noqa: UP045
    queries: Optional[int]  # noqa: UP045
    device_tflops: Optional[float]  # noqa: UP045
    devices: int
    disk_gb_per_second: float


@dataclass(frozen=True)
class Plan:
    """Everything that is printed.

    Attributes:
        title: task × model × method.
        counted: passages, tokens a passage, queries.
        storage: bytes a passage of each format.
        chosen: the format that a run would use; ``none`` stores nothing.
        features: a hash that cells with the same features of the same corpus share.
        memory: bytes by purpose.
        flops_per_second: of one device.
        devices: how many; only what an engine shares out gains from more than one.
        disk_bytes_per_second: of what one device reads and writes of the index.
        rate: how that is known.
        notes: what the numbers leave out, a line each.
    """

    title: str
    counted: dict[str, Fact]
    architecture: Architecture
    blocks: list[int]
    passes: list[Pass]
    storage: dict[str, int]
    chosen: str
    features: str
    memory: dict[str, int]
    flops_per_second: float
    devices: int
    disk_bytes_per_second: float
    rate: str
    notes: list[str]

    @property
    def passages(self) -> int:
        """How many there are to rank."""
        return int(self.counted[PASSAGES].value)

    def device_hours(self, step: Pass) -> float:
        """Of arithmetic, of one step, all devices together."""
        return step.flops / self.flops_per_second / 3600

    def hours(self, step: Pass) -> float:
        """Of arithmetic, of one step, until it is done."""
        return self.device_hours(step) / self._devices(step)

    def disk_hours(self, step: Pass) -> float:
        """Of reading and writing the index, of one step, until it is done."""
        moved = step.bytes_read + step.bytes_written
        return moved / self.disk_bytes_per_second / 3600 / self._devices(step)

    def _devices(self, step: Pass) -> int:
        return self.devices if step.spread else 1

    @property
    def bottleneck(self) -> tuple[Pass, str, float]:
        """The step that takes longest, whether by ``arithmetic`` or ``disk``, and its hours."""
        both = [(step, "arithmetic", self.hours(step)) for step in self.passes]
        both += [(step, "disk", self.disk_hours(step)) for step in self.passes]
        return max(both, key=lambda found: found[2])

    @property
    def index_bytes(self) -> int:
        """Of the index in the chosen format."""
        return self.storage.get(self.chosen, 0) * self.passages


def composed(overrides: Sequence[str]) -> tuple[Settings, PlanConfig]:
    """The settings of a cell as ``tdabench run`` would have them, and those of the plan."""
    config = composing.composed(overrides, "plan")
    if "plan" not in config:
        raise UserError("nothing is chosen", where="plan", fix="leave the section in place")
    plan = OmegaConf.to_container(config.plan, resolve=True)
    settings = settings_from(config)
    progress.set_quiet(settings.quiet)
    return settings, _checked(typed(PlanConfig, dict(plan or {}), "plan"))  # type: ignore[arg-type]


class Known(dict[str, Any]):
    """What one cell of a sweep has found out, so that the next does not measure it again."""

    def once(self, what: Any, find: Callable[[], T]) -> T:
        """The first result of ``find`` for this JSON value."""
        key = content_key(what)
        if key not in self:
            self[key] = find()
        found: T = self[key]
        return found


def _checked(config: PlanConfig) -> PlanConfig:
    for name in ("passages", "tokens_per_passage", "queries", "devices"):
        value = getattr(config, name)
        if value is not None and not (value >= 1 and math.isfinite(value)):
            raise UserError(f"expected at least 1, found {value}", where=f"plan.{name}")
    for name in ("device_tflops", "disk_gb_per_second"):
        rate = getattr(config, name)
        if rate is not None and not (rate > 0 and math.isfinite(rate)):
            raise UserError(f"expected more than 0, found {rate}", where=f"plan.{name}")
    return config


def make_plan(settings: Settings, config: PlanConfig, known: Known | None = None) -> Plan:
    """Everything that can be known of a cell's cost before it runs.

    Args:
        known: of other cells; it is read and added to.

    Raises:
        UserError: as a run would, as far as it shows without a model.
    """
    known = Known() if known is None else known
    method = _checked_method(settings)
    # A rate that is given is that of a device elsewhere, which is not the CPU at hand.
    device = torch.device(settings.device if config.device_tflops is None else "cuda")
    choices = Choices.of(settings.method, device)
    name, kind = settings.model["name"], settings.model["source"]
    source = composing.model_source(settings)
    geometry = source.architecture()
    options = {name: getattr(method, name) for name in _OF_MATRICES}
    asked = settings.model.get("context_length")
    architecture = architecture_of(geometry, method.layer_blocks, asked, **options)
    blocks, dim = choices.blocks(architecture), choices.dim(architecture)
    _refuse_large_blocks(choices, blocks)
    data = [settings.task, settings.model, asdict(config)]
    counted = known.once(data, lambda: count(settings, source, architecture, _given(config)))
    weights, gradients = _dtypes(settings)
    wide = torch.float64 if gradients == torch.float64 else torch.float32
    n_queries = int(counted[QUERIES].value)
    held = MemoryPlan.of(method.memory_mib, n_queries, dim, wide)
    workload = Workload(
        passages=int(counted[PASSAGES].value),
        tokens=counted[TOKENS].value,
        queries=n_queries,
        together=held.queries,
        candidates=_candidates(settings, method),
    )
    _refuse_groups_without_index(choices, workload, dim, wide)
    storage = {
        f.value: make_codec(f, dim, weighted=choices.weighted).bytes_per_row
        for f in Storage
        if f is not Storage.none
    }
    sizes = {"weight_bytes": weights.itemsize, "gradient_bytes": gradients.itemsize}
    tokens, batch_tokens = workload.tokens, choices.batch_tokens
    speed = known.once(
        [*data, batch_tokens],
        lambda: _speed(settings, config, geometry, gradients, tokens, batch_tokens),
    )
    features = {key: getattr(v, "value", v) for key, v in vars(feature_settings(method)).items()}
    apart = config.devices > 1 or ENGINES.get(settings.engine["name"]).apart
    row_bytes = storage.get(choices.storage, 0)
    given = all(fact.source.startswith("plan.") for fact in counted.values())
    corpus = "given numbers" if given else settings.task["name"]
    return Plan(
        title=f"{corpus} × {name} × {settings.method['name']}",
        counted=counted,
        architecture=architecture,
        blocks=blocks,
        passes=passes(architecture, workload, choices, row_bytes, apart=apart),
        storage=storage,
        chosen=choices.storage,
        features=content_key([*data, features]),
        memory=memory(architecture, workload, choices, block_rows=held.rows, **sizes),
        flops_per_second=speed.flops_per_second,
        disk_bytes_per_second=config.disk_gb_per_second * 1e9,
        devices=config.devices,
        rate=speed.how + (f", {config.devices:,} devices" if config.devices > 1 else ""),
        notes=list(_notes(settings, kind)),
    )


def _given(config: PlanConfig) -> dict[str, Fact]:
    values = {
        PASSAGES: (config.passages, "plan.passages"),
        TOKENS: (config.tokens_per_passage, "plan.tokens_per_passage"),
        QUERIES: (config.queries, "plan.queries"),
    }
    return {name: Fact(value, key) for name, (value, key) in values.items() if value is not None}


def _speed(
    settings: Settings,
    config: PlanConfig,
    geometry: PretrainedConfig,
    dtype: torch.dtype,
    tokens: float,
    batch_tokens: int,
) -> Speed:
    """As given, or measured here."""
    if config.device_tflops is not None:
        rate = config.device_tflops * 1e12
        return Speed(rate, f"given: {_rate(rate)} sustained (plan.device_tflops)")
    device = settings.device
    found = calibrate(
        geometry, dtype=dtype, device=device, tokens=tokens, batch_tokens=batch_tokens
    )
    rate = found.flops_per_second
    return Speed(rate, f"calibrated here: {_rate(rate)} ({found.how})")


def is_planned(settings: Settings) -> bool:
    """Whether a cell's method is one whose costs are known here."""
    method_class = METHODS.get(settings.method.get("target") or settings.method["name"])
    return issubclass(method_class, Gradient)


def _checked_method(settings: Settings) -> Any:
    """The method's configuration, checked as far as costs depend on it."""
    method_class = METHODS.get(settings.method.get("target") or settings.method["name"])
    if not is_planned(settings):
        raise UserError(
            f"plan covers gradient methods only, and {settings.method['name']} is none",
            where="method",
            fix="set method=trackstar, or another one that projects gradients",
        )
    config = typed(method_class.Config, settings.method, "method", ("name", "target"))
    for name in COUNTS:  # the method's own check asks the model, which is not there
        at_least(1, f"method.{name}", getattr(config, name))
    return config


def _candidates(settings: Settings, method: Any) -> int:
    """Passages a query that are scored twice: at both ends, with a margin, or those of rerank."""
    highest = max(settings.top_k + MARGIN, method.rerank or 0)
    return highest + (max(method.opponents + MARGIN, method.rerank or 0) if method.opponents else 0)


def _refuse_large_blocks(choices: Choices, blocks: Sequence[int]) -> None:
    if choices.hessian != "none" and choices.hessian_form == "full" and max(blocks) > MAX_BLOCK:
        raise UserError(
            f"a Hessian block of {max(blocks):,} dimensions is larger than {MAX_BLOCK:,}",
            where="method.projection_dim",
            fix="set projection_dim to 90 or less, or method.hessian_form=low_rank or diagonal",
        )


def _refuse_groups_without_index(
    choices: Choices, workload: Workload, dim: int, dtype: torch.dtype
) -> None:
    if choices.storage == "none" and workload.groups > 1:
        needed = -(-2 * workload.queries * dim * (12 + dtype.itemsize) // 2**20)
        raise UserError(
            f"storage=none takes a single pass, and {workload.queries:,} queries do not fit",
            where="method.memory_mib",
            fix=f"set method.memory_mib={needed}, or method.storage to keep an index",
        )


def _dtypes(settings: Settings) -> tuple[torch.dtype, torch.dtype]:
    """Of the weights as loaded (models trained here: float32) and of the gradients."""
    weights = getattr(torch, settings.model.get("dtype") or "float32")
    return weights, getattr(torch, settings.model.get("gradient_dtype") or "float32")


def _rate(flops_per_second: float) -> str:
    giga = flops_per_second / 1e9
    return f"{giga / 1000:,.4g} TFLOP/s" if giga >= 1e4 else f"{giga:,.3g} GFLOP/s"


def _notes(settings: Settings, kind: str) -> Iterator[str]:
    stored = settings.method["storage"] != Storage.none.value
    later = " A later command that opens the index reads all of it once, to check it."
    yield (
        "Hours are those of arithmetic at one rate for all steps; disk hours those of a disk at "
        "plan.disk_gb_per_second, and go on beside them. Engines share out the encoding alone. A "
        "query is taken to be as long as a passage." + later * stored
    )
    if kind == "scratch":
        yield "Training the model, which a first run does, is not counted."
    corrected = settings.method["optimizer_correction"]
    if corrected and kind != "scratch":
        state = settings.model.get("optimizer_state")
        if not state:
            yield "A run will need model.optimizer_state=FILE, or =estimate."
        if state == "estimate":
            yield (
                "Estimating the second moments is not counted: as much as training once on "
                f"{settings.model['estimate_moments']['passages']:,} passages."
            )
    if corrected and (kind != "scratch" or settings.model["optimizer"] == "adam"):
        yield (
            "Second moments are taken as of rank one (Adafactor). With Adam's full ones encoding "
            "took 1.4 to 1.9 times as long; passages of fewer than 128 tokens take more."
        )
