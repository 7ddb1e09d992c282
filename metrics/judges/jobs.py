"""Judging as jobs: each scores some pairs, and leaves a part of the cache of judgements.

Which pairs share a job, and so the batches of a judge that works in batches, depends on the pairs
alone: every engine gets the same scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import UserError
from bench.core.typed import typed
from bench.engines.base import Job
from bench.storage.keys import content_key
from bench.storage.score_parts import ScorePart, part_path, write_part
from bench.tasks.passages import PassageStore
from metrics.judges import JUDGES
from metrics.judges.base import Claim, Judge, Pair
from metrics.judges.cache import pair_key

PAIRS_A_JOB = 512  # what a run that is killed may lose of each worker


def judge_of(settings: Mapping[str, Any], device: str) -> Judge:
    """The judge that ``metric.judge`` names.

    Raises:
        UserError: an unknown judge or key, or a judge that cannot work here.
    """
    judge_class = JUDGES.get(settings["name"])
    config = typed(judge_class.Config, settings, "metric.judge", ("name",))
    return judge_class(config, device)


@dataclass(frozen=True)
class PairJudge:
    """Judges pairs of passage and claim, here or in another process, to which it can be sent.

    Attributes:
        settings: those of ``metric.judge``.
        device: torch device name.
        identity: the judge's own; another process with another judge refuses.
        passages: where the passages are.
        here: the judge, where it is at hand; it is not sent along.
    """

    settings: Mapping[str, Any]
    device: str
    identity: str
    passages: PassageStore
    here: Judge | None = field(default=None, compare=False)

    def __reduce__(self) -> tuple:
        target = JUDGES.target_elsewhere(self.settings["name"])
        settings = {**self.settings, "name": target}
        return PairJudge, (settings, self.device, self.identity, self.passages)

    def jobs(self, pairs: Sequence[tuple[int, Claim]], folder: Path) -> list[Job]:
        """A job for each few of the pairs, which are rows of passages with claims."""
        starts = range(0, len(pairs), PAIRS_A_JOB)
        return [self._job(tuple(pairs[i : i + PAIRS_A_JOB]), folder) for i in starts]

    def _job(self, pairs: tuple[tuple[int, Claim], ...], folder: Path) -> Job:
        texts = [[row, claim.text, claim.subjects, claim.answers] for row, claim in pairs]
        path = part_path(folder, content_key([self.identity, self.passages.sha256, texts]))
        return Job(PairJudge.write, (self, path, pairs), path)

    def write(self, path: Path, chosen: Sequence[tuple[int, Claim]]) -> None:
        """Score some pairs, and write the scores and what was counted."""
        judge = self.here or _opened(self)
        pairs = [Pair(self.passages[row].text, claim) for row, claim in chosen]
        before = dict(judge.counts)
        scores = _checked(judge, judge.score(pairs), len(pairs)).tolist()
        counts = {name: n - before.get(name, 0) for name, n in judge.counts.items()}
        self.passages.check_unchanged()  # this may be another process than the one that opened them
        keys = map(pair_key, pairs)
        write_part(path, ScorePart(dict(zip(keys, scores, strict=True)), counts=counts))


def _checked(judge: Judge, scores: np.ndarray, n: int) -> np.ndarray:
    """A plug-in's scores, which may be anything."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (n,) or ((scores < 0) | (scores > 1)).any():
        raise UserError(
            f"{judge.name} returned no scores from 0 to 1 for {n} pairs", where="metric.judge"
        )
    return scores


# The judge that this process opened last, by its identity: its jobs share it.
_open: dict[tuple[str, str], Judge] = {}


def _opened(pairs: PairJudge) -> Judge:
    name = (pairs.identity, pairs.device)
    if name not in _open:
        _open.clear()
        judge = judge_of(pairs.settings, pairs.device)
        if judge.identity() != pairs.identity:
            raise UserError(
                "another process finds another judge than the run that started it",
                where="metric.judge",
                fix="do not change its files while a run reads them, and give every machine the "
                "same ones",
            )
        _open[name] = judge
    return _open[name]
