"""From Hydra's composed configuration to typed, validated settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationResolutionError,
)

from bench.core.errors import UserError, at_least, first_line
from bench.core.typed import typed
from bench.storage.files import refuse_address
from bench.storage.mirror import Mirror, mirrors
from metrics.attribution import NoGold
from metrics.judges import JUDGES
from metrics.retraining import RetrainingConfig
from metrics.stats.sampling import Cluster
from metrics.tail_patch import TailPatchConfig

_GROUPS = ("task", "model", "method", "metric", "logger", "engine")
# Left out of the settings where null: cells that were made before there were any keep their keys.
_WHERE_SET = ("judge", "retraining")


@dataclass
class MetricConfig:
    """What is measured; defaults and reasons in ``conf/metric``.

    Attributes:
        judge: ``name`` and settings of a judge, None for the task's annotation. It has a default
            here, as ``retraining`` has, so that files of older versions still fit.
        retraining: None = no model is trained again.
    """

    attribution: list[str]
    no_gold: NoGold
    bootstrap_samples: int
    cluster: Cluster
    tail_patch: TailPatchConfig
    judge: Optional[dict[str, Any]] = None  # noqa: UP045 - omegaconf reads it at run time
    retraining: Optional[RetrainingConfig] = None  # noqa: UP045


@dataclass
class LoggerConfig:
    """Where finished cells are mirrored; reasons in ``conf/logger``."""

    name: str
    project: str = "tdabench"
    group: str | None = None
    mode: str = "offline"


@dataclass
class _Common:
    """The keys outside every group; defaults and reasons in ``conf/config.yaml``."""

    seed: int
    top_k: int
    results_dir: str
    cache_dir: str
    device: str
    quiet: bool
    # Has a default here so that files of older versions still fit.
    remote_dir: Optional[str] = None  # noqa: UP045


@dataclass(frozen=True)
class Settings:
    """One cell's settings.

    Attributes:
        resolved: everything with plain values, as written to ``config.yaml``.
        task, model, method, engine: their own keys, unvalidated until their class is known.
        results, cache: the copies of ``results_dir`` and ``cache_dir`` in a store, if there is one.
    """

    resolved: dict[str, Any]
    task: dict[str, Any]
    model: dict[str, Any]
    method: dict[str, Any]
    metric: MetricConfig
    logger: LoggerConfig
    engine: dict[str, Any]
    seed: int
    top_k: int
    results_dir: Path
    cache_dir: Path
    device: str
    quiet: bool
    results: Mirror
    cache: Mirror


def _refuse_repeated(metrics: list[str]) -> None:
    repeated = [name for name in metrics if metrics.count(name) > 1]
    if repeated:
        raise UserError(
            f"{repeated[0]} is named twice", where="metric.attribution", fix="name it once"
        )


def settings_from(config: DictConfig) -> Settings:
    """Resolve and check the composed configuration.

    Raises:
        UserError: an unresolved interpolation, an unknown key, a group without a choice, or a
            value of the wrong type or out of range.
    """
    try:
        resolved = OmegaConf.to_container(config, resolve=True)
    except InterpolationResolutionError as error:
        raise UserError(first_line(error), fix="check the ${...} in your overrides") from error
    assert isinstance(resolved, dict)
    plain = {str(key): value for key, value in resolved.items()}
    plain.pop("experiment", None)
    plain.pop("plan", None)  # of `tdabench plan` alone: no part of a cell
    for group in _GROUPS:
        if not isinstance(plain.get(group), dict):
            raise UserError("nothing is chosen", where=group, fix=f"set {group}=NAME")
    plain["metric"] = _spelled_out(plain["metric"])
    common = typed(_Common, plain, "", drop=_GROUPS)
    metric = typed(MetricConfig, plain["metric"], "metric")
    patch = metric.tail_patch
    plain["metric"]["tail_patch"] = _identifying(plain["metric"]["tail_patch"])
    for folder in ("results_dir", "cache_dir"):
        refuse_address(getattr(common, folder), folder)
    at_least(0, "seed", common.seed)
    at_least(1, "top_k", common.top_k)
    at_least(1, "metric.bootstrap_samples", metric.bootstrap_samples)
    _refuse_repeated(metric.attribution)
    at_least(1, "metric.tail_patch.top", patch.top)
    at_least(1, "metric.tail_patch.n_queries", patch.n_queries)
    at_least(0, "metric.tail_patch.memory_mib", patch.memory_mib)
    patch.check()
    results_dir = Path(common.results_dir).expanduser()
    cache_dir = Path(common.cache_dir).expanduser()
    results, cache = mirrors(common.remote_dir, results_dir, cache_dir)
    return Settings(
        resolved=plain,
        task=plain["task"],
        model=plain["model"],
        method=plain["method"],
        metric=metric,
        logger=typed(LoggerConfig, plain["logger"], "logger"),
        engine=plain["engine"],
        seed=common.seed,
        top_k=common.top_k,
        results_dir=results_dir,
        cache_dir=cache_dir,
        device=_device(common.device),
        quiet=common.quiet,
        results=results,
        cache=cache,
    )


def _identifying(patch: dict[str, Any]) -> dict[str, Any]:
    """Tail-patch's settings that its values depend on: the others are no part of a cell's key."""
    left_out = {"memory_mib"} | (set() if patch.get("opponents") else {"opponents"})
    return {key: value for key, value in patch.items() if key not in left_out}


def _spelled_out(metric: dict[str, Any]) -> dict[str, Any]:
    """The metrics' settings with the judge's own spelled out, whether it was named or configured.

    What is not used is left out, not null: a cell's key is a hash of these settings.
    """
    metric = {k: v for k, v in metric.items() if k not in _WHERE_SET or v is not None}
    given = metric.get("judge")
    rest = {key: value for key, value in metric.items() if key != "judge"}
    if given is None:
        return rest
    judge = {"name": given} if isinstance(given, str) else given
    if not isinstance(judge, dict) or not isinstance(judge.get("name"), str):
        raise UserError(
            f"expected a judge's name, or settings with a name, found {given!r:.60}",
            where="metric.judge",
            fix=f"known: null, {', '.join(JUDGES)}",
        )
    settings = typed(JUDGES.get(judge["name"]).Config, judge, "metric.judge", ("name",))
    return {**rest, "judge": {"name": judge["name"], **asdict(settings)}}


def _device(name: str) -> str:
    import torch  # slow to import: only where a cell runs

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {name!r} cannot be used ({first_line(error)})", where="device", fix="try auto"
        ) from error
    return name
