"""Names of parameters that a state has numbers for: their places in the optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from bench.core.errors import UserError
from bench.models.moment_files import NAME_KEYED
from bench.models.parameter_names import adapter_names
from bench.models.states.kinds import StateEntry, shapes_of


def names_by_place(entries: Sequence[StateEntry], module: nn.Module, where: str) -> list[str]:
    """The names of a state's parameters, in its order.

    Optimizers are usually built over ``named_parameters()``, or over those of them with weight
    decay and then those without; of a model with an adapter, over the adapter's own.

    Raises:
        UserError: no such order fits the shapes of the state, or several do.
    """
    groups: dict[int, int] = {}
    for entry in entries:
        groups[id(entry.group)] = groups.get(id(entry.group), 0) + 1
    sizes = tuple(groups.values())
    parameters = dict(module.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    trained = [list(parameters)] + [names for names in [adapter_names(module)] if names]
    orders = [order for names in trained for order in _orders(names, sizes, module)]
    fitting = [order for order in orders if _fits(entries, [shapes[name] for name in order])]
    if len(fitting) != 1:
        fitted = "several orders" if fitting else "no known order"
        raise UserError(
            f"its {len(entries)} parameters in {len(sizes)} group(s) fit {fitted} of the "
            f"model's {len(parameters)} parameters",
            where=where,
            fix=NAME_KEYED,
        )
    return fitting[0]


def _orders(names: Sequence[str], sizes: tuple[int, ...], module: nn.Module) -> list[list[str]]:
    """The orders in which optimizers are built from these names, in groups of these sizes."""
    if len(sizes) != 2:
        return [list(names)]
    decayed = _decay_names(module)
    first = [name for name in names if name in decayed]
    second = [name for name in names if name not in decayed]
    # The usual trainers put the decayed parameters in the first of two groups.
    pairs = ((first, second), (second, first))
    return [[*a, *b] for a, b in pairs if (len(a), len(b)) == sizes]


def _decay_names(module: nn.Module) -> set[str]:
    """Parameters with weight decay under the usual grouping: no bias, no normalisation layer."""
    normalisation = {
        f"{prefix}.{name}" if prefix else name
        for prefix, child in module.named_modules()
        if "norm" in type(child).__name__.lower()
        for name, _ in child.named_parameters(recurse=False)
    }
    return {
        name
        for name, _ in module.named_parameters()
        if name not in normalisation and not name.endswith("bias")
    }


def _fits(entries: Sequence[StateEntry], shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether each entry could be of a parameter of the shape in its place."""
    return len(shapes) == len(entries) and all(
        _is_of(entry.fields, shape) for entry, shape in zip(entries, shapes, strict=True)
    )


def _is_of(fields: Any, shape: tuple[int, ...]) -> bool:
    """Whether all tensors of an entry are of the shapes that a parameter of ``shape`` has there."""
    return all(
        tuple(fields[field].shape) == want
        for field, want in shapes_of(shape).items()
        if isinstance(fields.get(field), Tensor)
    )
