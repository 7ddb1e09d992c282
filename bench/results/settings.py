"""The settings in a cell's ``config.yaml`` that its numbers are checked by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.fields import marks
from bench.results.schema import CONFIG, ENTAILED
from bench.storage.documents import read_yaml
from metrics.settings import Cluster, MetricConfig, NoGold, TailPatchConfig

Config = dict[str, Any]


@dataclass(frozen=True)
class MeasuredBy:
    """The settings of a cell's metrics.

    Attributes:
        samples: number of bootstrap resamples of the intervals.
        without_gold: the score of a query that has no correct passage: NaN or 0.
        attribution: the names of the attribution metrics.
        judged: whether a judge was asked, and not the annotation.
        threshold: a passage is correct above this score of the judge.
        cluster: by what queries hang together, for the intervals.
        steps: whether a training step on the proponents was made.
        top: proponents of a query that were stepped on.
        retrains: whether models were trained again.
    """

    samples: int
    without_gold: float
    attribution: tuple[str, ...]
    judged: bool
    threshold: float
    cluster: Cluster
    steps: bool
    top: int
    retrains: bool


def read_config(folder: Path) -> Config:
    """What ``config.yaml`` of a cell holds.

    Raises:
        UserError: it cannot be read, or is no table of settings.
    """
    config = read_yaml(folder / CONFIG)
    if not isinstance(config, dict):
        raise UserError("is no table of settings", where=str(folder / CONFIG))
    return config


def measured_by(config: Config) -> MeasuredBy:
    """The settings of the metrics, checked.

    Raises:
        UserError: one is missing, of another type, or out of its range.
    """
    try:
        metric = config["metric"]
        judge, step = metric["judge"], metric["tail_patch"]
        return MeasuredBy(
            samples=_bounded(MetricConfig, "bootstrap_samples", metric),
            without_gold=math.nan if NoGold(metric["no_gold"]) is NoGold.skip else 0.0,
            attribution=_names(metric["attribution"]),
            judged=judge is not None,
            threshold=ENTAILED if judge is None else _number(judge["threshold"]),
            cluster=Cluster(metric["cluster"]),
            steps=step["enabled"] is True,
            top=_bounded(TailPatchConfig, "top", step),
            retrains=metric["retraining"] is not None,
        )
    except KeyError as error:
        what = f"{error.args[0]} is missing"
    except (TypeError, ValueError, AttributeError) as error:
        what = str(error)
    raise UserError(f"no valid metric settings in it ({what:.200})", where=CONFIG)


def _bounded(schema: type, name: str, values: Mapping[str, Any]) -> int:
    """A whole number within the range that its setting has in a run."""
    value, mark = values[name], marks(schema)[name]
    if type(value) is not int or not mark.admits(value):
        key = "metric" if schema is MetricConfig else "metric.tail_patch"
        raise ValueError(f"{key}.{name}: expected {mark.range}, found {value!r:.40}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {value!r:.40}")
    return float(value)


def _names(value: Any) -> tuple[str, ...]:
    if not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise TypeError(f"expected a list of metrics, found {value!r:.40}")
    return tuple(value)
