"""The two stages of a search as jobs, one for each group of shards, and their merges.

A job of the first stage leaves the best and the worst rows of its group for each query; lists of
groups are merged by score and row, with the one tie rule, so that it does not matter who made them.
Several searches over the same features may go over a group together: each has a file of its own,
which is what its own job would have left. A job of the second stage scores the candidates that lie
in its group.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core import memory, progress
from bench.engines.base import Job
from bench.storage.sealed_arrays import read_arrays, write_arrays
from methods.device_topk import DeviceTopK
from methods.gradient.finish import Finish
from methods.gradient.parts import SUFFIX, Handed, PartsFolder, SharedSeconds
from methods.gradient.source import FeatureSource
from methods.topk import TopK
from methods.vector_search import Fetched, rescore

_LISTS, _SCORES, _HANDED = "lists of a group", "scores of a group", "what jobs are handed"
_COUNTS, _SECONDS, _OTHERS = "counts", "seconds", "seconds_for_others"

Found = tuple[dict[str, np.ndarray], dict[str, Any]]  # the arrays of a part, and its facts


@dataclass(frozen=True)
class Scan:
    """The first stage of a search for some queries.

    Attributes:
        folder: where its parts lie.
        number: what tells these queries from others of the search.
        queries: finished features, ``[queries, dim]``.
        finish: the last steps of the passages' features.
        n_highest, n_lowest: rows to keep of each query.
        rows_at_once: passages in a block.
    """

    folder: Path
    number: int
    queries: Handed[Tensor]
    finish: Finish
    n_highest: int
    n_lowest: int
    rows_at_once: int

    def target(self, group: int) -> Path:
        """The file of a group."""
        return _scan_file(self.folder, self.number, group)


@dataclass(frozen=True)
class Rescoring:
    """The second stage of a search for some queries.

    Attributes:
        folder: as in ``Scan``.
        name: what tells these queries and rows from others of the search: where the last bits of
            the first stage differ, as those of two machines may, other rows are chosen.
        queries: finished features in float64, ``[queries, dim]``.
        rows: rows to score for each query, by name, int64 ``[queries, candidates]``.
        finish: the last steps of the passages' features, in float64.
        rows_at_once: passages that are fetched together.
    """

    folder: Path
    name: str
    queries: Handed[Tensor]
    rows: Handed[dict[str, np.ndarray]]
    finish: Finish
    rows_at_once: int

    def target(self, group: int) -> Path:
        """The file of a group."""
        return self.folder / f"exact-{self.name}-{group:05d}{SUFFIX}"


def _scan_file(folder: Path, number: int, group: int) -> Path:
    return folder / f"scan-{number}-{group:05d}{SUFFIX}"


def is_scanned(parts: PartsFolder, n_groups: int) -> bool:
    """Whether the first stage of a search, whose queries are all together, is done.

    What others have done of it is brought from the store.
    """
    files = [_scan_file(parts.folder, 0, group) for group in range(n_groups)]
    parts.bring(files, _read_lists)
    return all(path.exists() for path in files)


def scanned(
    groups: Sequence[FeatureSource],
    scans: Sequence[Scan],
    parts: PartsFolder,
    counts: Counter[str],
    shared: SharedSeconds,
) -> tuple[TopK, TopK]:
    """The best and the worst rows of the first of some scans, which go over the groups together.

    Args:
        counts, shared: receive what was read or encoded, and the seconds that were shared.

    Returns:
        the highest and the lowest; scores of the latter are negated, so that lowest comes first.
    """
    own = scans[0]
    jobs = [
        Job(
            _scan,
            (group, number, tuple(scans)),
            own.target(number),
            beside=tuple(one.target(number) for one in scans[1:]),
        )
        for number, group in enumerate(groups)
    ]
    n_queries = len(own.queries())
    highest, lowest = TopK(n_queries, own.n_highest), TopK(n_queries, own.n_lowest)
    done = set[Path]()
    outcomes = parts.outcomes(jobs, _read_lists, "search", found=done)
    for job, (arrays, facts) in zip(jobs, outcomes, strict=True):
        highest.push(arrays["highest_scores"], arrays["highest_rows"])
        if own.n_lowest:
            lowest.push(arrays["lowest_scores"], arrays["lowest_rows"])
        counts.update(facts[_COUNTS])
        if job.target in done:
            shared.by_others += facts[_SECONDS]
        else:
            shared.for_others += facts[_OTHERS]
    return highest, lowest


def _scan(group: FeatureSource, number: int, scans: Sequence[Scan]) -> None:
    """The job of a group: lists of all scans that have none of it yet; the first's come last."""
    left = [one for one in scans[1:] if not one.target(number).exists()]
    left.append(scans[0])
    lists = [_Lists(one) for one in left]
    rows_at_once = scans[0].rows_at_once
    blocks = group.blocks_on(scans[0].finish.device, rows_at_once)
    total = group.n_blocks(rows_at_once)
    began = time.perf_counter()
    for first_row, block in progress.track(blocks, "search", total=total, unit="blocks"):
        for kept in lists:
            kept.push(first_row, block)
    own = time.perf_counter() - began - sum(kept.seconds for kept in lists)
    reading, others = own / len(lists), 0.0  # each has its share of the reading
    for one, kept in zip(left, lists, strict=True):
        # What is read for several is counted once, with the search that asked.
        facts = {_COUNTS: {}, _SECONDS: kept.seconds + reading, _OTHERS: 0.0}
        if one is scans[0]:
            facts |= {_COUNTS: dict(group.counts), _OTHERS: others}
        else:
            others += kept.seconds + reading
        write_arrays(one.target(number), _LISTS, kept.arrays, facts)


class _Lists:
    """The running lists of one scan.

    Attributes:
        seconds: what they took so far.
    """

    def __init__(self, scan: Scan) -> None:
        self._queries, self._finish = scan.queries(), scan.finish
        lists: Callable[[int, int], TopK | DeviceTopK] = TopK
        if _stay_on_device(scan.finish):
            lists = partial(DeviceTopK, device=scan.finish.device)
        self._highest = lists(len(self._queries), scan.n_highest)
        self._lowest = lists(len(self._queries), scan.n_lowest)
        self.seconds = 0.0

    def push(self, first_row: int, block: Tensor) -> None:
        """Take in a block of raw features ``[rows, dim]``."""
        began = time.perf_counter()
        scores = self._finish.products(block, self._queries).T
        _push(self._highest, scores, first_row)
        if self._lowest.k:
            _push(self._lowest, scores.neg_(), first_row)
        self.seconds += time.perf_counter() - began

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Rows and scores of both ends, ``[queries, k]`` each."""
        return {
            "highest_rows": self._highest.rows,
            "highest_scores": self._highest.scores,
            "lowest_rows": self._lowest.rows,
            "lowest_scores": self._lowest.scores,
        }


def _stay_on_device(finish: Finish) -> bool:
    """Whether scores are ranked where they are computed: on a GPU, in the dtype of its lists."""
    return finish.device.type == "cuda" and finish.dtype == torch.float32


def _push(lists: TopK | DeviceTopK, scores: Tensor, first_row: int) -> None:
    """Give some lists the scores ``[queries, rows]`` of a block."""
    if isinstance(lists, DeviceTopK):
        lists.push(scores, first_row)
    else:
        lists.push(scores.cpu().numpy(), np.arange(first_row, first_row + scores.shape[1]))


def rescored(
    groups: Sequence[FeatureSource], stage: Rescoring, parts: PartsFolder, counts: Counter[str]
) -> dict[str, np.ndarray]:
    """Scores of all rows of a second stage, by name, float64 ``[queries, candidates]``."""
    rows = stage.rows()
    scores = {name: np.empty(one.shape) for name, one in rows.items()}
    asked = [
        (number, group)
        for number, group in enumerate(groups)
        if any(_inside(one, group).any() for one in rows.values())
    ]
    jobs = [Job(_rescore, (group, number, stage), stage.target(number)) for number, group in asked]
    outcomes = parts.outcomes(jobs, _read_scores, "score candidates in float64")
    for (_, group), (arrays, facts) in zip(asked, outcomes, strict=True):
        for name, one in rows.items():
            scores[name][_inside(one, group)] = arrays[name]
        counts.update(facts[_COUNTS])
    return scores


def _rescore(group: FeatureSource, number: int, stage: Rescoring) -> None:
    """The job of a group: scores of its candidates, query by query in one row."""

    def fetch(rows: np.ndarray) -> Fetched:
        memory.give_back()  # that the scan, or the previous fetch, took
        features, factors = stage.finish.apart(group.rows(rows))
        return features.cpu().numpy(), None if factors is None else factors[:, 0].cpu().numpy()

    queries, arrays = stage.queries().numpy(), {}
    for name, rows in stage.rows().items():
        inside = _inside(rows, group)
        arrays[name] = np.empty(0)
        if inside.any():
            packed, filled = _packed(rows, inside)
            arrays[name] = rescore(queries, packed, fetch, stage.rows_at_once)[filled]
    write_arrays(stage.target(number), _SCORES, arrays, {_COUNTS: dict(group.counts)})


def _inside(rows: np.ndarray, group: FeatureSource) -> np.ndarray:
    return (rows >= group.span.start) & (rows < group.span.stop)


def _packed(rows: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The chosen rows of each query at the left, and which places hold one: others repeat a row."""
    counts = inside.sum(axis=1)
    filled = np.arange(counts.max()) < counts[:, np.newaxis]
    packed = np.full(filled.shape, rows[inside][0])
    packed[filled] = rows[inside]
    return packed, filled


def _read_lists(path: Path) -> Found:
    return read_arrays(path, _LISTS)


def _read_scores(path: Path) -> Found:
    return read_arrays(path, _SCORES)


def write_tensor(path: Path, tensor: Tensor) -> None:
    """Write one tensor, for jobs to read."""
    write_arrays(path, _HANDED, {"tensor": tensor.cpu().numpy()}, {"device": str(tensor.device)})


def read_tensor(path: Path) -> Tensor:
    """The tensor of ``write_tensor``, on the device where it was."""
    arrays, facts = read_arrays(path, _HANDED)
    return torch.from_numpy(arrays["tensor"]).to(facts["device"])


def write_rows(path: Path, rows: dict[str, np.ndarray]) -> None:
    """Write rows by name, for jobs to read."""
    write_arrays(path, _HANDED, rows)


def read_rows(path: Path) -> dict[str, np.ndarray]:
    """The rows of ``write_rows``."""
    return read_arrays(path, _HANDED)[0]
