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
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.engines.base import Job
from bench.storage.keys import content_key
from bench.storage.locks import exclusive
from bench.storage.sealed import move_aside_if
from bench.storage.sealed_arrays import arrays_sha256
from bench.tasks.base import Query
from methods.base import (
    GRADIENT_PARAMETERS,
    Context,
    IndexSize,
    Method,
    Ranking,
    TokenShares,
)
from methods.gradient.checkpoints import CheckpointEncoder
from methods.gradient.collectors import Collector
from methods.gradient.encoder import GradientEncoder
from methods.gradient.finish import Finish
from methods.gradient.gradient_sums import MOST_GROUPS_OF_SUMS, GradientSums, sum_gradients
from methods.gradient.groups import cut, least_texts
from methods.gradient.parameters import coverage
from methods.gradient.partial_search import read_tensor, write_tensor
from methods.gradient.partial_sums import Sums, merged_sums
from methods.gradient.parts import PARTS, PARTS_VERSION, SUFFIX, PartsFolder
from methods.gradient.queries import encode_queries
from methods.gradient.recipes import ExactRecipe, exact_key_settings
from methods.gradient.search import MemoryPlan, Search, search_dtype
from methods.gradient.settings import (
    InfluenceConfig,
    Unsupported,
    exact_gradients,
)
from methods.gradient.source import EncodedFeatures, rows_by_seed

_PRECONDITIONED = "preconditioned"  # how the files of queries multiplied by H⁻¹ are called


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

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self._searched: PartsFolder | None = None

    def check(self) -> None:
        """Refuse a tokenizer that does not tell where tokens are, if shares will be asked for."""
        if self.context.spans:
            self.context.model.passage_places("")

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

    def hessian_sums(self, name: str, what: str, work: GradientSums) -> Sums:
        """Sums over these passages, made in groups of them by the run's engine.

        Args:
            name: what tells the sums from others, beside the gradients.
            what: name of the step, for its progress.
        """
        plan, rows, device = self._plan(1), self.hessian_rows(), self.encoder.device
        source, sampled = self._source(plan), None
        if len(rows) < source.n_rows:
            sampled = rows.tolist()
        place = [plan.rows, str(self.dtype), device.type]
        key = content_key([PARTS_VERSION, source.identity, sampled, *place, name])
        context = self.context
        parts = PartsFolder(
            context.cache_dir / PARTS / f"sums-{key}", context.engine, context.mirror
        )
        jobs = []
        for number, run in enumerate(self._hessian_groups()):
            target = parts.folder / f"group-{number:05d}{SUFFIX}"
            own = rows[run.start : run.stop]
            arguments = (source, work, own, plan.rows, self.dtype, what, target)
            jobs.append(Job(sum_gradients, arguments, target))
        with exclusive(parts.folder):
            total, _ = merged_sums(parts, jobs, what, parts.folder / f"sums{SUFFIX}")
        shutil.rmtree(parts.folder, ignore_errors=True)
        return total

    def _hessian_groups(self) -> list[range]:
        """The places in ``hessian_rows`` of each group."""
        least = least_texts(self.encoder.dim)
        return cut(len(self.hessian_rows()), least, MOST_GROUPS_OF_SUMS)

    @property
    def n_hessian_groups(self) -> int:
        """The number of groups that ``hessian_sums`` has."""
        return len(self._hessian_groups())

    def passages(self, config: InfluenceConfig) -> EncodedFeatures:
        """The passages' gradients, encoded whenever they are asked for, here or elsewhere.

        Args:
            config: the settings of the method, which bound a batch.
        """
        context, key = self.context, content_key(self.key_settings)
        recipe = ExactRecipe(context.model_recipe, config, key, context.task.passages)
        every = range(len(context.task.passages))
        return EncodedFeatures(context.model, self._checkpoints, recipe, every)

    def by_matrix(self, gradients: Tensor) -> tuple[Tensor, ...]:
        """Views of each matrix's columns, ``[rows, out · in]``."""
        return gradients.split(self.encoder.block_sizes, dim=1)

    # ------------------------------------------------------------------ scoring

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Score all passages for groups of resident queries, keeping running lists."""
        plan, rankings = self._plan(len(queries)), list[Ranking]()
        parts = self._parts(queries, plan, top_k)
        with exclusive(parts.folder):
            for number, (start, some) in enumerate(self._groups(queries, plan, parts)):
                # Texts that are cut are counted in one pass.
                counts = self.context.counts if number == 0 else Counter[str]()
                ids = [query.query_id for query in queries[start : start + len(some)]]
                search = self._search(plan, parts, counts)
                rankings += search.find(ids, some, top_k, self.config.opponents, number)
        self._searched = parts
        yield from rankings

    def shares(
        self, queries: Sequence[Query], rankings: Sequence[Ranking], depth: int
    ) -> Iterator[TokenShares]:
        """⟨H⁻¹ g_q, δ_t x_tᵀ⟩ of each token t of the listed passages, over all matrices."""
        parts = self._searched
        if parts is None:
            raise ValueError("call search() before shares()")
        for start, some in self._groups(queries, self._plan(len(queries)), parts):
            for vector, ranking in zip(some, rankings[start:], strict=False):
                collectors = self._checkpoints.sharing(vector)
                yield TokenShares(
                    [self._of_tokens(row, collectors) for row in ranking.rows[:depth]],
                    [self._of_tokens(row, collectors) for row in ranking.opponent_rows[:depth]],
                )
        self._remove(parts)

    def _of_tokens(self, row: int, collectors: Sequence[Sequence[Collector]]) -> np.ndarray:
        """The shares of one passage's tokens, float64 ``[tokens]``."""
        tokens = self.context.model.passage_tokens(self.context.task.passages[int(row)].text)
        (shares,) = self._checkpoints.shares(tokens, collectors).double().cpu().numpy()
        return shares

    def rescore(self, queries: Sequence[Query], rows: np.ndarray) -> Iterator[np.ndarray]:
        """Score chosen passages, float64 ``[candidates]`` a query, from gradients encoded now."""
        plan, scores = self._plan(len(queries)), list[np.ndarray]()
        parts = self._parts(queries, plan, arrays_sha256({"rows": rows}))
        with exclusive(parts.folder):
            search = self._search(plan, parts, Counter())
            for number, (start, some) in enumerate(self._groups(queries, plan, parts)):
                scores += list(search.score(some, rows[start : start + len(some)], number))
        shutil.rmtree(parts.folder, ignore_errors=True)
        yield from scores

    def _parts(self, queries: Sequence[Query], plan: MemoryPlan, asked: int | str) -> PartsFolder:
        """The folder of a search's own parts, named by all that they follow from.

        Args:
            asked: how long the lists are, or which rows are scored.
        """
        context, texts = self.context, [query.asked for query in queries]
        source = [self.key_settings, self.identifying_settings(), context.task.passages.sha256]
        place = [asdict(plan), str(self.dtype), self.encoder.device.type]
        key = content_key([PARTS_VERSION, self.identity(), *source, texts, *place, asked])
        folder = context.cache_dir / PARTS / f"search-{key}"
        return PartsFolder(folder, context.engine, context.mirror)

    def _plan(self, n_queries: int) -> MemoryPlan:
        """Numbers of queries and passages that are held at a time."""
        return MemoryPlan.of(self.config.memory_mib, n_queries, self.encoder.dim, self.dtype)

    def _groups(
        self, queries: Sequence[Query], plan: MemoryPlan, parts: PartsFolder
    ) -> Iterator[tuple[int, Tensor]]:
        """Stream the number of the first query and H⁻¹ g, ``[queries, dim]``, of each group.

        Each group's is kept in a file until it is searched, and taken apart: it may have taken a
        pass.
        """
        for number, start in enumerate(range(0, len(queries), plan.queries)):
            path = parts.folder / f"{_PRECONDITIONED}-{number}{SUFFIX}"
            move_aside_if(path, partial(read_tensor, path))
            if path.exists():
                preconditioned = read_tensor(path).to(self.encoder.device)
            else:
                some = queries[start : start + plan.queries]
                preconditioned = self.precondition(self._encoded(some, plan))
                write_tensor(path, preconditioned)
            yield start, preconditioned
            if not self.context.spans:
                path.unlink()

    @staticmethod
    def _remove(parts: PartsFolder) -> None:
        for path in parts.folder.glob(f"{_PRECONDITIONED}-*{SUFFIX}"):
            path.unlink(missing_ok=True)

    def _encoded(self, queries: Sequence[Query], plan: MemoryPlan) -> Tensor:
        """The gradients of some queries, ``[queries, dim]``."""
        config, answers = self.config, [self.context.model.query_answers(q) for q in queries]
        size = min(config.batch_size, plan.rows)
        raw = encode_queries(self.encoder, answers, size, config.batch_tokens)
        return raw.to(self.encoder.device, self.dtype)

    def _source(self, plan: MemoryPlan) -> EncodedFeatures:
        """The passages' gradients, in batches that fit a block."""
        config = self.config
        return self.passages(replace(config, batch_size=min(config.batch_size, plan.rows)))

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
