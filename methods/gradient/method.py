"""All gradient methods as one encoder with switches: V, R and unit norm (protocol, section 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Optional, Union

import torch
from torch import Tensor

from bench import progress
from bench.errors import UserError
from bench.storage import content_key
from bench.tasks.base import Query
from methods.base import Context, IndexSize, Method, Ranking
from methods.gradient import hessian
from methods.gradient.encoder import GradientEncoder
from methods.gradient.index import GradientIndex, IndexBuilder, encode_all
from methods.gradient.parameters import Adapters, Unsupported
from methods.topk import TopK

# Raised whenever a change of code moves a feature; part of every index key.
FEATURES_VERSION = 2


class Hessian(Enum):
    """Where R comes from."""

    none = "none"
    train = "train"
    mixed = "mixed"


@dataclass
class GradientConfig:
    """The switches; presets, defaults and reasons are in ``conf/method``."""

    optimizer_correction: bool
    hessian: Hessian
    mixing: Union[float, str]  # noqa: UP007 - omegaconf reads the annotation at run time
    unit_norm: bool
    projection_dim: Optional[int]  # noqa: UP045
    layer_blocks: int
    damping: float
    batch_size: int
    batch_tokens: Optional[int]  # noqa: UP045
    adapters: Adapters
    unsupported: Unsupported
    seed: int


class Gradient(Method):
    """score = ⟨R^(-1/2) P(∇L(z_m)/√V), R^(-1/2) P(∇L(z_q)/√V)⟩, unit-normed last if asked for.

    Source: 2410.17413, equation of TrackStar and its ablations (Table 1).
    """

    Config = GradientConfig
    config: GradientConfig

    def __init__(self, config: GradientConfig, context: Context) -> None:
        super().__init__(config, context)
        self._index: GradientIndex | None = None

    def check(self) -> None:
        """Refuse settings that cannot work, before anything is trained or encoded."""
        config = self.config
        if isinstance(config.mixing, str) and config.mixing != "auto":
            raise UserError(
                f"expected a number from 0 to 1 or 'auto', found {config.mixing!r}",
                where="method.mixing",
            )
        if isinstance(config.mixing, float) and not 0 <= config.mixing <= 1:
            raise UserError(f"expected 0 to 1, found {config.mixing}", where="method.mixing")
        for field in ("projection_dim", "layer_blocks", "batch_size", "batch_tokens"):
            value = getattr(config, field)
            if value is not None and value < 1:
                raise UserError(f"expected at least 1, found {value}", where=f"method.{field}")
        if config.damping < 0:
            raise UserError(f"expected 0 or more, found {config.damping}", where="method.damping")
        if config.optimizer_correction and self.context.model.second_moments is None:
            raise UserError(
                "optimizer_correction=true needs the optimizer's second moments, and the model "
                "has none",
                where=f"model {self.context.model.name}",
                fix="set model.optimizer_state=FILE (optimizer.pt, or a name-keyed safetensors "
                "file), or method.optimizer_correction=false",
            )

    def index(self) -> IndexSize:
        """Encode the corpus, or open the index that another method of the same features made."""
        model, config = self.context.model, self.config
        self._encoder = GradientEncoder(
            model,
            projection_dim=config.projection_dim,
            layer_blocks=config.layer_blocks,
            seed=config.seed,
            second_moments=model.second_moments if config.optimizer_correction else None,
            adapters=config.adapters,
            unsupported=config.unsupported,
        )
        key = content_key(self._feature_settings())
        builder = IndexBuilder(
            self.context.cache_dir / "index" / "gradient" / key,
            key,
            model,
            self._encoder,
            self.context.task.passages,
            config.batch_size,
            config.batch_tokens,
        )
        self._index = builder.build(self.context.counts)
        self.context.facts["encoding_seconds"] = round(self._index.seconds, 3)
        return IndexSize(self._index.bytes, self._index.n_shards)

    def _feature_settings(self) -> dict[str, Any]:
        """Everything that the stored features depend on. Not the batch size: see ``conf/model``."""
        model, config = self.context.model, self.config
        moments = model.second_moments if config.optimizer_correction else None
        return {
            "version": FEATURES_VERSION,
            "task": self.context.task.sha256,
            "model": model.sha256,
            "append_eos": model.append_eos,
            "dtype": str(model.gradient_dtype),
            "moments": moments.sha256 if moments else None,
            "projection_dim": config.projection_dim,
            "layer_blocks": config.layer_blocks,
            "adapters": config.adapters.value,
            "unsupported": config.unsupported.value,
            "seed": config.seed,
        }

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Score the shards against all queries in one pass, keeping a running top-k."""
        index = self._index
        if index is None:
            raise ValueError("call index() before search()")
        model = self.context.model
        tokens = [model.query_tokens(q.query_id, q.prompt, q.target) for q in queries]
        dtype = torch.float64 if model.gradient_dtype == torch.float64 else torch.float32
        raw = encode_all(self._encoder, tokens, self.config.batch_size, self.config.batch_tokens)
        roots = self._whitening(raw)
        asked = self._finish(raw.to(dtype), roots)
        best = TopK(len(queries), top_k)
        shards = progress.track(index.shards(dtype), "search", total=index.n_shards, unit="shards")
        for first_row, shard in shards:
            scores = asked @ self._finish(shard, roots).T
            rows = torch.arange(first_row, first_row + len(shard))
            best.push(scores.double().numpy(), rows.numpy())
        for number, query in enumerate(queries):
            yield Ranking(query.query_id, best.rows[number], best.scores[number])

    def _whitening(self, queries: Tensor) -> list[Tensor] | None:
        """R^(-1/2) of each block, or None without Hessian."""
        config = self.config
        if config.hessian is Hessian.none or self._index is None:
            return None
        blocks = self._encoder.block_sizes
        shards = (shard for _, shard in self._index.shards(torch.float64))
        r = hessian.autocorrelation(blocks, shards)
        if config.hessian is Hessian.mixed:
            r_eval = hessian.autocorrelation(blocks, [queries])
            auto = config.mixing == "auto"
            mixing = hessian.crossing_mixing(r, r_eval) if auto else float(config.mixing)
            self.context.facts["mixing"] = mixing
            r = [mixing * e + (1 - mixing) * t for e, t in zip(r_eval, r, strict=True)]
        return hessian.inverse_sqrt(r, config.damping)

    def _finish(self, features: Tensor, roots: list[Tensor] | None) -> Tensor:
        """R^(-1/2), then unit norm: in this order on both sides. Zero rows stay zero."""
        if roots is not None:
            features = hessian.apply_blocks(features, roots)
        if self.config.unit_norm:
            norms = features.norm(dim=1, keepdim=True)
            features = torch.where(norms > 0, features / norms, 0.0)
        return features
