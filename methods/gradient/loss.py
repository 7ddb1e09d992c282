"""The backward pass of a summed next-token output, at less than autograd's price."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.models.dtypes import accumulation_dtype
from bench.models.language_model import IGNORE
from methods.gradient.settings import Output


def backward_of(output: Output, module: nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    """Send the gradient of an output back through the module.

    For the loss it does the same as ``-token_log_probs(module, ids, labels).sum().backward()`` and
    saves twice: the output head runs on those positions only that predict a label (padding and
    prompts have none), and the gradient at the logits is written down instead of being derived
    through passes over ``[tokens, vocabulary]``. The output itself is never needed.

    Args:
        output: the function of the tokens whose gradient is taken.
        ids: token ids ``[batch, tokens]``.
        labels: labels ``[batch, tokens]``, ``IGNORE`` where a token has no loss; there is at least
            one label after the first position.

    Returns:
        mean of 1 - p over the labels of each text, ``[batch]``: how much was left to learn.
    """
    row, position = (labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
    targets = labels[row, position + 1]  # the causal shift: position t predicts token t + 1
    head = _HeadOn(row * ids.shape[1] + position)
    logits = head.run(module, ids)  # [labels, vocabulary]
    wide = accumulation_dtype(logits.dtype)
    right = torch.arange(len(targets), device=targets.device), targets
    delta = torch.softmax(logits.detach(), -1, dtype=wide)
    doubt = 1 - delta[right]
    if output is Output.margin:
        # The softmax is over the other tokens: dividing by 1 - p loses all digits for p near 1.
        others = logits.detach().to(wide).index_put(right, -torch.inf * torch.ones_like(doubt))
        delta = torch.softmax(others, -1)
    elif output is Output.logit:
        delta = torch.zeros_like(delta)
    delta[right] -= 1
    if logits.requires_grad:  # else no watched layer took part, as the caller will see
        torch.autograd.backward(logits, delta.to(logits.dtype))
    # The values are laid out by text before they are summed: a sum by index has no fixed order on a
    # GPU, and a count of indices would wait there for all of the above to end.
    of_texts = torch.zeros(ids.shape, dtype=wide, device=doubt.device)
    of_texts[row, position] = doubt
    return of_texts.sum(1) / (labels[:, 1:] != IGNORE).sum(1).clamp_min(1)


class _HeadOn:
    """Runs a model whose output head computes chosen positions only.

    Args:
        flat: the positions, ``[chosen]``, in the flattened ``[batch * tokens]``.
    """

    def __init__(self, flat: Tensor) -> None:
        self._flat, self._chosen = flat, False

    def run(self, module: nn.Module, ids: Tensor) -> Tensor:
        """Logits ``[chosen, vocabulary]``; whatever follows the head works token by token."""
        head = module.get_output_embeddings()  # type: ignore[operator]
        handle = head.register_forward_pre_hook(self._choose) if head is not None else None
        try:
            logits = module(input_ids=ids, use_cache=False).logits
        finally:
            if handle is not None:
                handle.remove()
        flat_logits = logits.flatten(0, 1)
        # A model that multiplies by the head's weight without calling the head makes all logits.
        return flat_logits if self._chosen else flat_logits.index_select(0, self._flat)

    def _choose(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]
        self._chosen = True
        flat = hidden.reshape(-1, hidden.shape[-1])  # on the device of the last layer
        return (flat.index_select(0, self._flat.to(flat.device))[None], *inputs[1:])
