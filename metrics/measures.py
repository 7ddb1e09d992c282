"""One record for each metric, which everything that shows, sorts or checks metrics reads.

A metric is added in two files: its record stands here, and its value is made by the module that
computes it, as a column of that name (``metrics.attribution`` parses the names of the attribution
metrics; ``metrics.tail_patch`` and ``metrics.retraining`` return tables). Whatever else knows of
metrics reads this table: evaluation, boards, reports, figures, the viewer, ``tdabench list`` and
``tdabench verify``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

CUT_OFF = re.compile("[1-9][0-9]{0,8}", re.ASCII)  # what may stand for K in ``hit@K``


class MetricKind(str, Enum):
    """The thing that a number is measured against, and so what it may be compared with."""

    attribution = "attribution"  # the passages that are known, or judged, to state the fact
    influence = "influence"  # what a training step on the listed passages does to the model
    retraining = "retraining"  # what models say that were trained without the listed passages
    diagnostic = "diagnostic"  # a property of the ranking that judges no method
    base = "base"  # what the model says before anything is done to it: equal for all methods
    query = "query"  # known of each query, and averaged nowhere
    unknown = "unknown"  # a column of another version or of a plug-in


@dataclass(frozen=True)
class MetricRecord:
    """The name of a metric, its meaning and the way it is shown.

    Attributes:
        name: the column of ``per_query.parquet`` and the name in ``result.json``. A name that ends
            in ``@k`` stands for a family, of which ``of`` makes one for each cut-off.
        title: the name for readers, without the unit.
        meaning: one line on what is measured.
        kind: the thing that it is measured against.
        unit: the unit of the values as they are shown; empty for plain numbers.
        scale: shown value over stored value.
        signed: whether the value is a change, which is written with its sign.
        higher_is_better: whether the best of several values is the highest; None where no value is
            better than another.
        needs_model: whether a query's value takes a model: nobody can recompute it from rankings.
        depth: number of a list's first passages that it looks at; None for all of them, or where a
            setting says.
        tests_controls: whether controls are tested like any method: they are no bounds of it.
        variant_of: the metric that this one states in another unit; empty where it is none.
        of_one: the title of a single query's value, where that is no mean.
    """

    name: str
    title: str
    meaning: str
    kind: MetricKind
    unit: str = ""
    scale: float = 1.0
    signed: bool = False
    higher_is_better: bool | None = True
    needs_model: bool = False
    depth: int | None = None
    tests_controls: bool = False
    variant_of: str = ""
    of_one: str = ""

    @property
    def head(self) -> str:
        """The title with its unit, as the head of a column."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def quantity(self) -> str:
        """The name of what is measured, whatever the unit: two variants share it."""
        return self.variant_of or self.name

    @property
    def judges(self) -> bool:
        """Whether the value says how good a method is."""
        return self.higher_is_better is not None

    @property
    def is_averaged(self) -> bool:
        """Whether results hold its mean over queries: not what is only known of each of them."""
        return self.kind not in (MetricKind.query, MetricKind.unknown)

    def shown(self, value: float) -> float:
        """A stored value, or a difference of two, in the unit that is shown everywhere."""
        return self.scale * value

    def at(self, cut_off: int) -> MetricRecord:
        """The member of a family that looks at the first ``cut_off`` passages."""
        return replace(
            self,
            name=self.name.replace("@k", f"@{cut_off}"),
            title=self.title.replace("@k", f"@{cut_off}"),
            meaning=self.meaning.replace("top k", f"top {cut_off}"),
            of_one=self.of_one.replace("@k", f"@{cut_off}"),
            depth=cut_off,
        )


def _attribution(name: str, meaning: str, title: str = "", of_one: str = "") -> MetricRecord:
    return MetricRecord(name, title or name, meaning, MetricKind.attribution, of_one=of_one)


def _change(
    kind: MetricKind, name: str, title: str, meaning: str, *, higher_is_better: bool = True
) -> tuple[MetricRecord, MetricRecord]:
    """A change of the target's probability, and the same change in log-probability."""
    # The paper prints tail-patch in percentage points; it is stored as a difference.
    points = MetricRecord(
        name, title, f"{meaning}, in percentage points", kind, unit="pp", scale=100.0, signed=True,
        higher_is_better=higher_is_better, needs_model=True,
    )  # fmt: skip
    meaning = f"{title} as a change of the log-probability, in nats"
    return points, replace(
        points, name=f"{name}_log", meaning=meaning, unit="log p", scale=1.0, variant_of=name
    )


# In the order in which tables and pages show them.
MEASURES = (
    _attribution(
        "mrr", "mean of 1 / rank of the first correct passage; 0 if the stored list holds none",
        title="MRR", of_one="reciprocal rank",
    ),
    _attribution(
        "hit@k",
        "share of queries with any correct passage in the top k (the paper calls it recall)",
    ),
    _attribution("recall@k", "share of the annotated passages that are in the top k"),
    _attribution("precision@k", "share of the top k that is correct"),
    _attribution(
        "map", "mean average precision: over the annotated passages, the precision at the rank of "
        "each; 0 for those not listed", of_one="average precision",
    ),
    _attribution(
        "map@k", "mean average precision of the top k: 0 for annotated passages that stand lower",
        of_one="average precision@k",
    ),
    _attribution(
        "ndcg@k", "sum of 1 / log2(1 + rank) over the correct passages in the top k, over that of "
        "the best possible list",
    ),
    *_change(
        MetricKind.influence, "tail_patch", "tail-patch", "change of the target's probability "
        "after one training step on one proponent, mean over the top proponents",
    ),
    *_change(
        MetricKind.influence, "opponent_tail_patch", "opponents' tail-patch", "tail-patch of the "
        "lowest ranked passages: below 0 where they speak against the target",
        higher_is_better=False,
    ),
    *_change(
        MetricKind.retraining, "removal_effect", "removal effect", "fall of the target's "
        "probability in a model trained again without the top proponents of a group of queries",
    ),
    MetricRecord(
        "removal_effect_token", "removal effect", "removal effect as a change of the "
        "log-probability, in nats a token of the target", MetricKind.retraining,
        unit="log p a token", signed=True, needs_model=True, variant_of="removal_effect",
    ),
    MetricRecord(
        "lds", "LDS", "linear datamodelling score: over models trained on random parts of the "
        "corpus, rank correlation of a part's summed scores and the target's log-probability",
        MetricKind.retraining, signed=True, needs_model=True, tests_controls=True,
    ),
    MetricRecord(
        "qld", "QLD",
        "rise of a query's loss (nats) in a model trained again without the top of its ranking",
        MetricKind.retraining, signed=True, needs_model=True,
    ),
    MetricRecord(
        "base_probability", "target p", "probability of the target before any step",
        MetricKind.base, higher_is_better=None, needs_model=True,
    ),
    MetricRecord(
        "base_log_probability", "target log p", "log-probability of the target before any step "
        "(nats)", MetricKind.query, higher_is_better=None, needs_model=True,
    ),
    MetricRecord(
        "tail_patch_clipped", "clipped", "share of the parameter tensors whose update the clip of "
        "tail-patch shortened: at 1, every step is as long as the learning rate, whatever the "
        "passage's gradient", MetricKind.diagnostic, higher_is_better=None, needs_model=True,
    ),
    MetricRecord(
        "tail_patch_step", "step", "root mean square of what a step of tail-patch adds to a "
        "parameter", MetricKind.diagnostic, higher_is_better=None, needs_model=True,
    ),
    MetricRecord(
        "length_ratio", "length ratio", "mean length of the top 10 proponents over that of all "
        "passages: a method that favours long passages is above 1",
        MetricKind.diagnostic, higher_is_better=None, depth=10,  # as many as hit@10 sees
    ),
    MetricRecord(
        "n_gold", "annotated", "how many passages are annotated to state the fact",
        MetricKind.query, higher_is_better=None,
    ),
)  # fmt: skip

# Metrics that a table, a figure or another formula singles out.
MRR, TAIL_PATCH, REMOVAL_EFFECT, LDS = "mrr", "tail_patch", "removal_effect", "lds"
LENGTH_RATIO = "length_ratio"
SIDES = (MRR, TAIL_PATCH)  # one metric for each side of the benchmark: attribution and influence
HEADLINE = (MRR, "hit@10", TAIL_PATCH, "recall@10")  # what a narrow terminal shows first

_BY_NAME = {measure.name: measure for measure in MEASURES}
_PLACES = {measure.name: place for place, measure in enumerate(MEASURES)}


@lru_cache(maxsize=1024)  # tables ask for each of their cells
def of(name: str) -> MetricRecord:
    """The record of a metric; one of kind ``unknown``, called by its name, where there is none."""
    entry = _entry(name)
    if entry is None:
        return MetricRecord(name, name, "", MetricKind.unknown)
    return entry if entry.name == name else entry.at(int(name.partition("@")[2]))


def in_order(names: Iterable[str]) -> list[str]:
    """Metric names, each once, in the order of the columns: known ones first, others by name."""

    def place(name: str) -> tuple[int, int, str]:
        entry = _entry(name)
        return _PLACES[entry.name] if entry else len(MEASURES), of(name).depth or 0, name

    return sorted(set(names), key=place)


def _entry(name: str) -> MetricRecord | None:
    """The row of the table that a name falls under."""
    family, _, cut_off = name.partition("@")
    return _BY_NAME.get(f"{family}@k" if CUT_OFF.fullmatch(cut_off) else name)
