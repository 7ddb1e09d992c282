"""Mixtures of experts as transformers computes them: which can be taken, and who is sent where.

transformers keeps the experts of a layer in one module, whose weights are stacks: all matrices of
one kind are a single parameter of three dimensions. Its forward is given the hidden states of all
tokens as one list, with the numbers of each token's experts and their weights, and whatever the
family, what it computes follows from a few flags that ``use_experts_implementation`` leaves on the
module. So the same can be computed here, one expert after the other (``linear.py``).

A router is a module beside them that multiplies the hidden states by its own weight, one row for
each expert, and chooses by the result.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's own documentation has it
from torch.overrides import TorchFunctionMode

DOWN = "down_proj"
_CONVERSIONS = (Tensor.to, Tensor.type, Tensor.float, Tensor.double)
_FLAGS = ("has_gate", "has_bias", "has_post_expert_norm", "is_transposed")


def up_name(experts: nn.Module) -> str:
    """Name of the parameter that experts multiply their input by."""
    return "gate_up_proj" if experts.has_gate else "up_proj"


def is_computable(experts: nn.Module) -> bool:
    """Whether a module is the experts of a layer, computed by transformers' common interface.

    Those in eight bits are not: their products need scales.
    """
    if not all(hasattr(experts, flag) for flag in _FLAGS):
        return False
    stacks = [getattr(experts, name, None) for name in (up_name(experts), DOWN)]
    return all(
        isinstance(one, nn.Parameter)
        and one.ndim == 3
        and one.is_floating_point()
        and one.dtype.itemsize > 1
        for one in stacks
    )


def multiplies_once(router: nn.Module) -> bool:
    """Whether a module multiplies each token by its own weight and does nothing else with it.

    It is tried out on two tokens, and zeros for what else it asks for: some add a number for each
    expert before they choose. The weight may be converted to another dtype before the product.
    """
    weight = getattr(router, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim != 2:
        return False
    kinds = [one.kind for one in inspect.signature(type(router).forward).parameters.values()]
    n_others = max(0, kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) - 2)
    with torch.no_grad():
        others = [torch.zeros_like(weight[:, 0])] * n_others
        tokens = torch.zeros_like(weight[:1]).expand(2, -1)
        uses = _Uses(weight)
        try:
            with uses:
                type(router).forward(router, tokens, *others)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            return False  # it asks for something else
    return uses.products == [(2, weight.shape[1])] and not uses.others


class OwnProducts(TorchFunctionMode):
    """A context in which products by one weight, also by a converted copy, are computed apart.

    Attributes:
        others: how many other functions of torch were given the weight, but for the reading of its
            attributes.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._own = [weight]
        self.others = 0

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What ``linear`` of these gives."""
        raise NotImplementedError

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        given = [
            one for one in (*args, *named.values()) if any(one is weight for weight in self._own)
        ]
        if func is F.linear and len(given) == 1 and args[1:2] and args[1] is given[0]:
            bias = args[2] if len(args) > 2 else named.get("bias")
            return self.product(args[0], args[1], bias)
        result = func(*args, **named)
        if given and func in _CONVERSIONS:
            self._own.append(result)
        elif given and getattr(func, "__name__", "") != "__get__":
            self.others += 1
        return result


class _Uses(OwnProducts):
    """Notes the products.

    Attributes:
        products: number of rows and width of what is multiplied by the weight.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.products: list[tuple[int, int]] = []

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        self.products.append((x.numel() // x.shape[-1], x.shape[-1]))
        return F.linear(x, weight, bias)


@dataclass(frozen=True)
class Places:
    """The tokens of a batch that an expert is given, in rising order; each tensor ``[given]``.

    Attributes:
        tokens: places in the list of all tokens.
        choices: which of its token's experts this one is.
        texts: number of the text.
        positions: position in the text.
        ranks: how many tokens of the text the expert is given before.
        shape: number of texts, and positions of each.
        most: the largest number of tokens that it is given of one text.
    """

    tokens: Tensor
    choices: Tensor
    texts: Tensor
    positions: Tensor
    ranks: Tensor
    shape: tuple[int, int]
    most: int

    def by_text(self, rows: Tensor, *, positioned: bool) -> Tensor:
        """The rows ``[given, width]`` laid out by text, zeros elsewhere.

        Args:
            positioned: whether a row keeps its position in the text, ``[texts, positions, width]``;
                else those of a text stand side by side, ``[texts, most, width]``.
        """
        n_texts, length = self.shape
        slots = length if positioned else self.most
        laid_out = rows.new_zeros(n_texts, slots, rows.shape[-1])
        laid_out[self.texts, self.positions if positioned else self.ranks] = rows
        return laid_out


def sent(chosen: Tensor, n_experts: int, shape: tuple[int, int]) -> Iterator[tuple[int, Places]]:
    """Each expert that is given a token, and the tokens that it is given.

    Args:
        chosen: the experts of each token, int64 ``[tokens, experts a token]``; a number that is
            none of the experts stands for none.
        shape: number of texts and positions of each, ``tokens`` together.
    """
    n_texts, length = shape
    a_token = chosen.shape[-1]
    order = torch.argsort(chosen.flatten(), stable=True)
    tokens = order.div(a_token, rounding_mode="floor")
    texts = tokens.div(length, rounding_mode="floor")
    groups = chosen.flatten()[order] * n_texts + texts  # ascending
    places = torch.arange(len(groups), device=groups.device)
    ranks = places - torch.searchsorted(groups, groups)
    counts = torch.bincount(groups, minlength=n_experts * n_texts)[: n_experts * n_texts]
    counts = counts.view(n_experts, n_texts)
    start = 0
    # One transfer from a GPU for all experts.
    for expert, (given, most) in enumerate(
        torch.stack([counts.sum(1), counts.amax(1)], 1).tolist()
    ):
        if given:
            part = slice(start, start + given)
            yield (
                expert,
                Places(
                    tokens=tokens[part],
                    choices=order[part] % a_token,
                    texts=texts[part],
                    positions=tokens[part] % length,
                    ranks=ranks[part],
                    shape=shape,
                    most=most,
                ),
            )
        start += given
