"""What the numbers of a cell depend on: the one place that spells the key of a cell.

A setting that moves no number is marked with ``bench.core.fields.speed`` where it is declared, and
is left out here. Where the cells lie and who is told of them moves no number either, nor do the
shares of tokens that ``spans`` adds to the lists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.core.fields import identifying
from bench.models.retraining import RETRAINING_VERSION
from bench.storage.keys import content_key
from metrics.judges.cache import claim_digest
from metrics.patch_jobs import STEP_VERSION

if TYPE_CHECKING:
    from bench.tasks.base import Task
    from methods.base import Method
    from metrics.judges.base import Claim, Judge
    from metrics.settings import MetricConfig

# Raised whenever a change of the harness or of the import moves a number of a cell.
CELL_VERSION = 2


@dataclass(frozen=True)
class Identity:
    """Everything that the numbers of a cell depend on, as JSON values.

    Attributes:
        ranking: how the lists are made, or which file they are from.
        metric: how they are measured.
        task: queries, passages and annotation; None where the file of the lists stands for them.
        model: the model that is asked; None where none is.
        seed: the seed of the bootstrap, and of whatever has none of its own.
    """

    ranking: Any
    metric: Any
    task: Any
    model: str | None
    seed: int

    @property
    def key(self) -> str:
        """The name of the cell's folder: equal for cells that must have equal numbers."""
        return content_key([CELL_VERSION, asdict(self)])

    @property
    def record(self) -> dict[str, Any]:
        """What ``result.json`` keeps of it, from which ``tdabench verify`` makes the key again."""
        return {"version": CELL_VERSION, **asdict(self)}


def task_identity(task: Task) -> list[Any]:
    """What a prepared task is told by: its hash covers the queries and every passage."""
    return [task.name, task.version, task.sha256]


def method_identity(method: Method, settings: Mapping[str, Any], top_k: int) -> dict[str, Any]:
    """What the lists of a method depend on, beside the task and the model.

    Args:
        settings: the settings of the method, which name it and, where that is not the class
            registered by this name, its class.
    """
    return {
        "name": settings["name"],
        "target": settings.get("target"),
        "settings": method.identifying_settings(),
        "identity": method.identity(),
        "top_k": top_k,
    }


def metric_identity(
    config: MetricConfig, judge: Judge | None = None, claims: Sequence[Claim] = ()
) -> dict[str, Any]:
    """What the numbers depend on, beside the lists: the settings and the versions of what they ask.

    Args:
        judge: the judge that ``config`` names, None if it names none.
        claims: what is asked of the judge. Their names are no part of the task's hash.
    """
    parts = identifying(config)
    # A judge's own identity stands for its settings.
    parts["judge"] = judge and [judge.name, judge.identity(), judge.threshold, _digest(claims)]
    if config.tail_patch.enabled:
        parts["tail_patch"]["version"] = STEP_VERSION
    else:
        parts["tail_patch"] = None
    if config.retraining is not None:
        parts["retraining"]["version"] = RETRAINING_VERSION
    return parts


def _digest(claims: Sequence[Claim]) -> str:
    return hashlib.sha256(b"".join(map(claim_digest, claims))).hexdigest()
