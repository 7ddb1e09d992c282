"""Features of a task in memory, and TrackStar's ranks for many dampings from one R a λ.

The engine decomposes R for each setting; here R is decomposed once for a λ, features are turned
into its eigenvectors, and a damping then only changes what each eigenvector is divided by. R and
its decomposition are in float64, as the engine's; so are the products for blocks of up to 1,024
dimensions, and beyond in float32, as the engine's scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from swept import TOP_K
from torch import Tensor

from bench.run.composing import composed
from bench.run.parts import model_source, task_builder
from bench.run.settings import settings_from
from bench.tasks import Query, load_task
from methods.base import Context
from methods.choosing import chosen
from methods.gradient import hessian
from methods.gradient.features import Features
from methods.gradient.method import Gradient
from methods.gradient.recipes import EncoderRecipe
from methods.gradient.source import EncodedFeatures

_ROWS_AT_ONCE = 4096
_TINY = 1e-30  # norms below are those of passages without gradient
_EXACT = 1024  # dimensions of a block up to which products are in float64


@dataclass(frozen=True)
class Encoded:
    """A task's raw features, as an index stores them.

    Attributes:
        passages: float32 ``[passages, dim]``.
        features: those of the queries, float32 ``[queries, dim]``.
        queries: the queries, in the order of their features.
        blocks: sizes of the blocks of R.
        method: the engine's method, to compare with.
    """

    passages: Tensor
    features: Tensor
    queries: Sequence[Query]
    blocks: list[int]
    method: Gradient

    def of(self, rows: np.ndarray) -> Encoded:
        """The same with some of the queries alone."""
        return replace(
            self, features=self.features[rows], queries=[self.queries[row] for row in rows]
        )


def encode(overrides: Sequence[str], cache: Path) -> Encoded:
    """Prepare a task, train its model if it is not there, and encode both sides in memory."""
    settings = settings_from(composed([*overrides, f"cache_dir={cache}"], "benchmark"))
    task = load_task(settings.task["name"], task_builder(settings), settings.cache_dir)
    model = model_source(settings).load(task, settings.cache_dir, "cpu")
    _, config = chosen(settings.method)
    method = Gradient(config, Context(task, settings.cache_dir, load_model=lambda: model))
    method.check()
    method.index()
    encoder = Features(model, config).passages
    recipe = EncoderRecipe(lambda: model, config, "", task.passages)
    source = EncodedFeatures(model, encoder, recipe, range(len(task.passages)))
    passages = torch.cat([block for _, block in source.blocks(_ROWS_AT_ONCE)])
    features = method.encode_queries(task.queries)
    return Encoded(passages, features, task.queries, encoder.layout.blocks, method)


@dataclass(frozen=True)
class Ranks:
    """What one λ gave.

    Attributes:
        ranks: of each query's first correct passage, from 1, int64 ``[dampings, queries]``.
        leverage: a query's mean part in its own R, ``[dampings, blocks]``: the mean over queries
            of (λ / n) gᵀ R⁻¹ g, n the number of queries.
    """

    ranks: np.ndarray
    leverage: np.ndarray


class Whitener:
    """R of both sides of a task, and ranks by cosine after R^(-1/2)."""

    def __init__(self, encoded: Encoded) -> None:
        self._encoded, blocks = encoded, encoded.blocks
        self._gold = [np.asarray(query.gold_rows) for query in encoded.queries]
        self._train = hessian.Outer(blocks).mean(encoded.passages.split(_ROWS_AT_ONCE))
        self._evaluation = hessian.Outer(blocks).mean([encoded.features])

    @cached_property
    def crossing(self) -> float:
        """λ of the crossing rule; raises UserError where the rule has no answer."""
        train = hessian.spectra(self._train, "passages")
        return hessian.crossing_mixing(train, hessian.spectra(self._evaluation, "queries"))

    @property
    def trace_ratio(self) -> float:
        """tr(R_train) / tr(R_eval)."""
        return float(sum(map(torch.trace, self._train)) / sum(map(torch.trace, self._evaluation)))

    def plain(self) -> np.ndarray:
        """Ranks by cosine without R: int64 ``[queries]``."""
        passages, features = self._encoded.passages, self._encoded.features
        scores = features @ passages.T / passages.norm(dim=1).clamp_min(_TINY)
        return first_ranks(scores.numpy(), self._gold)

    def ranks(self, mixing: float, dampings: Sequence[float]) -> Ranks:
        """Ranks for one λ and several dampings, each a share of a block's mean eigenvalue."""
        n_passages, n_queries = len(self._encoded.passages), len(self._gold)
        dtype = torch.float64 if max(self._encoded.blocks) <= _EXACT else torch.float32
        scores = torch.zeros(len(dampings), n_queries, n_passages, dtype=dtype)
        norms = torch.zeros(len(dampings), n_passages, dtype=dtype)
        leverage = np.zeros((len(dampings), len(self._encoded.blocks)))
        parts = zip(
            self._encoded.passages.split(self._encoded.blocks, dim=1),
            self._encoded.features.split(self._encoded.blocks, dim=1),
            hessian.mix(self._evaluation, self._train, mixing),
            strict=True,
        )
        for block, (passages, features, r) in enumerate(parts):
            values, vectors = torch.linalg.eigh(r)
            values, vectors = values.clamp_min(0), vectors.to(dtype)
            inverses = [(1 / (values + d * values.mean())).to(dtype) for d in dampings]
            turned = features.to(dtype) @ vectors
            for number, inverse in enumerate(inverses):
                squares = turned.square() @ inverse
                leverage[number, block] = mixing / n_queries * float(squares.mean())
            for start in range(0, n_passages, _ROWS_AT_ONCE):
                rows = slice(start, start + _ROWS_AT_ONCE)
                part = passages[rows].to(dtype) @ vectors
                squares = part.square()
                for number, inverse in enumerate(inverses):
                    scores[number][:, rows] += (turned * inverse) @ part.T
                    norms[number][rows] += squares @ inverse
        ranks = [
            first_ranks((one / norm.sqrt().clamp_min(_TINY)).numpy(), self._gold)
            for one, norm in zip(scores, norms, strict=True)
        ]
        return Ranks(np.stack(ranks), leverage)


def first_ranks(scores: np.ndarray, gold: Sequence[np.ndarray]) -> np.ndarray:
    """Rank of each query's first correct passage, from 1; equal scores in order of rows.

    Args:
        scores: ``[queries, passages]``; a query's own norm may be left out.
        gold: rows of each query's correct passages, at least one each.
    """
    ranks = np.empty(len(gold), dtype=np.int64)
    for number, (row, correct) in enumerate(zip(scores, gold, strict=True)):
        best = row[correct].max()
        first = correct[row[correct] == best].min()
        ranks[number] = 1 + (row > best).sum() + (row[:first] == best).sum()
    return ranks


def check_engine(encoded: Encoded) -> None:
    """Raise AssertionError unless the engine ranks each first correct passage where this does."""
    config = encoded.method.config
    (ranks,) = Whitener(encoded).ranks(float(config.mixing), [float(config.damping)]).ranks
    rankings = encoded.method.search(encoded.queries, TOP_K)
    for query, rank, ranking in zip(encoded.queries, ranks, rankings, strict=True):
        places = np.flatnonzero(np.isin(ranking.rows, query.gold_rows))
        first = places[0] + 1 if len(places) else None
        assert first == (rank if rank <= TOP_K else None), (query.query_id, first, rank)
