"""Influence functions with exact gradients: the common part of methods with different Hessians.

score(q, m) = Σ_matrices ⟨g_m, H⁻¹ g_q⟩, with g_m of a passage's tokens and g_q of the target's
alone, both of the summed loss. The queries are multiplied by H⁻¹ once and stay in memory; passages
are encoded batch by batch, scored and forgotten, so nothing of a passage is stored. Positive scores
are of passages that lower the query's loss. Source: Koh & Liang 2017, 1703.04730.

A query takes as many numbers as the matrices have (D), so this is for small and medium models: half
of ``memory_mib`` holds queries × 16 D bytes (20 D in float64), and queries that do not fit take
another pass over the corpus.
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.core import progress
from bench.storage.keys import content_key
from bench.storage.locks import exclusive
from bench.tasks.base import Query
from methods.base import GRADIENT_PARAMETERS, IndexSize, Method, Ranking
from methods.gradient.batching import encode_all
from methods.gradient.checkpoints import CheckpointEncoder
from methods.gradient.encoder import GradientEncoder
from methods.gradient.finish import Finish
from methods.gradient.parameters import coverage
from methods.gradient.parts import PARTS, PARTS_VERSION, PartsFolder, arrays_key
from methods.gradient.recipes import ExactRecipe, exact_key_settings
from methods.gradient.search import MemoryPlan, Search, search_dtype
from methods.gradient.settings import (
    InfluenceConfig,
    Unsupported,
    exact_gradients,
)
from methods.gradient.source import EncodedFeatures, rows_by_seed


class Influence(Method):
    """Ranks by ⟨g_m, H⁻¹ g_q⟩; a subclass defines H⁻¹.

    Attributes:
        encoder: encoder of exact gradients, which ``index`` makes; each matrix is a block,
            ``[out, in]`` flattened.
        key_settings: all that a gradient depends on beside its text, likewise.
    """

    Config: ClassVar[type] = InfluenceConfig
    config: InfluenceConfig
    encoder: GradientEncoder
    key_settings: dict[str, Any]

    def index(self) -> IndexSize:
        """Make the encoder, and estimate the part of the Hessian that depends on no query."""
        self.encoder = GradientEncoder(self.context.model, exact_gradients(self.config))
        self.key_settings = exact_key_settings(self.context.model, self.config)
        self._checkpoints = CheckpointEncoder([self.encoder], [1.0], weighted=False)
        if self.config.unsupported is Unsupported.skip:
            module = self.context.model.module
            self.context.facts[GRADIENT_PARAMETERS] = coverage(module, self.config)
        self.context.facts["hessian_passages"] = len(self.hessian_rows())
        return self.estimate()

    @abstractmethod
    def estimate(self) -> IndexSize:
        """Estimate the part of the Hessian that depends on no query; ``index`` calls it once."""

    @abstractmethod
    def precondition(self, queries: Tensor) -> Tensor:
        """H⁻¹ g of each query's gradient g, ``[queries, dim]``; may overwrite its argument."""

    # ------------------------------------------------------------------ for subclasses

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of gradients and scores while they are computed."""
        return search_dtype(self.context.model.gradient_dtype)

    def hessian_rows(self) -> np.ndarray:
        """Ascending rows that the Hessian is estimated from: all, or a sample by seed."""
        n_rows = len(self.context.task.passages)
        return rows_by_seed(n_rows, self.config.sample, self.config.seed)

    def hessian_gradients(self, what: str) -> Iterator[Tensor]:
        """Stream the gradients of these passages, ``[some, dim]``, encoded as they are asked for.

        Args:
            what: name of the step, for its progress.
        """
        plan, rows = self._plan(1), self.hessian_rows()
        source = self._source(plan)
        starts = range(0, len(rows), plan.rows)
        for start in progress.track(starts, what, unit="blocks"):
            gradients = source.rows(rows[start : start + plan.rows])
            yield gradients.to(self.encoder.device, self.dtype)

    def by_matrix(self, gradients: Tensor) -> tuple[Tensor, ...]:
        """Views of each matrix's columns, ``[rows, out · in]``."""
        return gradients.split(self.encoder.block_sizes, dim=1)

    # ------------------------------------------------------------------ scoring

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Score all passages for groups of resident queries, keeping running lists."""
        plan, rankings = self._plan(len(queries)), list[Ranking]()
        parts = self._parts(queries, plan, top_k)
        with exclusive(parts.folder):
            for number, (start, some) in enumerate(self._groups(queries, plan)):
                # Texts that are cut are counted in one pass.
                counts = self.context.counts if number == 0 else Counter[str]()
                ids = [query.query_id for query in queries[start : start + len(some)]]
                search = self._search(plan, parts, counts)
                rankings += search.find(ids, some, top_k, self.config.opponents, number)
        yield from rankings

    def rescore(self, queries: Sequence[Query], rows: np.ndarray) -> Iterator[np.ndarray]:
        """Score chosen passages, float64 ``[candidates]`` a query, from gradients encoded now."""
        plan, scores = self._plan(len(queries)), list[np.ndarray]()
        parts = self._parts(queries, plan, arrays_key({"rows": rows}))
        with exclusive(parts.folder):
            search = self._search(plan, parts, Counter())
            for number, (start, some) in enumerate(self._groups(queries, plan)):
                scores += list(search.score(some, rows[start : start + len(some)], number))
        shutil.rmtree(parts.folder, ignore_errors=True)
        yield from scores

    def _parts(self, queries: Sequence[Query], plan: MemoryPlan, asked: int | str) -> PartsFolder:
        """The folder of a search's own parts, named by all that they follow from.

        Args:
            asked: how long the lists are, or which rows are scored.
        """
        context, texts = self.context, [[q.prompt, q.separator, q.target] for q in queries]
        source = [self.key_settings, self.identifying_settings(), context.task.passages.sha256]
        place = [asdict(plan), str(self.dtype), self.encoder.device.type]
        key = content_key([PARTS_VERSION, self.identity(), *source, texts, *place, asked])
        return PartsFolder(context.cache_dir / PARTS / f"search-{key}", context.engine)

    def _plan(self, n_queries: int) -> MemoryPlan:
        """Numbers of queries and passages that are held at a time."""
        return MemoryPlan.of(self.config.memory_mib, n_queries, self.encoder.dim, self.dtype)

    def _groups(self, queries: Sequence[Query], plan: MemoryPlan) -> Iterator[tuple[int, Tensor]]:
        """Stream the number of the first query and H⁻¹ g, ``[queries, dim]``, of each group."""
        model, config = self.context.model, self.config
        for start in range(0, len(queries), plan.queries):
            some = queries[start : start + plan.queries]
            tokens = [model.query_tokens(q) for q in some]
            size = min(config.batch_size, plan.rows)
            raw = encode_all(self.encoder, tokens, size, config.batch_tokens)
            yield start, self.precondition(raw.to(self.encoder.device, self.dtype))

    def _source(self, plan: MemoryPlan) -> EncodedFeatures:
        """The passages' gradients, in batches that fit a block."""
        config, context = self.config, self.context
        fitting = replace(config, batch_size=min(config.batch_size, plan.rows))
        key, passages = content_key(self.key_settings), context.task.passages
        recipe = ExactRecipe(context.model_recipe, fitting, key, passages)
        return EncodedFeatures(context.model, self._checkpoints, recipe, range(len(passages)))

    def _search(self, plan: MemoryPlan, parts: PartsFolder, counts: Counter[str]) -> Search:
        """A search by inner products of plain gradients with queries preconditioned before."""

        def finish(dtype: torch.dtype) -> Finish:
            return Finish(self._checkpoints.layout, None, False, dtype, self.encoder.device)

        return Search(
            scanned=self._source(plan),
            candidates=None,
            finish=finish(self.dtype),
            finish_exactly=finish(torch.float64),
            rerank=None,
            memory=plan,
            parts=parts,
            counts=counts,
        )
