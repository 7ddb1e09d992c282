"""Means over the passages that R is of, as sums over groups of them that add up in a fixed order.

A group's sums are float64, in a file of their own, and made by a job of the run's engine. Groups
are added from the first to the last, so that the mean is the same number wherever and in whatever
order they were made. What they add up to is kept, for all methods of the same features: the index
is read once for R, however many of them there are.
"""

from __future__ import annotations

import shutil
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
from bench.storage.sealed_arrays import read_arrays, write_arrays
from methods.gradient.hessian import Products, Statistic
from methods.gradient.parts import PARTS_VERSION, SUFFIX, PartsFolder, arrays_key
from methods.gradient.source import BYTES_READ, FeatureSource

_KIND, _DIRECTIONS = "sums over passages", "directions of a low rank"
_LABEL, _ROWS, _COUNTS = "Hessian", "rows", "counts"


@dataclass(frozen=True)
class Sums:
    """Sums over some rows.

    Attributes:
        tensors: the sums, float64, on the CPU.
        n_rows: how many rows they are of.
        counts: what was read or encoded for them.
    """

    tensors: list[Tensor]
    n_rows: int
    counts: dict[str, int]


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
    """

    source: FeatureSource
    sample: np.ndarray | None
    rows_at_once: int
    dim: int
    device: torch.device
    parts: PartsFolder
    counts: Counter[str]

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
        move_aside_if(whole, partial(_read, whole))
        with exclusive(folder):
            if not whole.exists():
                self._make(statistic, whole)
        sums = _read(whole)
        return [total.to(self.device) / max(1, sums.n_rows) for total in sums.tensors]

    def products(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """R of the passages times some directions, as ``Products`` has them."""
        folder = self.parts.folder / f"directions-{arrays_key(_arrays(directions))}"
        path, n_groups = folder / f"directions{SUFFIX}", len(self.source.groups())
        handed = self.parts.handed(directions, path, _write_directions, _read_directions, n_groups)
        means = self.of(Products(handed, folder.name))
        shutil.rmtree(folder, ignore_errors=True)
        return means

    def _key(self) -> list[Any]:
        sample = self.sample if self.sample is None else self.sample.tolist()
        place = [self.rows_at_once, self.dim, self.device.type]
        return [PARTS_VERSION, self.source.identity, sample, *place]

    def _make(self, statistic: Statistic, whole: Path) -> None:
        groups = self._groups()
        targets = [whole.with_name(f"group-{n:05d}{SUFFIX}") for n in range(len(groups))]
        if len(groups) == 1:
            targets = [whole]
        how = (statistic, self.rows_at_once, self.dim, self.device)
        jobs = [
            Job(_sum, (*how, group, rows, target), target)
            for (group, rows), target in zip(groups, targets, strict=True)
        ]
        total: Sums | None = None
        for sums in self.parts.outcomes(jobs, _read, _LABEL):
            total = sums if total is None else _added(total, sums)
            self.counts[BYTES_READ] += sums.counts.get(BYTES_READ, 0)  # the search counts the rest
        assert total is not None  # a corpus has passages
        if len(groups) > 1:
            _write(whole, total)
        for path in set(targets) - {whole}:
            path.unlink(missing_ok=True)

    def _groups(self) -> list[tuple[FeatureSource, np.ndarray | None]]:
        """The groups, each with its rows of the sample; those without any are left out."""
        groups = self.source.groups()
        if self.sample is None:
            return [(group, None) for group in groups]
        ends = [group.span.stop for group in groups[:-1]]
        rows = np.split(self.sample, np.searchsorted(self.sample, ends))
        return [(group, own) for group, own in zip(groups, rows, strict=True) if len(own)]


def _added(total: Sums, more: Sums) -> Sums:
    for sums, part in zip(total.tensors, more.tensors, strict=True):
        sums += part
    return Sums(total.tensors, total.n_rows + more.n_rows, {})


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
    features = _features(group, sample, rows_at_once, dim)
    tensors, n_rows = statistic.sums(features, device)
    _write(target, Sums(tensors, n_rows, dict(group.counts)))


def _features(
    group: FeatureSource, sample: np.ndarray | None, rows_at_once: int, dim: int
) -> Iterator[Tensor]:
    if sample is None:
        total, blocks = group.n_blocks(rows_at_once), group.blocks(rows_at_once)
        for _, block in progress.track(blocks, _LABEL, total=total, unit="blocks"):
            yield block[:, :dim]
        return
    starts = range(0, len(sample), rows_at_once)
    for start in progress.track(starts, _LABEL, unit="blocks"):
        yield group.rows(sample[start : start + rows_at_once])[:, :dim]


def _write(path: Path, sums: Sums) -> None:
    facts = {_ROWS: sums.n_rows, _COUNTS: sums.counts}
    write_arrays(path, _KIND, _arrays(sums.tensors), facts)


def _read(path: Path) -> Sums:
    arrays, facts = read_arrays(path, _KIND)
    return Sums(_tensors(arrays), facts[_ROWS], facts[_COUNTS])


def _write_directions(path: Path, directions: Sequence[Tensor]) -> None:
    write_arrays(path, _DIRECTIONS, _arrays(directions))


def _read_directions(path: Path) -> list[Tensor]:
    return _tensors(read_arrays(path, _DIRECTIONS)[0])


def _tensors(arrays: dict[str, np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(arrays[name]) for name in sorted(arrays)]


def _arrays(tensors: Sequence[Tensor]) -> dict[str, np.ndarray]:
    return {f"{number:05d}": one.cpu().numpy() for number, one in enumerate(tensors)}
