"""What ``damping_sweep.py`` wrote: ranks by λ and damping, of two halves of the queries."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metrics.stats.bootstrap import Estimate
from metrics.stats.sampling import Sampling
from metrics.stats.seeds import estimate_over_seeds

TOP_K = 100  # the stored list's length, past which a rank counts for nothing
DAMPINGS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
NO_R = "none"  # stands where a λ does: ranks without R

Score = Callable[[np.ndarray], np.ndarray]  # what each rank is worth


def reciprocal(ranks: np.ndarray) -> np.ndarray:
    """What each rank adds to MRR: 1 / rank, and 0 beyond the stored list."""
    return np.where(ranks <= TOP_K, 1 / ranks, 0.0)


def hit_at_1(ranks: np.ndarray) -> np.ndarray:
    """What each rank adds to hit@1."""
    return (ranks <= 1).astype(float)


def hit_at_10(ranks: np.ndarray) -> np.ndarray:
    """What each rank adds to hit@10."""
    return (ranks <= 10).astype(float)


SCORES: dict[str, Score] = {"mrr": reciprocal, "hit@1": hit_at_1, "hit@10": hit_at_10}


@dataclass(frozen=True)
class Swept:
    """One corpus, model and projection.

    Attributes:
        data: ``factworld`` or ``trex``.
        corrected: whether gradients are divided by √V.
        label: what else is unlike the usual task; empty for the usual one.
        n_passages, side, seed: passages, projection of each side of a matrix, and model seed.
        dims: dimensions of a block.
        trace_ratio: tr(R_train) / tr(R_eval).
        clusters: number of the relation and answer of each query, ``[queries]``.
        mixings: the λ in use by the one asked for; an ``auto`` that was refused is not there.
        ranks: ranks by the λ asked for, ``[dampings, queries]``, and without R, ``[1, queries]``;
            101 stands for all that are lower than 100.
        leverage: mean part of a query in its own R, over blocks, ``[dampings]`` by λ.
    """

    data: str
    corrected: bool
    label: str
    n_passages: int
    side: int
    seed: int
    dims: int
    trace_ratio: float
    clusters: np.ndarray
    mixings: dict[str, float]
    ranks: dict[str, np.ndarray]
    leverage: dict[str, np.ndarray]

    @property
    def n_queries(self) -> int:
        """How many queries were asked."""
        return len(self.clusters)

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the queries to choose on, and of those to report on: a seeded draw."""
        order = random.Random(0).sample(range(self.n_queries), self.n_queries)
        half = self.n_queries // 2
        return np.sort(order[:half]), np.sort(order[half:])

    def at(self, mixing: str, damping: float, score: Score) -> np.ndarray:
        """Scores of all queries; between two dampings of the grid, linear in log damping."""
        values = score(self.ranks[mixing])
        if mixing == NO_R:
            return values[0]
        place = float(np.interp(np.log(damping), np.log(DAMPINGS), np.arange(len(DAMPINGS))))
        low, share = int(place), place % 1
        high = min(low + 1, len(DAMPINGS) - 1)
        return (1 - share) * values[low] + share * values[high]


def rule(c: float, dims: int, n_passages: int, least: float, most: float) -> float:
    """A damping that grows with dimensions over passages: c · dims / passages, bounded."""
    return float(np.clip(c * dims / n_passages, least, most))


def estimate(values: np.ndarray, clusters: np.ndarray) -> Estimate:
    """A mean with its interval over clusters of queries, and over models if there are several.

    Args:
        values: ``[queries]``, or ``[models, queries]``.
        clusters: ``[queries]``.
    """
    sampling = Sampling(labels={"relation_answer": clusters}, always=True)
    one = sampling.estimate("mrr", values) if values.ndim == 1 else None
    found = estimate_over_seeds(values, sampling) if values.ndim == 2 else one
    assert found is not None
    return found


def pack(folder: Path, path: Path) -> None:
    """Put all files of a sweep into one, without any text of the corpora."""
    rows = [row for file in sorted((folder / "ranks").glob("*.npz")) for row in _rows(file)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


def _rows(file: Path) -> list[dict[str, Any]]:
    """A row for each λ of one file."""
    with np.load(file) as arrays:
        facts = json.loads(str(arrays["facts"]))
        keys = list(zip(arrays["relation"].tolist(), arrays["target"].tolist(), strict=True))
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        about = {
            "data": facts["data"],
            "corrected": not facts["raw"],
            "label": " ".join(facts["label"]),
            "n_passages": facts["n_passages"],
            "side": facts["side"],
            "seed": facts["seed"],
            "dims": max(facts["blocks"]),
            "trace_ratio": facts["trace_ratio"],
            "clusters": np.array([numbers[key] for key in keys], dtype=np.uint16),
        }
        rows = [
            {
                **about,
                "asked": NO_R,
                "mixing": 0.0,
                "ranks": _bytes(arrays["plain"]),
                "leverage": [],
            }
        ]
        for asked, mixing in facts["mixings"].items():
            leverage = arrays[f"leverage-{asked}"].mean(axis=1).astype(np.float32)
            ranks = _bytes(arrays[f"ranks-{asked}"])
            rows.append(
                {**about, "asked": asked, "mixing": mixing, "ranks": ranks, "leverage": leverage}
            )
    return rows


def _bytes(ranks: np.ndarray) -> np.ndarray:
    return np.minimum(ranks, TOP_K + 1).astype(np.uint8).ravel()


def read(path: Path) -> list[Swept]:
    """All corpora, models and projections of a packed sweep, in the order of their files."""
    parts: dict[tuple, list[dict[str, Any]]] = {}
    names = ("data", "corrected", "label", "n_passages", "side", "seed", "dims", "trace_ratio")
    for row in pq.read_table(path).to_pylist():
        parts.setdefault(tuple(row[name] for name in names), []).append(row)
    return [
        Swept(
            *about,
            clusters=np.array(rows[0]["clusters"]),
            mixings={row["asked"]: row["mixing"] for row in rows if row["asked"] != NO_R},
            ranks={
                row["asked"]: np.array(row["ranks"]).reshape(-1, len(row["clusters"]))
                for row in rows
            },
            leverage={row["asked"]: np.array(row["leverage"]) for row in rows},
        )
        for about, rows in parts.items()
    ]
