"""Typed, validated settings, made of Hydra's composed configuration without a model library."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from bench.core.errors import UserError, at_least, first_line
from bench.core.typed import typed
from bench.engines import ENGINES
from bench.run.loggers import LoggerConfig, check_logger
from bench.run.values import check_values
from bench.storage.files import refuse_address
from bench.storage.mirror import Mirror, mirrors
from bench.tasks import TASKS
from methods import METHODS
from metrics.judges import JUDGES
from metrics.settings import MetricConfig

_GROUPS = ("task", "model", "method", "metric", "logger", "engine")
_NAMED = ("task", "model", "method", "engine")  # their other keys depend on which one is chosen


@dataclass
class _Common:
    """The keys outside every group; defaults and reasons in ``conf/config.yaml``."""

    seed: int
    top_k: int
    results_dir: str
    cache_dir: str
    remote_dir: str | None
    device: str
    quiet: bool
    spans: bool


@dataclass(frozen=True)
class Settings:
    """The settings of one cell.

    Attributes:
        resolved: everything with plain values, as written to ``config.yaml``.
        task, model, method, engine: their own keys, unvalidated until their class is known.
        device_name: the name of a torch device, or ``auto``.
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
    device_name: str
    quiet: bool
    spans: bool
    results: Mirror
    cache: Mirror

    @property
    def device(self) -> str:
        """The torch device, ``auto`` resolved; importing torch takes seconds.

        Raises:
            UserError: torch cannot use it.
        """
        return _device(self.device_name)


def settings_from(config: DictConfig) -> Settings:
    """Resolve and check the composed configuration, as far as it shows without a model library.

    Raises:
        UserError: an unresolved interpolation, an unknown key, a group without a choice, or a
            value of the wrong type or out of range.
    """
    try:
        resolved = OmegaConf.to_container(config, resolve=True)
    except InterpolationResolutionError as error:
        raise UserError(first_line(error), fix="check the ${...} in your overrides") from error
    assert isinstance(resolved, dict)
    # An experiment is spelled out by now, and `plan` is of `tdabench plan` alone.
    plain = {
        str(key): value for key, value in resolved.items() if key not in ("experiment", "plan")
    }
    for group in _GROUPS:
        if not isinstance(plain.get(group), dict):
            raise UserError("nothing is chosen", where=group, fix=f"set {group}=NAME")
    for group in _NAMED:
        if not isinstance(plain[group].get("name"), str):
            raise UserError("has no name", where=group, fix=f"set {group}=NAME")
    for group, registry in (("task", TASKS), ("method", METHODS), ("engine", ENGINES)):
        plain[group] = registry.undescribed(plain[group])
    common = typed(_Common, plain, "", drop=_GROUPS)
    for folder in ("results_dir", "cache_dir"):
        refuse_address(getattr(common, folder), folder)
    at_least(0, "seed", common.seed)
    at_least(1, "top_k", common.top_k)
    plain["metric"]["judge"] = _spelled_out(plain["metric"].get("judge"))
    metric = typed(MetricConfig, plain["metric"], "metric")
    metric.check(common.top_k)
    from metrics.attribution import parse_metric  # imports pandas: not needed for a wrong key

    for name in metric.attribution:
        parse_metric(name)
    logger = typed(LoggerConfig, plain["logger"], "logger")
    check_logger(logger)
    check_values(plain, common.spans)
    results_dir = Path(common.results_dir).expanduser()
    cache_dir = Path(common.cache_dir).expanduser()
    results, cache = mirrors(common.remote_dir, results_dir, cache_dir)
    return Settings(
        resolved=plain,
        task=plain["task"],
        model=plain["model"],
        method=plain["method"],
        metric=metric,
        logger=logger,
        engine=plain["engine"],
        seed=common.seed,
        top_k=common.top_k,
        results_dir=results_dir,
        cache_dir=cache_dir,
        device_name=common.device,
        quiet=common.quiet,
        spans=common.spans,
        results=results,
        cache=cache,
    )


def _spelled_out(given: Any) -> dict[str, Any] | None:
    """The judge's name and all of its settings, whether it was only named or also configured.

    Raises:
        UserError: neither a name nor settings with one, an unknown judge, or settings that are
            none of its own.
    """
    if given is None:
        return None
    judge = {"name": given} if isinstance(given, str) else given
    if not isinstance(judge, dict) or not isinstance(judge.get("name"), str):
        raise UserError(
            f"expected a judge's name, or settings with a name, found {given!r:.60}",
            where="metric.judge",
            fix=f"known: null, {', '.join(JUDGES)}",
        )
    settings = typed(JUDGES.get(judge["name"]).Config, judge, "metric.judge", ("name",))
    return {"name": judge["name"], **asdict(settings)}


@cache
def _device(name: str) -> str:
    """See ``Settings.device``."""
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        is_no_name = reason.startswith("Expected one of")  # torch lists two dozen kinds
        raise UserError(
            f"device {name!r} cannot be used{'' if is_no_name else f' ({reason})'}",
            where="device",
            fix="set it to auto, cpu or cuda",
        ) from error
    return name
