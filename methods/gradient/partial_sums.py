"""Means over the passages that R is of, as sums over groups of them that add up in a fixed order.

A group's sums are float64, in a file of their own, and made by a job of the run's engine. Groups
are added from the first to the last, so that the mean is the same number wherever and in whatever
order they were made. What they add up to is kept, for all methods of the same features: the index
is read once for R, however many of them there are. With a store, it is kept there as well.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core import progress
from bench.engines.base import Job
from bench.storage.keys import content_key
from bench.storage.locks import exclusive
from bench.storage.sealed import move_aside_if
from bench.storage.sealed_arrays import arrays_sha256, read_arrays, write_arrays
from bench.storage.sharing import merged_file
from methods.gradient.hessian import Products, Statistic
from methods.gradient.parts import (
    PARTS_VERSION,
    SUFFIX,
    PartsFolder,
    SharedSeconds,
)
from methods.gradient.source import BYTES_READ, FeatureSource

_KIND, _HANDED = "sums over passages", "what jobs are handed"
_LABEL, _ROWS, _COUNTS, _SECONDS = "Hessian", "rows", "counts", "seconds"


@dataclass(frozen=True)
class Sums:
    """Sums over some rows.

    Attributes:
        tensors: the sums, on the CPU.
        n_rows: how many rows they are of.
        counts: what was read or encoded for them.
        seconds: what making them took, all processes together.
    """

    tensors: list[Tensor]
    n_rows: int
    counts: dict[str, int]
    seconds: float = 0.0


@dataclass(frozen=True)
class PassageMeans:
    """Means over the features of all passages, or of a sample of them.

    Attributes:
        source: the features.
        sample: ascending rows of the sample; None takes all.
        rows_at_once: passages in memory together; where they end decides over last bits.
        dim: number of dimensions of a row that count: a weight may follow.
        device: where it is summed up.
        parts: where the sums are kept, and who makes them.
        counts: receives the bytes of the index that were read.
        shared: receives the seconds of sums that were found done.
    """

    source: FeatureSource
    sample: np.ndarray | None
    rows_at_once: int
    dim: int
    device: torch.device
    parts: PartsFolder
    counts: Counter[str]
    shared: SharedSeconds

    @property
    def n_rows(self) -> int:
        """How many passages."""
        return self.source.n_rows if self.sample is None else len(self.sample)

    def of(self, statistic: Statistic) -> list[Tensor]:
        """The means of a statistic, on the device: read, or made group by group.

        Raises:
            UserError: the disk does not take it.
        """
        folder = self.parts.folder / f"sums-{content_key([*self._key(), statistic.key])}"
        whole = folder / f"sums{SUFFIX}"
        move_aside_if(whole, partial(read_sums, whole))
        with exclusive(folder):
            is_new = not whole.exists() and self._make(statistic, whole)
        sums = read_sums(whole)
        self.shared.by_others += 0.0 if is_new else sums.seconds
        return [total.to(self.device) / max(1, sums.n_rows) for total in sums.tensors]

    def products(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """R of the passages times some directions, as ``Products`` has them."""
        folder = self.parts.folder / f"directions-{arrays_sha256(as_arrays(directions))}"
        path, n_groups = folder / f"directions{SUFFIX}", len(self.source.groups())
        handed = self.parts.handed(directions, path, write_tensors, read_tensors, n_groups)
        means = self.of(Products(handed, folder.name))
        shutil.rmtree(folder, ignore_errors=True)
        return means

    def _key(self) -> list[Any]:
        sample = self.sample if self.sample is None else self.sample.tolist()
        place = [self.rows_at_once, self.dim, self.device.type]
        return [PARTS_VERSION, self.source.identity, sample, *place]

    def _make(self, statistic: Statistic, whole: Path) -> bool:
        """Write the sums over all groups; returns whether they were not found in a store."""
        groups = self._groups()
        targets = [whole.with_name(f"group-{n:05d}{SUFFIX}") for n in range(len(groups))]
        if len(groups) == 1:
            targets = [whole]
        how = (statistic, self.rows_at_once, self.dim, self.device)
        jobs = [
            Job(_sum, (*how, group, rows, target), target)
            for (group, rows), target in zip(groups, targets, strict=True)
        ]
        if len(groups) == 1:
            found = set[Path]()
            total = added(self.parts, jobs, _LABEL, found=found)
            is_new = whole not in found
        else:
            total, is_new = merged_sums(self.parts, jobs, _LABEL, whole)
            if not whole.exists():
                write_sums(whole, total)
            for path in targets:
                path.unlink(missing_ok=True)
        if is_new:
            self.counts[BYTES_READ] += total.counts.get(BYTES_READ, 0)  # the search counts the rest
        return is_new

    def _groups(self) -> list[tuple[FeatureSource, np.ndarray | None]]:
        """The groups, each with its rows of the sample; those without any are left out."""
        groups = self.source.groups()
        if self.sample is None:
            return [(group, None) for group in groups]
        ends = [group.span.stop for group in groups[:-1]]
        rows = np.split(self.sample, np.searchsorted(self.sample, ends))
        return [(group, own) for group, own in zip(groups, rows, strict=True) if len(own)]


def merged_sums(
    parts: PartsFolder, jobs: Sequence[Job], label: str, whole: Path
) -> tuple[Sums, bool]:
    """What the files of some jobs add up to, of which a store keeps the sum alone.

    Args:
        jobs, label: as of ``added``.
        whole: where the sum is, with a store; it is not here yet.

    Returns:
        the sums, and whether they were added up here.
    """
    merge = partial(added, parts, jobs, label)
    merged = merged_file(parts.mirror, whole, read_sums, write_sums, merge)
    parts.mirror.drop(whole.parent, [job.target.name for job in jobs])
    return merged


def added(
    parts: PartsFolder,
    jobs: Sequence[Job],
    label: str,
    whole: Path | None = None,
    found: set[Path] | None = None,
) -> Sums:
    """What the files of some jobs add up to, from the first to the last.

    Args:
        jobs: at least one; each leaves a file of ``write_sums``.
        label: the phase's name, for its progress.
        whole: the file that the store has once they are added up.
        found: receives the files that were there before.
    """
    total: Sums | None = None
    for sums in parts.outcomes(jobs, read_sums, label, whole, found):
        if total is None:
            total = sums
            continue
        for so_far, part in zip(total.tensors, sums.tensors, strict=True):
            so_far += part
        counts = Counter(total.counts) + Counter(sums.counts)
        seconds = total.seconds + sums.seconds
        total = Sums(total.tensors, total.n_rows + sums.n_rows, dict(counts), seconds)
    assert total is not None  # there is a job
    return total


def _sum(
    statistic: Statistic,
    rows_at_once: int,
    dim: int,
    device: torch.device,
    group: FeatureSource,
    sample: np.ndarray | None,
    target: Path,
) -> None:
    """The job of one group: its sums, in a file."""
    began, features = time.perf_counter(), _features(group, sample, rows_at_once, dim, device)
    tensors, n_rows = statistic.sums(features, device)
    seconds = time.perf_counter() - began
    write_sums(target, Sums(tensors, n_rows, dict(group.counts), seconds))


def _features(
    group: FeatureSource,
    sample: np.ndarray | None,
    rows_at_once: int,
    dim: int,
    device: torch.device,
) -> Iterator[Tensor]:
    if sample is None:
        total, blocks = group.n_blocks(rows_at_once), group.blocks_on(device, rows_at_once)
        for _, block in progress.track(blocks, _LABEL, total=total, unit="blocks"):
            yield block[:, :dim]
        return
    starts = range(0, len(sample), rows_at_once)
    for start in progress.track(starts, _LABEL, unit="blocks"):
        yield group.rows(sample[start : start + rows_at_once])[:, :dim]


def write_sums(path: Path, sums: Sums) -> None:
    """Write the sums of a group, or of all."""
    facts = {_ROWS: sums.n_rows, _COUNTS: sums.counts, _SECONDS: sums.seconds}
    write_arrays(path, _KIND, as_arrays(sums.tensors), facts)


def read_sums(path: Path) -> Sums:
    """The sums of ``write_sums``.

    Raises:
        DamagedError: the file is not what was written.
    """
    arrays, facts = read_arrays(path, _KIND)
    return Sums(_tensors(arrays), facts[_ROWS], facts[_COUNTS], facts[_SECONDS])


def write_tensors(path: Path, tensors: Sequence[Tensor]) -> None:
    """Write some tensors, for jobs to read."""
    write_arrays(path, _HANDED, as_arrays(tensors))


def read_tensors(path: Path) -> list[Tensor]:
    """The tensors of ``write_tensors``, on the CPU.

    Raises:
        DamagedError: the file is not what was written.
    """
    return _tensors(read_arrays(path, _HANDED)[0])


def as_arrays(tensors: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays by number."""
    return {f"{number:05d}": one.cpu().numpy() for number, one in enumerate(tensors)}


def _tensors(arrays: dict[str, np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(arrays[name]) for name in sorted(arrays)]
