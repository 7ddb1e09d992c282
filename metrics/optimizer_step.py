"""What a model says after one training step on a single passage; its own weights never change.

Passages are stepped on side by side where memory allows, each from the same weights and alone: the
stepped weights are copies with a leading dimension, one entry a passage, and ``torch.func.vmap``
runs the model over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.models.dtypes import experts_for
from bench.models.language_model import IGNORE, LanguageModel, Tokens, pad, token_log_probs
from bench.models.second_moments import Factored, SecondMoments

CLIP_RMS = 1.0  # Adafactor's own clipping of an update (Shazeer & Stern 2018, section 6)
QUERIES_AT_ONCE = 64  # of one passage, in one forward pass
_MOST_PASSAGES = 32  # side by side; more gain nothing on a CPU
# The one kind that vmap can batch; for single passages, too, so that both ways round alike.
_ATTENTION = SDPBackend.MATH

Weights = dict[str, Tensor]


class OptimizerStep:
    """Steps on single passages with the optimizer's saved second moments.

    The second moments stay at their saved value: one passage's own gradient must not set its own
    scale, as it would in a fresh optimizer, whose first step is close to lr · sign(gradient).
    Momentum plays no part. The loss is the mean over the passage's tokens, as in training.
    Gradients and stepped weights are of ``model.gradient_dtype``: in float32 a division by sqrt(V)
    amplifies rounding to about 1e-4 in probability, and in bfloat16 most steps round to none.

    Args:
        model: its weights are read, and never written.
        learning_rate: of the step.
        second_moments: Adafactor's or Adam's; None makes a plain gradient-descent step.
        memory_mib: MiB for what passages that are stepped on side by side need: gradients, stepped
            weights, and about what a forward and backward pass keeps. A passage that needs more is
            stepped on alone.

    Attributes:
        most: passages side by side, whatever the memory; may be lowered.

    Raises:
        UserError: a parameter has no second moment.
    """

    def __init__(
        self,
        model: LanguageModel,
        learning_rate: float,
        second_moments: SecondMoments | None,
        memory_mib: int = 0,
    ) -> None:
        self._model = model
        model.module.eval()  # dropout would measure itself
        self._learning_rate = learning_rate
        dtype = model.gradient_dtype
        self._weights = {name: p.detach().to(dtype) for name, p in model.module.named_parameters()}
        self._moments = None
        if second_moments is not None:
            self._moments = {name: second_moments[name] for name in self._weights}
        # Adafactor clips every update, Adam none.
        self._clips = any(isinstance(m, Factored) for m in (self._moments or {}).values())
        self._memory = memory_mib * 2**20
        self.most = _MOST_PASSAGES

    @cached_property
    def _scales(self) -> Weights | None:
        """1 / sqrt(V) of every parameter."""
        if self._moments is None:
            return None
        return {
            name: self._moments[name].inverse_sqrt().to(weight.device, weight.dtype)
            for name, weight in self._weights.items()
        }

    def fit(self, passages: int, tokens: int) -> bool:
        """Whether so many passages go side by side; one always does.

        Args:
            tokens: of the longest passage, or of the most that is asked after one: what is more.
        """
        if passages == 1:
            return True
        # The gradient and what it becomes; of a token, its logits and their gradient.
        size = 2 * sum(weight.nbytes for weight in self._weights.values())
        needed = passages * (size + tokens * _bytes_a_token(self._model))
        return passages <= self.most and needed <= self._memory

    def log_probs(self, queries: Sequence[Tokens]) -> list[float]:
        """Log-probability of each query's target before any step, in the dtype of those after."""
        found: list[float] = []
        own = {name: weight[None] for name, weight in self._weights.items()}
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            found += self._ask(own, [queries[start : start + QUERIES_AT_ONCE]])[0]
        return found

    def log_probs_after(
        self, passages: Sequence[Tokens], queries: Sequence[Sequence[Tokens]]
    ) -> list[list[float]]:
        """Log-probability of each query's target after the step on its passage alone.

        Args:
            passages: each with a token to predict; as many as ``fit``.
            queries: for each passage, those that are asked after its step.

        Returns:
            one list a passage, in the order of its queries; NaN where the passage's loss is NaN or
            infinite: there is no step on it.
        """
        stepped, losses = self._stepped(passages)
        found: list[list[float]] = [[] for _ in passages]
        for start in range(0, max(map(len, queries)), QUERIES_AT_ONCE):
            parts = [of_one[start : start + QUERIES_AT_ONCE] for of_one in queries]
            for so_far, part, values in zip(found, parts, self._ask(stepped, parts), strict=True):
                so_far += values[: len(part)]
        return [
            values if math.isfinite(loss) else [math.nan] * len(values)
            for values, loss in zip(found, losses, strict=True)
        ]

    def _stepped(self, passages: Sequence[Tokens]) -> tuple[Weights, list[float]]:
        """Weights after each step, ``[passages, *shape]``, and the loss before it."""
        ids, labels = pad(passages, self._model.device)
        with sdpa_kernel(_ATTENTION):
            if len(passages) > 1:
                by_passage = vmap(grad_and_value(self._loss), in_dims=(None, 0, 0))
                gradients, losses = by_passage(self._weights, ids, labels)
            else:
                gradients, losses = self._plain_gradients(ids[0], labels[0])
        with torch.no_grad():
            for name in list(gradients):
                gradients[name] = self._updated(name, gradients[name])
        return gradients, losses.tolist()

    def _plain_gradients(self, ids: Tensor, labels: Tensor) -> tuple[Weights, Tensor]:
        """As under ``vmap``, of one passage: for models that ``vmap`` cannot run, or too large."""
        weights = {name: weight.detach().requires_grad_() for name, weight in self._weights.items()}
        with torch.enable_grad():
            loss = self._loss(weights, ids, labels)
            found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        return {name: g[None] for name, g in zip(weights, found, strict=True)}, loss.detach()[None]

    def _updated(self, name: str, gradients: Tensor) -> Tensor:
        """The parameter after the step on each passage: ``[passages, *shape]``, of its own."""
        updates = gradients * self._scales[name] if self._scales is not None else gradients.clone()
        factors = updates.new_full((len(updates),), -self._learning_rate)
        if self._clips:
            flat = updates.flatten(1)
            root_mean_square = torch.linalg.vector_norm(flat, dim=1) / math.sqrt(flat.shape[1])
            factors /= (root_mean_square / CLIP_RMS).clamp_min(1.0)
        shape = (-1,) + (1,) * (gradients.ndim - 1)
        return updates.mul_(factors.view(shape)).add_(self._weights[name])

    @torch.no_grad()
    def _ask(self, stepped: Weights, queries: Sequence[Sequence[Tokens]]) -> list[list[float]]:
        """Log-probabilities, as many for each passage as the most that one is asked."""
        most = max(map(len, queries))
        filler = next(query for of_one in queries for query in of_one)
        filled = [[*of_one, *[filler] * (most - len(of_one))] for of_one in queries]
        ids, labels = pad([query for of_one in filled for query in of_one], self._model.device)
        with sdpa_kernel(_ATTENTION):
            if len(queries) > 1:
                shape = (len(queries), most, -1)
                scores = vmap(self._log_probs)(stepped, ids.view(shape), labels.view(shape))
            else:
                own = {name: weight[0] for name, weight in stepped.items()}
                scores = self._log_probs(own, ids, labels)[None]
        return scores.double().sum(-1).tolist()

    def _loss(self, weights: Weights, ids: Tensor, labels: Tensor) -> Tensor:
        """Mean over the tokens of one passage; ``ids`` and ``labels`` are ``[tokens]``."""
        total = -self._log_probs(weights, ids[None], labels[None]).sum()
        return total / (labels[1:] != IGNORE).sum()

    def _log_probs(self, weights: Weights, ids: Tensor, labels: Tensor) -> Tensor:
        """Of every token, ``[batch, tokens - 1]``."""
        with experts_for(self._model.module, self._model.gradient_dtype):
            return token_log_probs(self._module_with(weights), ids, labels)

    def _module_with(self, weights: Weights) -> Callable[..., Any]:
        return lambda **inputs: functional_call(self._model.module, weights, kwargs=inputs)


def _bytes_a_token(model: LanguageModel) -> int:
    """About what a forward and backward pass keeps of a token: logits, and each layer's inputs."""
    config = getattr(model.module, "config", None)
    vocabulary, hidden, layers = (
        int(getattr(config, name, None) or 0)
        for name in ("vocab_size", "hidden_size", "num_hidden_layers")
    )
    # Logits, their exponentials and both gradients; of a layer, some twenty vectors.
    return model.gradient_dtype.itemsize * (4 * vocabulary + 20 * hidden * layers)
