"""Backward pass of the summed next-token loss, at less than autograd's price."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.models.language_model import IGNORE


def backward_of_loss(module: nn.Module, ids: Tensor, labels: Tensor) -> None:
    """Send the gradient of ``-Σ log p(label)`` back through the module.

    The same loss as ``-token_log_probs(module, ids, labels).sum()``, cheaper twice: the output head
    runs on those positions only that predict a label (padding and prompts have none), and the
    gradient at the logits is written down, softmax − one-hot, instead of being derived through
    passes over ``[tokens, vocabulary]``. The loss itself is never needed.

    Args:
        module: a causal language model.
        ids: ``[batch, tokens]``.
        labels: ``[batch, tokens]``, ``IGNORE`` where no loss; at least one label after the first
            position.
    """
    row, position = (labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
    targets = labels[row, position + 1]  # the causal shift: position t predicts token t + 1
    head = _HeadOn(row * ids.shape[1] + position)
    logits = head.run(module, ids)  # [labels, vocabulary]
    if not logits.requires_grad:
        return  # no watched layer took part, which the caller finds out
    wide = torch.float32 if logits.dtype in (torch.float16, torch.bfloat16) else logits.dtype
    delta = torch.softmax(logits.detach(), -1, dtype=wide)
    delta[torch.arange(len(targets), device=delta.device), targets] -= 1
    torch.autograd.backward(logits, delta.to(logits.dtype))


class _HeadOn:
    """Runs a model with its output head on chosen positions.

    Args:
        flat: ``[chosen]`` positions in the flattened ``[batch * tokens]``.
    """

    def __init__(self, flat: Tensor) -> None:
        self._flat, self._chosen = flat, False

    def run(self, module: nn.Module, ids: Tensor) -> Tensor:
        """Logits ``[chosen, vocabulary]``. What follows the head works token by token."""
        head = module.get_output_embeddings()  # type: ignore[operator]
        handle = head.register_forward_pre_hook(self._choose) if head is not None else None
        try:
            logits = module(input_ids=ids, use_cache=False).logits
        finally:
            if handle is not None:
                handle.remove()
        flat_logits = logits.flatten(0, 1)
        # A model that multiplies by the head's weight without calling the head gives all logits.
        return flat_logits if self._chosen else flat_logits.index_select(0, self._flat)

    def _choose(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]
        self._chosen = True
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._flat)[None], *inputs[1:])
