"""What the stored rankings of a cell say by themselves: whether there are any, and what is correct.

A ranking carries the judgement that it was scored by, so that nobody needs the task to read it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.results.schema import ENTAILED, RETRIEVALS
from bench.tasks.records import RetrievalRecord


def has_rankings(folder: Path) -> bool:
    """Whether a cell's folder holds its rankings: committed tables are kept without them."""
    return (folder / RETRIEVALS).is_file()


def correct_of(record: RetrievalRecord, threshold: float = ENTAILED) -> np.ndarray | None:
    """Whether each listed passage of one query is correct, as the ranking itself says.

    Args:
        record: one line of ``retrievals.jsonl``.
        threshold: a passage is correct above this entailment score of a judge.

    Returns:
        bool ``[n proponents]``; None for a ranking that was neither annotated nor judged.
    """
    if record.proponent_correct is not None:
        return np.asarray(record.proponent_correct, dtype=bool)
    if record.proponent_ais_scores is not None:
        return np.asarray(record.proponent_ais_scores, dtype=np.float64) > threshold
    return None
