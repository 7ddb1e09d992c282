"""Scores of pairs that a file lacks, made by jobs and added to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.engines.base import Engine, Job
from bench.engines.outcomes import outcomes, unless_single
from bench.storage.mirror import Mirror
from bench.storage.score_parts import (
    ScorePart,
    add_parts,
    known_scores,
    part_folder,
    read_part,
    sharing_of,
    whole_of,
)
from bench.storage.scores import Key, ScoreFile
from bench.storage.sharing import MergedElsewhereError


@dataclass(frozen=True)
class PairScores:
    """The scores of all pairs that were asked for.

    Attributes:
        kept: those that had been made before, here or elsewhere.
        new: what jobs have left of the others.
    """

    kept: Mapping[Key, float]
    new: Sequence[ScorePart] = ()

    @property
    def scores(self) -> dict[Key, float]:
        """Score by pair of keys."""
        return {**self.kept, **{key: v for part in self.new for key, v in part.scores.items()}}

    @property
    def counts(self) -> Counter[str]:
        """What jobs have counted."""
        total: Counter[str] = Counter()
        for part in self.new:
            for name, n in part.counts.items():
                total[name] += n
        return total


def scored(
    file: ScoreFile,
    mirror: Mirror,
    keys: Collection[Key],
    jobs: Callable[[Mapping[Key, float], Path], Sequence[Job]],
    engine: Engine,
    label: str,
    unit: str,
) -> PairScores:
    """The scores of pairs; those that neither the file nor the store has are made, and added.

    Args:
        file: scores that were made before.
        mirror: the copy in a store of a folder that the file is in.
        keys: the pairs, each once.
        jobs: gives the jobs for all pairs but those that are kept, which leave parts in a folder.
        engine, label, unit: as of ``outcomes``.

    Raises:
        UserError: a job failed by the user's mistake, the disk does not take the scores, or the
            store cannot be reached.
    """
    others_may_finish = True
    while True:
        kept = known_scores(file, keys, mirror)
        if len(kept) == len(keys):
            return PairScores(kept)
        try:
            with part_folder(file) as folder:
                asked = jobs(kept, folder)
                names = [job.target.name for job in asked]
                whole = whole_of(file, names)
                sharing = sharing_of(file, mirror, folder, whole if others_may_finish else None)
                runs = unless_single(engine, len(asked))
                try:
                    parts = list(outcomes(asked, read_part, runs, label, unit, sharing))
                except MergedElsewhereError:
                    sharing.mirror.drop(folder, names)  # one may have come after the others went
                    raise
                add_parts(file, parts, mirror, whole)
                sharing.mirror.drop(folder, names)
            return PairScores(kept, parts)
        except MergedElsewhereError:
            others_may_finish = False  # where what others have is damaged, it is all done here
