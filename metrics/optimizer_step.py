"""One training step on one passage, and back: the weights are restored bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.models.language_model import LanguageModel, Tokens, pad, token_log_probs
from bench.models.second_moments import Factored, SecondMoments

CLIP_RMS = 1.0  # Adafactor's own clipping of an update (Shazeer & Stern 2018, section 6)


class NotFiniteError(UserError):
    """A passage whose loss is NaN or infinite: there is no step on it."""


class OptimizerStep:
    """Steps on single passages with the optimizer's saved second moments.

    The second moments stay at their saved value: one passage's own gradient must not set its own
    scale, as it would in a fresh optimizer, whose first step is close to lr · sign(gradient).
    Momentum plays no part. The loss is the mean over the passage's tokens, as in training.

    Args:
        model: its weights are changed in place and restored.
        learning_rate: of the step.
        second_moments: Adafactor's or Adam's; None makes a plain gradient-descent step.
    """

    def __init__(
        self, model: LanguageModel, learning_rate: float, second_moments: SecondMoments | None
    ) -> None:
        self._module: nn.Module = model.module
        self._model = model
        self._learning_rate = learning_rate
        self._parameters = dict(model.module.named_parameters())
        self._originals = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._scales: dict[str, Tensor] = {}
        self._clipped: set[str] = set()
        if second_moments is not None:
            self._scales = {
                name: second_moments[name].inverse_sqrt().to(p.device, p.dtype)
                for name, p in self._parameters.items()
            }
            moments = second_moments.by_name
            if any(isinstance(moment, Factored) for moment in moments.values()):
                self._clipped = set(self._parameters)  # Adafactor clips every update

    @contextmanager
    def on(self, passage: Tokens) -> Iterator[None]:
        """Inside the block, the model has taken one step on ``passage``.

        Raises:
            NotFiniteError: the passage's loss is NaN or infinite.
        """
        try:
            self._step(self._gradients(passage))
            yield
        finally:
            self._restore()

    def _gradients(self, passage: Tokens) -> dict[str, Tensor]:
        names = list(self._parameters)
        tensors = [self._parameters[name].requires_grad_(True) for name in names]
        try:
            ids, labels = pad([passage], self._model.device)
            with torch.enable_grad():
                loss = -token_log_probs(self._module, ids, labels).sum() / passage.n_loss
                found = torch.autograd.grad(loss, tensors, allow_unused=True)
        finally:
            self._module.requires_grad_(False)
        if not torch.isfinite(loss):
            raise NotFiniteError("the loss of a passage is NaN or infinite", where="tail-patch")
        return {name: g for name, g in zip(names, found, strict=True) if g is not None}

    @torch.no_grad()
    def _step(self, gradients: dict[str, Tensor]) -> None:
        for name, gradient in gradients.items():
            update = gradient
            if self._scales:
                update = gradient * self._scales[name]
            if name in self._clipped:
                root_mean_square = update.square().mean().sqrt()
                update = update / (root_mean_square / CLIP_RMS).clamp_min(1.0)
            self._parameters[name].sub_(update, alpha=self._learning_rate)

    @torch.no_grad()
    def _restore(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(self._originals[name])
            assert torch.equal(parameter, self._originals[name]), name
