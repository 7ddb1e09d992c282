"""All gradient methods, as one encoder with switches for V, R and unit norm."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.fields import identifying
from bench.models.checkpoints import spread_checkpoints
from bench.storage.keys import content_key
from bench.storage.locks import exclusive, exclusive_if_free
from bench.storage.sealed import move_aside_if
from bench.storage.sealed_arrays import arrays_sha256
from bench.tasks.base import Query
from methods.base import (
    GRADIENT_PARAMETERS,
    Context,
    IndexSize,
    Method,
    Ranking,
    Sibling,
    TokenShares,
)
from methods.costs import Costs, PlannedRun
from methods.gradient.collectors import Collector
from methods.gradient.cost import Architecture
from methods.gradient.estimate import estimate_whitening, passage_means
from methods.gradient.features import FEATURES_VERSION, Features
from methods.gradient.finish import Finish
from methods.gradient.hessian import check_blocks, refuse_too_few
from methods.gradient.index import IndexBuilder
from methods.gradient.parameters import coverage
from methods.gradient.partial_search import Scan, is_scanned
from methods.gradient.parts import (
    PARTS,
    PARTS_VERSION,
    SUFFIX,
    Handed,
    PartsFolder,
    SharedSeconds,
)
from methods.gradient.passes import gradient_costs
from methods.gradient.queries import encode_queries
from methods.gradient.query_groups import QueryGroups
from methods.gradient.recipes import EncoderRecipe
from methods.gradient.search import (
    MemoryPlan,
    Search,
    first_stage,
    query_bytes,
    refuse_second_pass,
    search_dtype,
)
from methods.gradient.settings import (
    CheckpointWeights,
    FeatureSettings,
    GradientConfig,
    Hessian,
    Output,
    Storage,
    Unsupported,
)
from methods.gradient.source import EncodedFeatures, FeatureSource
from methods.gradient.whitening import (
    Whitening,
    only_whitening,
    read_whitening,
    write_whitening,
)


class Gradient(Method):
    """Ranks by ⟨R^(-1/2) P(∇L(z_m)/√V), R^(-1/2) P(∇L(z_q)/√V)⟩, each side unit-normed if asked.

    Source: 2410.17413, equation of TrackStar and its ablations (Table 1).
    """

    Config = GradientConfig
    planned = True
    version = (FEATURES_VERSION, 2)
    config: GradientConfig

    def __init__(self, config: GradientConfig, context: Context) -> None:
        super().__init__(config, context)
        self._source: FeatureSource | None = None
        self._searched: Search | None = None  # held only where its scores are to be taken apart

    @classmethod
    def check_settings(cls, config: GradientConfig) -> None:
        """Refuse numbers out of range, a λ that cannot be found, and blocks too large for R."""
        super().check_settings(config)
        config.check()
        if config.has_matrices and config.projection_dim is not None:
            check_blocks([config.projection_dim**2])

    @classmethod
    def plan(cls, config: GradientConfig, architecture: Architecture, run: PlannedRun) -> Costs:
        """The costs of a run."""
        return gradient_costs(config, architecture, run)

    def check(self) -> None:
        """Refuse a model without the second moments or the checkpoints that are asked for."""
        config, model = self.config, self.context.model
        if config.output is not Output.loss and any(q.summed for q in self.context.task.queries):
            raise UserError(
                "task.answers=sum is of the answers' probabilities, and of another output there is "
                "no such sum",
                where=f"method.output={config.output.value}",
                fix="set method.output=loss, or task.answers=best",
            )
        if config.optimizer_correction:
            model.required_moments()
        spread_checkpoints(model, config.checkpoints)
        if self.context.spans:
            model.passage_places("")  # refused now rather than after the search
        by_rate = config.checkpoint_weights is CheckpointWeights.learning_rate
        if by_rate and config.checkpoints > 1 and model.learning_rate is None:
            raise UserError(
                "checkpoint_weights=learning_rate needs that of the last checkpoint",
                where="model.learning_rate",
                fix="set model.learning_rate, or method.checkpoint_weights=equal",
            )

    def index(self) -> IndexSize:
        """Encode the corpus, or open the index that another method of the same features made."""
        model, config, context = self.context.model, self.config, self.context
        features = Features(model, config)
        if config.unsupported is Unsupported.skip:
            context.facts[GRADIENT_PARAMETERS] = coverage(model.module, config)
        self._encoder, self._query_encoder = features.passages, features.queries
        if config.has_matrices:
            check_blocks(self._encoder.layout.blocks)
        if config.compares_spectra:
            refuse_too_few(self._encoder.layout.blocks, len(context.task.queries))
        passages, settings = context.task.passages, features.key_settings()
        recipe = EncoderRecipe(context.model_recipe, config, content_key(settings), passages)
        every = range(len(passages))
        self._encoded = EncodedFeatures(model, self._encoder, recipe, every)
        if config.storage is Storage.none:
            self._source = self._encoded
            return IndexSize()
        folder = context.cache_dir / "index" / "gradient" / recipe.key
        corpus = context.task.corpus_sha256
        builder = IndexBuilder(
            folder, settings, config.storage, self._encoded, recipe, corpus, context.mirror
        )
        index = builder.build(context.counts, context.engine)
        context.facts["encoding_seconds"] = index.seconds and round(index.seconds, 3)
        self._source = index
        return IndexSize(index.bytes, len(index.shards))

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Score all passages for groups of resident queries, keeping running lists."""
        groups = self._groups(queries)
        if self.config.storage is Storage.none:
            mib, dim = self.config.memory_mib, self._encoder.dim
            refuse_second_pass(mib, len(queries), dim, self._dtype)
        parts = self._parts(queries, groups.memory, top_k)
        rankings: list[Ranking] = []
        shared, lowest = SharedSeconds(), self.config.opponents
        with exclusive(parts.folder), ExitStack() as held:
            search = self._search(groups, parts, shared)
            beside = self._beside(groups, queries, parts, shared, held)
            for number, (start, features) in enumerate(groups):
                ids = [query.query_id for query in queries[start : start + len(features)]]
                rankings += search.find(ids, features, top_k, lowest, number, beside)
            _whitening_file(parts).unlink(missing_ok=True)
        self.context.facts.update(shared.facts)
        self._searched = search if self.context.spans else None
        yield from rankings

    def shares(
        self, queries: Sequence[Query], rankings: Sequence[Ranking], depth: int
    ) -> Iterator[TokenShares]:
        """⟨q, feature of token t⟩ of the listed passages, times what their scores were divided by.

        A passage's raw feature is a sum over its tokens, and what follows is linear in it, but for
        its own norm and weight, which all of its tokens share.
        """
        search = self._searched
        if search is None:
            raise ValueError("call search() before shares(), in a context with spans")
        finish = search.finish_exactly
        for start, features in self._groups(queries):
            vectors = finish.pulled_back(finish(features))
            for vector, ranking in zip(vectors, rankings[start:], strict=False):
                collectors = self._encoder.sharing(vector)
                yield TokenShares(
                    self._taken_apart(search, collectors, ranking.rows[:depth]),
                    self._taken_apart(search, collectors, ranking.opponent_rows[:depth]),
                )

    def _taken_apart(
        self, search: Search, collectors: Sequence[Sequence[Collector]], rows: np.ndarray
    ) -> list[np.ndarray]:
        """The shares of some passages' tokens, ``[tokens]`` each, in the order of ``rows``."""
        if not len(rows):
            return []
        ascending, places = np.unique(rows, return_inverse=True)
        factors = search.finish_exactly.own_factors(search.features(ascending)).cpu().numpy()
        taken_apart = []
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            tokens = self.context.model.passage_tokens(self.context.task.passages[row].text)
            by_checkpoint = self._encoder.shares(tokens, collectors).double().cpu().numpy()
            taken_apart.append(factors[place] @ by_checkpoint)
        return taken_apart

    def rescore(self, queries: Sequence[Query], rows: np.ndarray) -> Iterator[np.ndarray]:
        """Score chosen passages, float64 ``[candidates]`` a query, from the index or anew."""
        groups = self._groups(queries)
        parts = self._parts(queries, groups.memory, arrays_sha256({"rows": rows}))
        scores: list[np.ndarray] = []
        with exclusive(parts.folder):
            search = self._search(groups, parts, SharedSeconds())
            for number, (start, features) in enumerate(groups):
                scores += list(search.score(features, rows[start : start + len(features)], number))
        shutil.rmtree(parts.folder, ignore_errors=True)
        yield from scores

    def _parts(self, queries: Sequence[Query], memory: MemoryPlan, asked: int | str) -> PartsFolder:
        """The folder of a search's own parts, named by all that they follow from.

        Args:
            asked: how long the lists are, or which rows are scored.
        """
        if self._source is None:
            raise ValueError("call index() first")
        context, texts = self.context, [query.asked for query in queries]
        follows = [self._source.identity, self._encoded.identity, self.identifying_settings()]
        place = [asdict(memory), str(self._dtype), context.model.device.type]
        key = content_key([PARTS_VERSION, self.identity(), *follows, texts, *place, asked])
        folder = context.cache_dir / PARTS / f"search-{key}"
        return PartsFolder(folder, context.engine, context.mirror)

    def _groups(self, queries: Sequence[Query]) -> QueryGroups:
        return QueryGroups(self.encode_queries, self.memory(len(queries)), queries)

    def _search(self, groups: QueryGroups, parts: PartsFolder, shared: SharedSeconds) -> Search:
        config, source = self.config, self._source
        assert source is not None  # `_parts` has looked
        whitening = self._whitening(groups, parts, shared)
        candidates = None if config.storage is Storage.none else source
        return Search(
            scanned=source,
            candidates=candidates if config.rerank is None else self._encoded,
            finish=self._finish(whitening, self._dtype),
            finish_exactly=self._finish(whitening, torch.float64),
            rerank=config.rerank,
            memory=groups.memory,
            parts=parts,
            counts=self.context.counts,
            shared=shared,
        )

    def _finish(self, whitening: Handed[Whitening] | None, dtype: torch.dtype) -> Finish:
        device = self.context.model.device
        return Finish(self._encoder.layout, whitening, self.config.unit_norm, dtype, device)

    def _beside(
        self,
        groups: QueryGroups,
        queries: Sequence[Query],
        parts: PartsFolder,
        shared: SharedSeconds,
        held: ExitStack,
    ) -> list[Scan]:
        """First stages of the sweep's next cells that go over the same features as this search.

        Their lists are left in folders of their own, where their cells find them done. They are as
        many as fit beside this search's queries into half of ``memory_mib``.

        Args:
            held: gets the locks of their folders.
        """
        source, memory = self._source, groups.memory
        if self.config.storage is Storage.none or source is None or memory.queries < len(queries):
            return []
        siblings = self.context.siblings()
        began, scans, n_groups = time.perf_counter(), list[Scan](), len(source.groups())
        taken = query_bytes(self._encoder.dim, self._dtype)
        room = (self.config.memory_mib << 19) - len(queries) * taken
        for sibling in siblings:
            other = self._of_sibling(sibling, memory, len(queries))
            if other is None:
                continue
            own = other._parts(queries, memory, sibling.top_k)
            if own.folder == parts.folder or is_scanned(own, n_groups):
                continue
            if not held.enter_context(exclusive_if_free(own.folder)):
                continue
            with suppress(UserError):  # its own cell will say what is wrong with it
                whitening = other._whitening(groups, own, SharedSeconds(), keep=True)
                room -= len(queries) * taken + (0 if whitening is None else whitening().bytes)
                if room < 0:
                    break
                finish = other._finish(whitening, self._dtype)
                depths = (sibling.top_k, other.config.opponents, other.config.rerank)
                ((_, features),) = groups
                scans.append(first_stage(own, 0, features, finish, depths, memory.rows, n_groups))
        shared.for_others += time.perf_counter() - began
        return scans

    def _of_sibling(self, sibling: Sibling, memory: MemoryPlan, n_queries: int) -> Gradient | None:
        """The method of another cell, ready to search, if its features are those of this one."""
        config = sibling.config
        if sibling.kind is not type(self) or not _same_features(config, self.config):
            return None
        context = replace(
            self.context, facts={}, load_model=lambda: self.context.model, siblings=tuple
        )
        other = type(self)(config, context)
        other._encoder, other._query_encoder = self._encoder, self._query_encoder
        other._encoded, other._source = self._encoded, self._source
        return other if other.memory(n_queries) == memory else None

    @property
    def _dtype(self) -> torch.dtype:
        """The dtype of scores in the scan."""
        return search_dtype(self.context.model.gradient_dtype)

    def memory(self, n_queries: int) -> MemoryPlan:
        """Numbers of queries and passages that are held at a time."""
        return MemoryPlan.of(self.config.memory_mib, n_queries, self._encoder.dim, self._dtype)

    def encode_queries(self, queries: Sequence[Query]) -> Tensor:
        """Raw features of queries, float32 ``[queries, dim]``."""
        model = self.context.model
        answers = [model.query_answers(q) for q in queries]
        size, budget = self.config.batch_size, self.config.batch_tokens
        features = encode_queries(self._query_encoder, answers, size, budget)
        if self.config.passage_weight:
            features[:, -1] = 1  # the weight is of passages alone
        return features

    def _whitening(
        self, groups: QueryGroups, parts: PartsFolder, shared: SharedSeconds, *, keep: bool = False
    ) -> Handed[Whitening] | None:
        """R^(-1/2), from its file or estimated; what it is made of goes to the facts.

        Args:
            keep: write the file in any case, for another run.
        """
        config, context, blocks = self.config, self.context, self._encoder.layout.blocks
        if config.hessian is Hessian.none:
            return None
        source, path = self._source, _whitening_file(parts)
        assert source is not None  # `_parts` has looked
        move_aside_if(path, lambda: read_whitening(path))
        if path.exists():
            whitening, facts, seconds = read_whitening(path)
            shared.by_others += seconds
        else:
            began = time.perf_counter()
            passages = passage_means(
                config,
                blocks,
                source if config.storage.gives_hessian else self._encoded,
                groups.memory.rows,
                context.model.device,
                PartsFolder(context.cache_dir / PARTS, context.engine, context.mirror),
                context.counts,
                shared,
            )
            facts = {}
            features = lambda: (queries for _, queries in groups)  # noqa: E731
            whitening = estimate_whitening(config, blocks, passages, features, facts)
            seconds = time.perf_counter() - began + shared.by_others
        context.facts.update(facts)
        n_groups = max(len(source.groups()), len(self._encoded.groups()))
        if keep or parts.sends(n_groups):
            write_whitening(path, whitening, facts, seconds)
        return Handed(whitening, path, only_whitening)


def _same_features(one: GradientConfig, other: GradientConfig) -> bool:
    """Whether passages and queries have the same features, in the same format."""
    both = (one, other)
    return all(
        first == second
        for first, second in (
            [identifying(config, FeatureSettings) for config in both],
            [config.storage for config in both],
            [config.correct_queries for config in both],
            [config.checkpoint_weights for config in both],
        )
    )


def _whitening_file(parts: PartsFolder) -> Path:
    return parts.folder / f"whitening{SUFFIX}"
