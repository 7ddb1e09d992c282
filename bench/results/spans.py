"""What must hold of the shares of tokens in a cell's lists: each passage's sum to its score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.results.schema import Result
from bench.tasks.records import RetrievalRecord
from bench.tasks.spans import Spans

LISTED = 10  # passages at either end of a list whose scores are taken apart, as the viewer shows
TOLERANCE = "spans_tolerance"  # among the facts of a method
_LOOSEST = 0.1  # that of half precisions


def sum_fault(spans: Spans, score: float, tolerance: float) -> str | None:
    """What is wrong with the sum of a passage's shares; None if it is the score.

    Args:
        tolerance: how far they may be apart, as a share of the sum of the shares' amounts: shares
            of both signs may cancel out.
    """
    shares = [share for _, _, share in spans]
    total, bound = sum(shares), tolerance * sum(map(abs, shares))
    if math.isfinite(bound) and abs(total - score) <= bound:
        return None
    return f"the shares of its tokens sum to {total:.6g}, its score is {score:.6g}"


@dataclass(frozen=True)
class SpanCheck:
    """What the lists of a cell must hold of shares.

    Attributes:
        asked: whether there must be shares; None where the lists are from elsewhere and may have
            them.
        tolerance: as of ``sum_fault``.
    """

    asked: bool | None
    tolerance: float

    @staticmethod
    def of(result: Result, config: Mapping[str, Any]) -> SpanCheck:
        """What holds for a cell, by what it says of itself."""
        stated: Any = (result.method.get("facts") or {}).get(TOLERANCE)
        known = isinstance(stated, float) and 0 < stated <= _LOOSEST
        asked = None if result.imported else config.get("spans") is True
        return SpanCheck(asked, float(stated) if known else _LOOSEST)

    def faults(self, record: RetrievalRecord) -> Iterator[str]:
        """What is wrong with the shares of one list."""
        for side, scores, spans in (
            ("proponent", record.proponent_scores, record.proponent_spans),
            ("opponent", record.opponent_scores or [], record.opponent_spans),
        ):
            listed = spans or [None] * len(scores)
            taken_apart = [one is not None for one in listed]
            expected = [self.asked is True and rank < LISTED for rank in range(len(scores))]
            if self.asked is not None and taken_apart != expected:
                rank = next(i for i, one in enumerate(expected) if taken_apart[i] is not one) + 1
                what = "lacks the" if expected[rank - 1] else "has"
                yield f"{side} {rank} {what} shares of tokens, by `spans` of config.yaml"
            for rank, (one, score) in enumerate(zip(listed, scores, strict=True), start=1):
                if one is not None and (fault := sum_fault(one, score, self.tolerance)):
                    yield f"{side} {rank}: {fault}"
                    break
