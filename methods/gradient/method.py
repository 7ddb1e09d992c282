"""All gradient methods as one encoder with switches: V, R and unit norm (protocol, section 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional, Union

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import UserError, at_least
from bench.models.checkpoints import spread_checkpoints
from bench.models.language_model import LanguageModel
from bench.storage.keys import content_key
from bench.tasks.base import Query
from methods.base import GRADIENT_PARAMETERS, Context, IndexSize, Method, Ranking
from methods.gradient.batching import encode_all
from methods.gradient.codecs import Storage
from methods.gradient.estimate import Hessian, HessianSettings, estimate_whitening
from methods.gradient.features import FEATURES_VERSION, CheckpointWeights, Features, FeatureSettings
from methods.gradient.hessian import check_blocks
from methods.gradient.index import IndexBuilder
from methods.gradient.loss import Output
from methods.gradient.parameters import Adapters, BlockLayout, Unsupported, coverage
from methods.gradient.search import Finish, MemoryPlan, Search
from methods.gradient.shards import EncoderRecipe
from methods.gradient.source import EncodedFeatures, FeatureSource
from methods.gradient.whitening import HessianForm

# What a lossy index says of a passage is too coarse for its own Hessian.
_COARSE = (Storage.sign, Storage.none)


@dataclass
class GradientConfig:
    """The switches; presets, defaults and reasons are in ``conf/method``."""

    optimizer_correction: bool
    correct_queries: bool
    hessian: Hessian
    mixing: Union[float, str]  # noqa: UP007 - omegaconf reads the annotation at run time
    unit_norm: bool
    output: Output
    passage_weight: bool
    checkpoints: int
    checkpoint_weights: CheckpointWeights
    projection_dim: Optional[int]  # noqa: UP045
    layer_blocks: int
    block_layout: BlockLayout
    layers: Optional[list[int]]  # noqa: UP045
    damping: float
    hessian_form: HessianForm
    hessian_components: int
    hessian_sample: Optional[int]  # noqa: UP045
    storage: Storage
    rerank: Optional[int]  # noqa: UP045
    opponents: int
    memory_mib: int
    batch_size: int
    batch_tokens: Optional[int]  # noqa: UP045
    adapters: Adapters
    unsupported: Unsupported
    seed: int


COUNTS = (  # settings that are at least 1
    "projection_dim", "layer_blocks", "checkpoints", "batch_size", "batch_tokens",
    "hessian_components", "hessian_sample", "rerank", "memory_mib",
)  # fmt: skip


def feature_settings(config: GradientConfig) -> FeatureSettings:
    """Those switches that a stored feature depends on."""
    return FeatureSettings(
        corrected=config.optimizer_correction,
        output=config.output,
        weighted=config.passage_weight,
        checkpoints=config.checkpoints,
        checkpoint_weights=config.checkpoint_weights,
        projection_dim=config.projection_dim,
        layer_blocks=config.layer_blocks,
        block_layout=config.block_layout,
        layers=config.layers,
        adapters=config.adapters,
        unsupported=config.unsupported,
        seed=config.seed,
    )


class Gradient(Method):
    """score = ⟨R^(-1/2) P(∇L(z_m)/√V), R^(-1/2) P(∇L(z_q)/√V)⟩, unit-normed last if asked for.

    Source: 2410.17413, equation of TrackStar and its ablations (Table 1).
    """

    Config = GradientConfig
    version = FEATURES_VERSION
    config: GradientConfig

    def __init__(self, config: GradientConfig, context: Context) -> None:
        super().__init__(config, context)
        self._source: FeatureSource | None = None

    def check(self) -> None:
        """Refuse settings that cannot work, before anything is trained or encoded."""
        config = self.config
        self._check_mixing()
        for name in COUNTS:
            at_least(1, f"method.{name}", getattr(config, name))
        for name in ("damping", "opponents"):
            at_least(0, f"method.{name}", getattr(config, name))
        model = self.context.model
        if config.optimizer_correction:
            model.required_moments()
        spread_checkpoints(model, config.checkpoints)
        if config.checkpoint_weights is CheckpointWeights.learning_rate and config.checkpoints > 1:
            _check_learning_rate(model)

    def _check_mixing(self) -> None:
        mixing = self.config.mixing
        if isinstance(mixing, float):
            if not 0 <= mixing <= 1:
                raise UserError(f"expected 0 to 1, found {mixing}", where="method.mixing")
        elif mixing != "auto":
            raise UserError(
                f"expected a number from 0 to 1 or 'auto', found {mixing!r}", where="method.mixing"
            )
        elif self.config.hessian_form is not HessianForm.full:
            raise UserError(
                "mixing=auto compares whole spectra, which only hessian_form=full has",
                where="method.mixing",
                fix="set method.mixing to a number, or method.hessian_form=full",
            )

    def index(self) -> IndexSize:
        """Encode the corpus, or open the index that another method of the same features made."""
        model, config, context = self.context.model, self.config, self.context
        asked = feature_settings(config)
        features = Features(model, asked, correct_queries=config.correct_queries)
        if config.unsupported is Unsupported.skip:
            context.facts[GRADIENT_PARAMETERS] = coverage(
                model.module, config.adapters, config.layers
            )
        self._encoder, self._query_encoder = features.passages, features.queries
        if config.hessian is not Hessian.none and config.hessian_form is HessianForm.full:
            check_blocks(self._encoder.layout.blocks)
        self._encoded = EncodedFeatures(
            model, self._encoder, context.task.passages, config.batch_size, config.batch_tokens
        )
        if config.storage is Storage.none:
            self._source = replace(self._encoded, counts=context.counts)
            return IndexSize()
        settings = features.key_settings()
        recipe = EncoderRecipe(
            context.model_recipe,
            asked,
            content_key(settings),
            context.task.passages,
            config.batch_size,
            config.batch_tokens,
        )
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
        """Score all passages against groups of resident queries, keeping running lists."""
        if self._source is None:
            raise ValueError("call index() before search()")
        groups = _QueryGroups(self, queries)
        if self.config.storage is Storage.none:
            self._refuse_passes(len(queries), groups.memory)
        search = self._search(self._source, groups)
        for start, features in groups:
            found = search.find(features, top_k, self.config.opponents)
            for query, one in zip(queries[start : start + len(features)], found, strict=True):
                yield Ranking(query.query_id, **vars(one))

    def rescore(self, queries: Sequence[Query], rows: np.ndarray) -> Iterator[np.ndarray]:
        """Score chosen passages, int64 ``[queries, candidates]``, from the index or encoded now."""
        if self._source is None:
            raise ValueError("call index() before rescore()")
        groups = _QueryGroups(self, queries)
        search = self._search(self._source, groups)
        for start, features in groups:
            yield from search.score(features, rows[start : start + len(features)])

    def _search(self, source: FeatureSource, groups: _QueryGroups) -> Search:
        config, device = self.config, self.context.model.device
        whitening = self._whitening(source, groups)
        candidates = None if config.storage is Storage.none else source

        def finish(dtype: torch.dtype) -> Finish:
            return Finish(self._encoder.layout, whitening, config.unit_norm, dtype, device)

        return Search(
            scanned=source,
            candidates=candidates if config.rerank is None else self._encoded,
            finish=finish(self._dtype),
            finish_exactly=finish(torch.float64),
            depth=config.rerank or 0,
            memory=groups.memory,
        )

    @property
    def _dtype(self) -> torch.dtype:
        """Of the scan: float32 unless gradients are wider."""
        wide = self.context.model.gradient_dtype == torch.float64
        return torch.float64 if wide else torch.float32

    def memory(self, n_queries: int) -> MemoryPlan:
        """How many queries and passages are held at a time."""
        return MemoryPlan.of(self.config.memory_mib, n_queries, self._encoder.dim, self._dtype)

    def encode_queries(self, queries: Sequence[Query]) -> Tensor:
        """Raw features, float32 ``[queries, dim]``."""
        model = self.context.model
        tokens = [model.query_tokens(q) for q in queries]
        size, budget = self.config.batch_size, self.config.batch_tokens
        features = encode_all(self._query_encoder, tokens, size, budget)
        if self.config.passage_weight:
            features[:, -1] = 1  # the weight is of passages alone
        return features

    def _refuse_passes(self, n_queries: int, memory: MemoryPlan) -> None:
        """Without an index, a second group of queries would encode the corpus again."""
        if memory.queries < n_queries:
            raise UserError(
                f"storage=none takes a single pass, and {n_queries:,} queries do not fit",
                where=f"method.memory_mib={self.config.memory_mib}",
                fix="raise method.memory_mib, or set method.storage to keep an index",
            )

    def _whitening(self, source: FeatureSource, groups: _QueryGroups) -> Any:
        config = self.config
        coarse = config.storage in _COARSE
        settings = HessianSettings(
            hessian=config.hessian,
            form=config.hessian_form,
            mixing=config.mixing,
            damping=config.damping,
            components=config.hessian_components,
            sample=config.hessian_sample,
            seed=config.seed,
        )
        return estimate_whitening(
            settings,
            self._encoder.layout.blocks,
            self._encoded if coarse else source,
            lambda: (features for _, features in groups),
            groups.memory.rows,
            self.context.facts,
            self.context.model.device,
        )


class _QueryGroups:
    """Features of the queries in groups that fit into memory: (first query, ``[queries, dim]``).

    A single group is encoded once; of several, each is encoded again whenever it is asked for.
    """

    def __init__(self, method: Gradient, queries: Sequence[Query]) -> None:
        self.memory = method.memory(len(queries))
        self._method, self._queries = method, queries
        self._only: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        size = self.memory.queries
        for start in range(0, len(self._queries), size):
            features = self._only
            if features is None:
                features = self._method.encode_queries(self._queries[start : start + size])
            if size >= len(self._queries):
                self._only = features
            yield start, features


def _check_learning_rate(model: LanguageModel) -> None:
    if model.learning_rate is None:
        raise UserError(
            "checkpoint_weights=learning_rate needs that of the last checkpoint",
            where="model.learning_rate",
            fix="set model.learning_rate, or method.checkpoint_weights=equal",
        )
