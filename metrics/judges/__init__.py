"""Who says that a passage states a claim, where nobody has annotated it. Importing loads none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.registry import Entry, Registry

if TYPE_CHECKING:
    from metrics.judges.base import Judge

JUDGES: Registry[Judge] = Registry("judge", "metrics.judges.base:Judge")

JUDGES.add(
    "lexical",
    Entry(
        target="metrics.judges.lexical:Lexical",
        summary="lexical: the names of subject and answer both stand in the passage; no entailment",
        needs=("names of the subjects",),
        source="distant supervision, as T-REx; Mintz et al. 2009",
    ),
)
JUDGES.add(
    "nli",
    Entry(
        target="metrics.judges.nli:Nli",
        summary="entailment by any cross-encoder in a local folder",
        needs=("a sequence classifier (safetensors)",),
        source="AIS, Rashkin et al. 2023, 2112.12870; Honovich et al. 2022, 2204.04991",
    ),
)

__all__ = ["JUDGES"]
