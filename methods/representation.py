"""Similarity of two texts in the model under study: hidden states, or output embeddings.

``repsim`` compares hidden states h of one layer, pooled over the tokens of a text,

    cos(pool h(passage), pool h(query))

as the cosine metric of Hanawa et al. 2021 (2006.04528) does; without ``normalize`` it is their dot
metric. They compare the one vector that a classifier reads. A causal language model has a vector
for each token, so pooling is a setting here. ``output_embedding`` needs no forward pass: it
compares the mean row of the output head over a passage's tokens with the mean over the target's. It
is a plain baseline for how much of a ranking comes from words near the answer alone.

Vectors are stored as float32, with unit length if ``normalize`` is set. States are computed in
``model.gradient_dtype``: in float64, rankings do not depend on batches; in float32, a vector moves
by about 1e-7 with the texts that it is batched with, and only equal texts within a chunk are sure
to tie.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.models.devices import weight_values
from bench.models.dtypes import in_dtype, running_in
from bench.models.language_model import LanguageModel, Tokens, pad
from bench.models.padding import parts_of
from bench.tasks.base import Query
from methods.base import Ranking
from methods.embedding_index import DenseVectors
from methods.embedding_method import EmbeddingMethod
from methods.embedding_search import search_dense
from methods.model_identity import model_identity
from methods.query_text import QueryPart
from methods.representation_settings import OutputEmbeddingConfig, Pooling, RepresentationConfig

# The most padded tokens of a forward pass, whose states of all layers are held: an eighth of a GiB
# a layer at a width of 4,096.
_TOKENS_AT_ONCE = 8192

# Raised whenever a change of code moves a vector; part of every index key.
VECTORS_VERSION = 3


class _ModelVectors(EmbeddingMethod[np.ndarray]):
    """A method with one vector a text, which the model under study makes."""

    config: Any
    form = DenseVectors()

    @property
    @abstractmethod
    def _dim(self) -> int:
        """Length of a vector."""

    @abstractmethod
    def _vectors(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """Raw vectors of texts that have tokens: float64 ``[texts, dim]``."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The settings that decide over a raw vector, as JSON values."""

    @abstractmethod
    def _asked(self, tokens: Tokens) -> list[int]:
        """The token ids that stand for a query, out of those of prompt and target."""

    def vector_settings(self) -> dict[str, Any]:
        """All that a vector depends on beside its text, as JSON values."""
        return {
            "version": VECTORS_VERSION,
            **model_identity(self.context.model),
            "normalize": self.config.normalize,
            **self._settings(),
        }

    def _embed_passages(self, texts: list[str]) -> tuple[np.ndarray, Mapping[str, int]]:
        tokens = [self.context.model.passage_tokens(text) for text in texts]
        return self._embed(tokens), {
            "passages_truncated": sum(t.truncated for t in tokens),
            "passages_without_tokens": sum(not t.ids for t in tokens),
        }

    def _embed(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """Finished vectors, float32 ``[texts, dim]``; zero for a text without tokens.

        Equal texts are embedded once, so that they tie.
        """
        number: dict[tuple[int, ...], int] = {}
        places = [number.setdefault(tuple(t.ids), len(number)) for t in tokens]
        vectors = np.zeros((len(number), self._dim))
        filled = [place for ids, place in number.items() if ids]
        if filled:
            distinct = [Tokens(list(ids), loss_from=1) for ids in number if ids]
            vectors[filled] = self._vectors(distinct)
        if self.config.normalize:
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            np.divide(vectors, norms, out=vectors, where=norms > 0)
        return vectors[places].astype(np.float32)

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Embed the queries, and scan the stored vectors block by block.

        Raises:
            UserError: a query has no token, or does not fit the model's context.
        """
        index, model = self._opened, self.context.model
        tokens = [model.query_tokens(q) for q in queries]
        asked = self._embed([Tokens(self._asked(t), loss_from=1) for t in tokens])
        ranked = search_dense(index, asked, top_k, self.context.engine, self.context.mirror)
        for query, (rows, scores) in zip(queries, ranked, strict=True):
            yield Ranking(query.query_id, rows, scores)


class RepresentationSimilarity(_ModelVectors):
    """Similarity of pooled hidden states (Hanawa et al. 2021, 2006.04528)."""

    Config = RepresentationConfig
    config: RepresentationConfig
    name = "repsim"

    def check(self) -> None:
        """Refuse a layer that the model does not have."""
        _ = self._layer

    @cached_property
    def _states(self) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """What ``hidden_states`` gives for the model under study."""
        return hidden_states(self.context.model)

    @cached_property
    def _layer(self) -> tuple[int, int]:
        """Number of the layer, where 0 is the embeddings' output, and the width of its states."""
        # A run on one token shows both, also for families whose layers differ in width.
        probe = self._states(torch.zeros(1, 1, dtype=torch.int64, device=self.context.model.device))
        layer, n_states = self.config.layer, len(probe)
        if not -n_states <= layer < n_states:
            raise UserError(
                f"the model has {n_states - 1} layers, found {layer}",
                where="method.layer",
                fix=f"set it to 0 (embeddings) to {n_states - 1}, or {-n_states} to -1 (last)",
            )
        return layer % n_states, probe[layer].shape[-1]

    @property
    def _dim(self) -> int:
        return self._layer[1]

    def _settings(self) -> dict[str, Any]:
        # The layer is counted from 0: -1 and the last layer's number name one index.
        return {
            "layer": self._layer[0],
            "pooling": self.config.pooling.value,
        }

    def _asked(self, tokens: Tokens) -> list[int]:
        whole = self.config.query is QueryPart.prompt_and_target
        return tokens.ids if whole else tokens.ids[: tokens.loss_from]

    def _vectors(self, tokens: Sequence[Tokens]) -> np.ndarray:
        device, size = self.context.model.device, self.config.batch_size
        vectors = np.empty((len(tokens), self._dim))
        # The longest first: if memory is short, it shows at once. Equal lengths keep their order.
        waiting = sorted(range(len(tokens)), key=lambda row: -len(tokens[row].ids))
        for part in parts_of((len(tokens[row].ids) for row in waiting), _TOKENS_AT_ONCE, size):
            rows = waiting[part]
            ids, _ = pad([tokens[row] for row in rows], device)
            states = self._states(ids)[self._layer[0]]
            # Each text is pooled alone: a sum over padded rows would round otherwise.
            pooled = [
                self._pool(state[: len(tokens[row].ids)])
                for row, state in zip(rows, states, strict=True)
            ]
            vectors[rows] = torch.stack(pooled).cpu().numpy()
        return vectors

    def _pool(self, states: Tensor) -> Tensor:
        """One vector, float64 ``[dim]``, of the states ``[tokens, dim]`` of a text."""
        return states[-1].double() if self.config.pooling is Pooling.last else _mean(states)


class OutputEmbedding(_ModelVectors):
    """Similarity of the mean output embeddings of a passage's tokens and of the target's."""

    Config = OutputEmbeddingConfig
    config: OutputEmbeddingConfig
    name = "output_embedding"

    def check(self) -> None:
        """Refuse a model without output embeddings."""
        _ = self._head

    @cached_property
    def _head(self) -> Tensor:
        """Weights of the output head as loaded, ``[vocabulary, dim]``."""
        model = self.context.model
        head = model.module.get_output_embeddings()  # type: ignore[operator]
        if head is None:
            raise UserError(
                "the model has no output embeddings",
                where=f"model {model.name}",
                fix="choose another method, or a model with an output head",
            )
        return dict(weight_values(head))["weight"].detach()

    @property
    def _dim(self) -> int:
        return self._head.shape[1]

    def _settings(self) -> dict[str, Any]:
        return {}

    def _asked(self, tokens: Tokens) -> list[int]:
        return tokens.ids[tokens.loss_from :]

    def _vectors(self, tokens: Sequence[Tokens]) -> np.ndarray:
        means = [_mean(self._head[torch.tensor(t.ids, device=self._head.device)]) for t in tokens]
        return torch.stack(means).cpu().numpy()


def _mean(vectors: Tensor) -> Tensor:
    """Mean over the first dimension, summed in float64."""
    return vectors.double().mean(0)


def hidden_states(model: LanguageModel) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """A function from token ids ``[batch, tokens]`` to the hidden states of every layer.

    It returns ``layers + 1`` tensors ``[batch, tokens, dim]`` in ``model.gradient_dtype``: the
    embeddings' output, then each layer's, as transformers gives them (the last one usually after
    the final norm). The output head does not run, since nothing asks for its logits. It raises
    UserError if the model does not run in that dtype.
    """
    module = model.module
    body: nn.Module = getattr(module, "base_model", module)  # type: ignore[assignment]
    body = in_dtype(body, model.gradient_dtype)

    @torch.no_grad()
    def states(ids: Tensor) -> tuple[Tensor, ...]:
        with running_in(model.gradient_dtype, model.name):
            output = body(input_ids=ids, use_cache=False, output_hidden_states=True)
        layers: tuple[Tensor, ...] = output.hidden_states
        return layers

    return states
