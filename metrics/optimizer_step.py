"""What a model says after one training step on a single passage; its own weights never change.

The step, for every parameter tensor W with gradient G of the passage's mean token loss (of a model
with an adapter, for the adapter's own, as in its training):

    U = G / sqrt(V)                     V: the optimizer's saved second moments; U = G without them
    W' = W - learning_rate * U / max(1, RMS(U) / clip)

docs/methods.md has it in full, with what is left out of it. Passages are stepped on side by side
where memory allows, each from the same weights and alone: the stepped weights are copies with a
leading dimension, one entry a passage, and ``torch.func.vmap`` runs the model over them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.core.errors import UserError
from bench.models.devices import free_memory, is_spread, place_of, resting_value
from bench.models.dtypes import experts_for
from bench.models.language_model import IGNORE, LanguageModel, Tokens, pad, token_log_probs
from bench.models.parameter_names import adapter_names
from bench.models.second_moments import Factored, SecondMoments

QUERIES_AT_ONCE = 64  # queries that are asked after one passage in one forward pass
_MOST_PASSAGES = 32  # passages side by side; more gain nothing on a CPU
# The one kind of attention that vmap can batch. Single passages use it, too, so that they round as
# those side by side do.
_ATTENTION = SDPBackend.MATH

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Stepped:
    """What one step on one passage did, and what the model says after it.

    Attributes:
        log_probs: log-probability of each query's target, in the order asked (nats); NaN where the
            passage's loss is NaN or infinite: there is no step on it.
        clipped: share of the parameter tensors whose update was longer than the clip allows.
        rms: root mean square, over all parameters, of what the step adds to them.
    """

    log_probs: list[float]
    clipped: float
    rms: float


def check_room(model: LanguageModel) -> None:
    """Refuse a model on several devices that have no room for its gradients beside its weights.

    In their memory the stepped weights are made. Weights that rest on disk are read, too.

    Raises:
        UserError: names the device and what is missing.
    """
    if not is_spread(model.module):
        return
    own = set(adapter_names(model.module))
    needed: defaultdict[torch.device, int] = defaultdict(int)
    for name, parameter in model.module.named_parameters():
        if not own or name in own:
            device = torch.device("cpu") if parameter.is_meta else parameter.device
            is_read = parameter.is_meta and place_of(model.module, name) == "disk"
            needed[device] += parameter.numel() * model.gradient_dtype.itemsize * (1 + is_read)
    for device, size in needed.items():
        if size > (free := free_memory(device)):
            raise UserError(
                f"a step on a passage takes {size / 2**30:.3g} GiB more on {device}, where "
                f"{free / 2**30:.3g} GiB are free",
                where="metric.tail_patch",
                fix="set metric=attribution to go without, use more devices, or lower "
                "model.gpu_memory or model.cpu_memory so that weights leave room",
            )


class OptimizerStep:
    """Steps on single passages with the optimizer's saved second moments.

    The second moments stay at their saved value: one passage's own gradient must not set its own
    scale, as it would in a fresh optimizer, whose first step is close to lr · sign(gradient).
    Momentum plays no part. The loss is the mean over the passage's tokens, as in training.
    Gradients and stepped weights are of ``model.gradient_dtype``: in float32 a division by sqrt(V)
    amplifies rounding to about 1e-4 in probability, and in bfloat16 most steps round to none.

    Args:
        model: its weights are read, and never written. Of a model with an adapter, only what the
            training of that moved is stepped on.
        learning_rate: of the step.
        second_moments: Adafactor's or Adam's; None makes a plain gradient-descent step.
        clip: root mean square that the update of one parameter tensor may have, before the learning
            rate: a longer one is shortened to it, whatever the optimizer (Adafactor's own clipping
            is at 1: Shazeer & Stern 2018, section 6). None leaves every update as long as it comes.
        memory_mib: MiB for what passages that are stepped on side by side need: gradients, stepped
            weights, and about what a forward and backward pass keeps. A passage that needs more is
            stepped on alone.

    Attributes:
        most_at_once: passages side by side, whatever the memory; may be lowered.
        optimizer: whose second moments are used: ``adafactor``, ``adam``, or ``sgd`` for none.

    Raises:
        UserError: a parameter has no second moment.
    """

    def __init__(
        self,
        model: LanguageModel,
        learning_rate: float,
        second_moments: SecondMoments | None,
        clip: float | None,
        memory_mib: int = 0,
    ) -> None:
        self._model = model
        model.module.eval()  # dropout would measure itself
        self._learning_rate, self._clip = learning_rate, clip
        parameters = dict(model.module.named_parameters())
        own = adapter_names(model.module) or list(parameters)
        self._weights = {name: self._values(name, parameters.pop(name)) for name in own}
        # What the training of an adapter leaves as it is. Of these, the model brings what rests
        # elsewhere by itself.
        self._frozen = {
            name: self._values(name, one) for name, one in parameters.items() if not one.is_meta
        }
        self._moments = None
        self.optimizer = "sgd"
        if second_moments is not None:
            self._moments = {name: second_moments[name] for name in self._weights}
            factored = any(isinstance(one, Factored) for one in self._moments.values())
            self.optimizer = "adafactor" if factored else "adam"
        self._memory = memory_mib * 2**20
        # vmap does not run through what moves tensors from device to device.
        self._is_spread = is_spread(model.module)
        self.most_at_once = 1 if self._is_spread else _MOST_PASSAGES
        self._scales: Weights = {}

    def _values(self, name: str, parameter: Tensor) -> Tensor:
        """A parameter's values in the gradient's dtype, in CPU memory where they rest elsewhere."""
        if parameter.is_meta:
            parameter = resting_value(self._model.module, name).cpu()
        return parameter.detach().to(self._model.gradient_dtype)

    def _scaled(self, name: str, gradients: Tensor) -> Tensor:
        """Gradients over the root of V, in the memory of the gradients."""
        if self._moments is None:
            return gradients
        scale = self._scales.get(name)
        if scale is None:
            scale = self._moments[name].inverse_sqrt().to(gradients.device, gradients.dtype)
            if not self._is_spread:  # a model on several devices has no room for all of them
                self._scales[name] = scale
        return gradients.mul_(scale)

    @cached_property
    def _bytes_a_token(self) -> int:
        config = getattr(self._model.module, "config", None)
        names = ("vocab_size", "hidden_size", "num_hidden_layers")
        sizes = (int(getattr(config, name, None) or 0) for name in names)
        return activation_bytes(self._model.gradient_dtype, *sizes)

    def has_room_for(self, passages: int, tokens: int) -> bool:
        """Whether there is memory for so many passages side by side; one always does.

        Args:
            tokens: of the longest passage, or of the most that is asked after one: what is more.
        """
        if passages == 1:
            return True
        # A passage takes its gradient and the stepped weights.
        size = 2 * sum(weight.nbytes for weight in self._weights.values())
        needed = passages * (size + tokens * self._bytes_a_token)
        return passages <= self.most_at_once and needed <= self._memory

    def log_probs(self, queries: Sequence[Tokens]) -> list[float]:
        """Log-probability of each query's target before any step, in the dtype of those after."""
        values: list[float] = []
        own = {name: weight[None] for name, weight in self._weights.items()}
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            values += self._ask(own, [queries[start : start + QUERIES_AT_ONCE]])[0]
        return values

    def after(
        self, passages: Sequence[Tokens], queries: Sequence[Sequence[Tokens]]
    ) -> list[Stepped]:
        """Take the step on each passage alone, and ask each its own queries.

        Args:
            passages: each with a token to predict; as many as there is room for.
            queries: for each passage, those that are asked after its step.
        """
        weights, losses, clipped, rms = self._stepped(passages)
        answers: list[list[float]] = [[] for _ in passages]
        for start in range(0, max(map(len, queries)), QUERIES_AT_ONCE):
            parts = [of_one[start : start + QUERIES_AT_ONCE] for of_one in queries]
            for so_far, part, values in zip(answers, parts, self._ask(weights, parts), strict=True):
                so_far += values[: len(part)]
        return [
            Stepped(values if math.isfinite(loss) else [math.nan] * len(values), share, length)
            for values, loss, share, length in zip(answers, losses, clipped, rms, strict=True)
        ]

    def _stepped(
        self, passages: Sequence[Tokens]
    ) -> tuple[Weights, list[float], list[float], list[float]]:
        """The weights after a step on each passage, and what is known of the steps.

        Returns:
            weights ``[passages, *shape]``; of each passage the loss before its step, the share of
            parameter tensors that were clipped, and the step's root mean square.
        """
        ids, labels = pad(passages, self._model.device)
        with sdpa_kernel(_ATTENTION):
            if len(passages) > 1:
                by_passage = vmap(grad_and_value(self._loss), in_dims=(None, 0, 0))
                weights, losses = by_passage(self._weights, ids, labels)
            else:
                weights, losses = self._plain_gradients(ids[0], labels[0])
        _take_apart(weights)
        clipped = torch.zeros(len(passages), dtype=torch.float64, device=ids.device)
        squares = torch.zeros_like(clipped)
        with torch.no_grad():
            for name in weights:
                weights[name], is_clipped, rms = self._updated(name, weights[name])
                clipped += is_clipped.to(ids.device)
                squares += rms.to(ids.device).double().square() * self._weights[name].numel()
        n_parameters = sum(weight.numel() for weight in self._weights.values())
        lengths = self._learning_rate * (squares / n_parameters).sqrt()
        return weights, losses.tolist(), (clipped / len(weights)).tolist(), lengths.tolist()

    def _plain_gradients(self, ids: Tensor, labels: Tensor) -> tuple[Weights, Tensor]:
        """Gradients and loss of one passage, for models that are large or that vmap cannot run."""
        weights = {name: weight.detach().requires_grad_() for name, weight in self._weights.items()}
        with torch.enable_grad():
            loss = self._loss(weights, ids, labels)
            gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        by_name = {name: g[None] for name, g in zip(weights, gradients, strict=True)}
        return by_name, loss.detach()[None]

    def _updated(self, name: str, gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One parameter tensor after the step on each passage, in the memory of its gradients.

        Returns:
            the weights, ``[passages, *shape]``; whether each update was clipped, bool
            ``[passages]``; the update's root mean square after that, ``[passages]``.
        """
        updates = self._scaled(name, gradients)
        flat = updates.flatten(1)
        rms = torch.linalg.vector_norm(flat, dim=1) / math.sqrt(flat.shape[1])
        excess = torch.ones_like(rms) if self._clip is None else (rms / self._clip).clamp_min(1.0)
        factors = updates.new_full((len(updates),), -self._learning_rate) / excess
        shape = (-1,) + (1,) * (gradients.ndim - 1)
        weights = updates.mul_(factors.view(shape)).add_(self._weights[name])
        return weights, excess > 1, rms / excess

    @torch.no_grad()
    def _ask(self, stepped: Weights, queries: Sequence[Sequence[Tokens]]) -> list[list[float]]:
        """Log-probabilities of targets: as many for each passage as any passage has queries."""
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
        """Mean loss over the tokens of one passage; ``ids`` and ``labels`` are ``[tokens]``."""
        total = -self._log_probs(weights, ids[None], labels[None]).sum()
        return total / (labels[1:] != IGNORE).sum()

    def _log_probs(self, weights: Weights, ids: Tensor, labels: Tensor) -> Tensor:
        """Log-probability of every token, ``[batch, tokens - 1]``."""
        with experts_for(self._model.module, self._model.gradient_dtype):
            return token_log_probs(
                lambda **inputs: functional_call(
                    self._model.module, {**self._frozen, **weights}, kwargs=inputs
                ),
                ids,
                labels,
            )


def _take_apart(gradients: Weights) -> None:
    """Copy gradients that share memory with another one, or with themselves.

    Each may be written to afterwards, which spares a copy of all weights a passage.
    """
    taken = set()
    for name, gradient in gradients.items():
        place = gradient.untyped_storage().data_ptr()
        if place in taken or not gradient.is_contiguous():
            gradients[name] = gradient.clone(memory_format=torch.contiguous_format)
        taken.add(place)


def activation_bytes(dtype: torch.dtype, vocabulary: int, hidden: int, layers: int) -> int:
    """Bytes that a forward and backward pass keeps of a token, about: logits and layers' inputs."""
    # Four numbers a word of the vocabulary: logits, exponentials and both gradients. A layer keeps
    # some twenty vectors.
    return dtype.itemsize * (4 * vocabulary + 20 * hidden * layers)
