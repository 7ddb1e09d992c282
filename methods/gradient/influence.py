"""Influence functions with exact gradients: what methods share that differ in the inverse Hessian.

score(q, m) = Σ_matrices ⟨g_m, H⁻¹ g_q⟩, with g_m of a passage's tokens and g_q of the target's
alone, both of the summed loss. The queries are multiplied by H⁻¹ once and stay in memory; passages
are encoded batch by batch, scored and forgotten, so nothing of a passage is stored. Positive scores
are of passages that lower the query's loss. Source: Koh & Liang 2017, 1703.04730.

A query takes as many numbers as the matrices have (D), so this is for small and medium models: half
of ``memory_mib`` holds queries × 16 D bytes (20 D in float64), and queries that do not fit take
another pass over the corpus.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Optional

import numpy as np
import torch
from torch import Tensor

from bench.core import progress
from bench.core.errors import UserError, at_least
from bench.tasks.base import Query
from methods.base import GRADIENT_PARAMETERS, IndexSize, Method, Ranking
from methods.gradient.batching import encode_all
from methods.gradient.checkpoints import CheckpointEncoder
from methods.gradient.encoder import GradientEncoder
from methods.gradient.features import FEATURES_VERSION
from methods.gradient.parameters import Adapters, BlockLayout, Unsupported, coverage
from methods.gradient.search import Finish, MemoryPlan, Search
from methods.gradient.source import EncodedFeatures


@dataclass
class InfluenceConfig:
    """See ``conf/method/_influence.yaml``."""

    damping: float
    sample: Optional[int]  # noqa: UP045 - omegaconf reads the annotation at run time
    opponents: int
    memory_mib: int
    batch_size: int
    batch_tokens: Optional[int]  # noqa: UP045
    layers: Optional[list[int]]  # noqa: UP045
    adapters: Adapters
    unsupported: Unsupported
    seed: int


class Influence(Method):
    """Ranks by ⟨g_m, H⁻¹ g_q⟩; a subclass says what H⁻¹ is.

    Attributes:
        encoder: of exact gradients, a block a matrix, ``[out, in]`` flattened; after ``index``.
    """

    Config: ClassVar[type] = InfluenceConfig
    config: InfluenceConfig
    encoder: GradientEncoder

    def check(self) -> None:
        """Refuse settings that cannot work, before anything is trained or encoded."""
        config = self.config
        if not 0 < config.damping < float("inf"):
            raise UserError(
                f"expected a number above 0, found {config.damping:g}",
                where="method.damping",
                fix="without damping H has no inverse where passages are few; the sources take 0.1",
            )
        least = {"sample": 1, "memory_mib": 1, "batch_size": 1, "batch_tokens": 1, "opponents": 0}
        for name, bound in least.items():
            at_least(bound, f"method.{name}", getattr(config, name))

    def index(self) -> IndexSize:
        """Open the encoder and estimate of the Hessian what does not depend on a query."""
        config = self.config
        self.encoder = GradientEncoder(
            self.context.model,
            projection_dim=None,
            layer_blocks=1,  # has no say where each matrix is a block
            seed=config.seed,
            second_moments=None,
            adapters=config.adapters,
            unsupported=config.unsupported,
            block_layout=BlockLayout.matrices,
            layers=config.layers,
        )
        self._checkpoints = CheckpointEncoder([self.encoder], [1.0], weighted=False)
        if config.unsupported is Unsupported.skip:
            module = self.context.model.module
            self.context.facts[GRADIENT_PARAMETERS] = coverage(
                module, config.adapters, config.layers
            )
        self.context.facts["hessian_passages"] = len(self.hessian_rows())
        return self.estimate()

    @abstractmethod
    def estimate(self) -> IndexSize:
        """What of the Hessian does not depend on a query; called once, by ``index``."""

    @abstractmethod
    def precondition(self, queries: Tensor) -> Tensor:
        """H⁻¹ g of each query: ``[queries, dim]`` in, the same out; may overwrite its argument."""

    # ------------------------------------------------------------------ for subclasses

    @property
    def dtype(self) -> torch.dtype:
        """Of gradients and scores while they are computed: float32 unless the model's are wider."""
        wide = self.context.model.gradient_dtype == torch.float64
        return torch.float64 if wide else torch.float32

    def hessian_rows(self) -> np.ndarray:
        """Passages that the Hessian is estimated from, ascending: all, or a sample by seed."""
        n_rows, wanted = len(self.context.task.passages), self.config.sample
        if wanted is None or wanted >= n_rows:
            return np.arange(n_rows)
        drawn = random.Random(self.config.seed).sample(range(n_rows), wanted)  # noqa: S311
        return np.sort(np.array(drawn))

    def hessian_gradients(self, what: str) -> Iterator[Tensor]:
        """Gradients of those passages, ``[some, dim]``, encoded while they are asked for.

        Args:
            what: what is done with them, for the progress.
        """
        plan, rows = self._plan(1), self.hessian_rows()
        source = self._source(plan)
        starts = range(0, len(rows), plan.rows)
        for start in progress.track(starts, what, unit="blocks"):
            found = source.rows(rows[start : start + plan.rows])
            yield found.to(self.encoder.device, self.dtype)

    def by_matrix(self, gradients: Tensor) -> tuple[Tensor, ...]:
        """Views of the columns of each matrix: ``[rows, out · in]``."""
        return gradients.split(self.encoder.block_sizes, dim=1)

    def key_settings(self) -> dict[str, Any]:
        """All that a gradient depends on beside its text."""
        model, config = self.context.model, self.config
        return {
            "features_version": FEATURES_VERSION,
            "model": model.sha256,
            "append_eos": model.append_eos,
            "context_length": model.context_length,
            "dtype": str(model.gradient_dtype),
            "weights_dtype": str(next(model.module.parameters()).dtype),
            "layers": config.layers and list(config.layers),
            "adapters": config.adapters.value,
            "unsupported": config.unsupported.value,
        }

    # ------------------------------------------------------------------ scoring

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Score all passages against groups of resident queries, keeping running lists."""
        plan = self._plan(len(queries))
        search = self._search(plan)
        for start, preconditioned in self._groups(queries, plan):
            source = self._source(plan)
            if start == 0:  # what is cut or without loss is counted in one of the passes
                source = replace(source, counts=self.context.counts)
            one_pass = replace(search, scanned=source)
            found = one_pass.find(preconditioned, top_k, self.config.opponents)
            some = queries[start : start + len(preconditioned)]
            for query, one in zip(some, found, strict=True):
                yield Ranking(query.query_id, **vars(one))

    def rescore(self, queries: Sequence[Query], rows: np.ndarray) -> Iterator[np.ndarray]:
        """Score chosen passages, int64 ``[queries, candidates]``, from gradients encoded now."""
        plan = self._plan(len(queries))
        search = self._search(plan)
        for start, preconditioned in self._groups(queries, plan):
            yield from search.score(preconditioned, rows[start : start + len(preconditioned)])

    def _plan(self, n_queries: int) -> MemoryPlan:
        """How many queries and passages are held at a time."""
        return MemoryPlan.of(self.config.memory_mib, n_queries, self.encoder.dim, self.dtype)

    def _groups(self, queries: Sequence[Query], plan: MemoryPlan) -> Iterator[tuple[int, Tensor]]:
        """(first query, H⁻¹ g of a group ``[queries, dim]``)."""
        model, config = self.context.model, self.config
        for start in range(0, len(queries), plan.queries):
            some = queries[start : start + plan.queries]
            tokens = [model.query_tokens(q) for q in some]
            size = min(config.batch_size, plan.rows)
            raw = encode_all(self.encoder, tokens, size, config.batch_tokens)
            yield start, self.precondition(raw.to(self.encoder.device, self.dtype))

    def _source(self, plan: MemoryPlan) -> EncodedFeatures:
        config, context = self.config, self.context
        return EncodedFeatures(
            context.model,
            self._checkpoints,
            context.task.passages,
            min(config.batch_size, plan.rows),
            config.batch_tokens,
        )

    def _search(self, plan: MemoryPlan) -> Search:
        """Inner products of gradients as they are with queries that are preconditioned already."""

        def finish(dtype: torch.dtype) -> Finish:
            return Finish(self._checkpoints.layout, None, False, dtype, self.encoder.device)

        return Search(
            scanned=self._source(plan),
            candidates=None,
            finish=finish(self.dtype),
            finish_exactly=finish(torch.float64),
            depth=0,
            memory=plan,
        )
