"""What a model says after one training step on a single passage; its own weights never change.

Passages are stepped on side by side where memory allows, each from the same weights and alone: the
stepped weights are copies with a leading dimension, one entry a passage, and ``torch.func.vmap``
runs the model over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.models.language_model import IGNORE, LanguageModel, Tokens, pad, token_log_probs
from bench.models.second_moments import Factored, SecondMoments

CLIP_RMS = 1.0  # Adafactor's own clipping of an update (Shazeer & Stern 2018, section 6)
QUERIES_AT_ONCE = 64  # of one passage, in one forward pass
_MOST_PASSAGES = 32  # side by side; more gain nothing on any device tried

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
        memory_mib: MiB for gradients and stepped weights; a model that is larger is stepped on one
            passage at a time.

    Attributes:
        side_by_side: how many passages fit.
    """

    def __init__(
        self,
        model: LanguageModel,
        learning_rate: float,
        second_moments: SecondMoments | None,
        memory_mib: int = 0,
    ) -> None:
        self._model = model
        self._learning_rate = learning_rate
        dtype = model.gradient_dtype
        self._weights = {name: p.detach().to(dtype) for name, p in model.module.named_parameters()}
        self._scales: Weights = {}
        self._clips = False
        if second_moments is not None:
            self._scales = {
                name: second_moments[name].inverse_sqrt().to(p.device, p.dtype)
                for name, p in self._weights.items()
            }
            # Adafactor clips every update, Adam none.
            moments = second_moments.by_name.values()
            self._clips = any(isinstance(moment, Factored) for moment in moments)
        size = sum(weight.nbytes for weight in self._weights.values())
        fitting = int(memory_mib * 2**20 // (2 * size))  # the gradient, and what it becomes
        self.side_by_side = min(max(1, fitting), _MOST_PASSAGES)

    def log_probs_after(
        self, passages: Sequence[Tokens], queries: Sequence[Sequence[Tokens]]
    ) -> list[list[float]]:
        """Log-probability of each query's target after the step on its passage alone.

        Args:
            passages: at most ``side_by_side``.
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
        if len(passages) > 1:
            by_passage = vmap(grad_and_value(self._loss), in_dims=(None, 0, 0))
            with sdpa_kernel(SDPBackend.MATH):  # the one kind of attention that vmap can batch
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
        updates = gradients * self._scales[name] if self._scales else gradients.clone()
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
        if len(queries) > 1:
            shape = (len(queries), most, -1)
            with sdpa_kernel(SDPBackend.MATH):
                scores = vmap(self._log_probs)(stepped, ids.view(shape), labels.view(shape))
        else:
            own = {name: weight[0] for name, weight in stepped.items()}
            scores = self._log_probs(own, ids, labels)[None]
        return scores.double().sum(-1).tolist()

    def _loss(self, weights: Weights, ids: Tensor, labels: Tensor) -> Tensor:
        """Mean over the tokens of one passage; ``ids`` and ``labels`` are ``[tokens]``."""
        total = -self._log_probs(weights, ids[None], labels[None]).sum()
        return total / (labels[1:] != IGNORE).sum().clamp_min(1)  # no token: no loss, and no step

    def _log_probs(self, weights: Weights, ids: Tensor, labels: Tensor) -> Tensor:
        """Of every token, ``[batch, tokens - 1]``."""
        return token_log_probs(self._module_with(weights), ids, labels)

    def _module_with(self, weights: Weights) -> Callable[..., Any]:
        return lambda **inputs: functional_call(self._model.module, weights, kwargs=inputs)
