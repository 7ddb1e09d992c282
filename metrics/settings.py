"""The settings of ``conf/metric``, typed and checked. Importing them loads no model library."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from bench.core.errors import UserError, did_you_mean
from bench.core.fields import check_ranges, part_of_key, speed
from metrics.stats.subsets import MOST_RESAMPLES, MOST_SUBSETS

_OPTIMIZERS = ("saved", "sgd")


class NoGold(Enum):
    """The score of a query that has no annotated passage in the corpus."""

    skip = "skip"  # NaN: the query is left out of every mean
    zero = "zero"  # 0: the query is a failure of the method


class Cluster(Enum):
    """What makes queries hang together, for the intervals."""

    none = "none"
    relation = "relation"
    relation_answer = "relation_answer"
    auto = "auto"  # what makes the interval wider by more than a tenth, if anything does


@dataclass
class TailPatchConfig:
    """Settings of the step; defaults and reasons in ``conf/metric/default.yaml``."""

    enabled: bool
    top: int = part_of_key(at_least=1)
    n_queries: int | None = part_of_key(at_least=1)
    optimizer: str = part_of_key()
    learning_rate: float | None = part_of_key(above=0)
    clip: float | str = part_of_key(above=0, words=("none",))
    opponents: bool = part_of_key()
    memory_mib: int = speed(at_least=0)

    @property
    def clip_at(self) -> float | None:
        """The greatest root mean square of one parameter tensor's update; None clips none."""
        return None if self.clip == "none" else float(self.clip)

    def check(self) -> None:
        """Refuse what no step can be made with.

        Raises:
            UserError: a number out of range, or an unknown optimizer.
        """
        check_ranges(self, "metric.tail_patch")
        if self.optimizer not in _OPTIMIZERS:
            raise UserError(
                f"unknown optimizer {self.optimizer!r}",
                where="metric.tail_patch.optimizer",
                fix=did_you_mean(self.optimizer, _OPTIMIZERS),
            )


@dataclass
class RetrainingConfig:
    """Settings of retraining; defaults and reasons in ``conf/metric/retraining.yaml``."""

    seeds: int = part_of_key(at_least=1)
    removal_queries: int = part_of_key(at_least=0)
    removal_group: int = part_of_key(at_least=1)
    removal_top: int = part_of_key(at_least=1)
    lds_subsets: int = part_of_key(at_least=0, at_most=MOST_SUBSETS)
    lds_share: float = part_of_key()
    qld_queries: int = part_of_key(at_least=0)
    qld_share: float = part_of_key()

    def check(self, top_k: int) -> None:
        """Refuse what cannot be measured on any corpus.

        Args:
            top_k: the stored list length, beyond which nothing is known of a ranking.

        Raises:
            UserError: a value out of range, or lists that are too short.
        """
        check_ranges(self, "metric.retraining")
        if 0 < self.lds_subsets < 3:
            _refuse("lds_subsets", "a rank correlation takes at least 3 subsets")
        for name in ("lds_share", "qld_share"):
            if not 0 < getattr(self, name) < 1:
                _refuse(name, f"expected a share between 0 and 1, found {getattr(self, name)}")
        if self.removal_queries:
            _check_length("removal_top", self.removal_top, top_k)

    def check_corpus(self, top_k: int, n_passages: int) -> None:
        """Refuse what cannot be measured on a corpus of this size; call ``check`` first.

        Raises:
            UserError: parts that hold no passage or every passage, or lists that are too short.
        """
        if self.lds_subsets and not 0 < round(self.lds_share * n_passages) < n_passages:
            _refuse("lds_share", f"leaves none or all of {n_passages} passages in each part")
        if self.qld_queries:
            _check_length("qld_share", self.n_qld_passages(n_passages), top_k)

    def n_qld_passages(self, n_passages: int) -> int:
        """Number of passages that are removed for one query."""
        return max(1, round(self.qld_share * n_passages))


def _check_length(name: str, needed: int, top_k: int) -> None:
    if needed > top_k:
        _refuse(name, f"needs lists of {needed} passages, and top_k is {top_k}", "raise top_k")


def _refuse(name: str, what: str, fix: str = "") -> None:
    raise UserError(what, where=f"metric.retraining.{name}", fix=fix)


@dataclass
class MetricConfig:
    """What is measured; defaults and reasons in ``conf/metric``.

    Attributes:
        attribution: names of the metrics that are scored by who is correct, such as ``hit@10``.
        judge: ``name`` and settings of a judge, None for the task's annotation.
        retraining: None = no model is trained again.
    """

    attribution: list[str]
    judge: dict[str, Any] | None
    retraining: RetrainingConfig | None
    no_gold: NoGold
    cluster: Cluster
    tail_patch: TailPatchConfig
    bootstrap_samples: int = part_of_key(at_least=1, at_most=MOST_RESAMPLES)

    def check(self, top_k: int) -> None:
        """Refuse what cannot be measured on any task.

        Raises:
            UserError: a metric named twice, or as the parts' own checks.
        """
        repeated = [name for name in self.attribution if self.attribution.count(name) > 1]
        if repeated:
            raise UserError(
                f"{repeated[0]} is named twice", where="metric.attribution", fix="name it once"
            )
        check_ranges(self, "metric")
        self.tail_patch.check()
        if self.retraining is not None:
            self.retraining.check(top_k)
