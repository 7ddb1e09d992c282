"""A torch optimizer's ``state_dict``, read as second moments by parameter name.

Names that the state records itself win: ``param_names`` of its groups, or ids that are names. Ids
that are numbers are the places of parameters in the optimizer, and are given names by the orders in
which optimizers are usually built, every shape checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError, first_line
from bench.models.moment_files import BETA2, COL, FULL, NAME_KEYED, ROW, STEP, Fields

FLOOR = "floor"  # the least V that an optimizer divides by: of torch's own Adafactor alone
# torch's own Adafactor's names. Its rows are [m, 1] and its columns [1, n].
_TORCH_ROW, _TORCH_COL, _TORCH_FULL = "row_var", "col_var", "variance"
_QUANTISED = ("qmap2", "absmax2", "state2")  # bitsandbytes' names
_MOMENTUM = "momentum_buffer"


@dataclass(frozen=True)
class _Entry:
    """The part of a state that is of one parameter.

    Attributes:
        identifier: a number or a name.
        name: the name that the state records for it, if it does.
        fields: its tensors and numbers, under the optimizer's own names; empty if it has none.
        group: the settings of its group.
    """

    identifier: Any
    name: str | None
    fields: Mapping[str, Any]
    group: Mapping[str, Any]


def read_optimizer(path: Path, module: nn.Module) -> dict[str, Fields]:
    """The second moments that ``torch.save(optimizer.state_dict(), path)`` wrote.

    Args:
        path: the file, read with ``weights_only=True``: nothing in it is executed. The state may
            stand under the key ``optimizer``.
        module: the model whose parameters it is of.

    Raises:
        UserError: the file cannot be read, or as ``state_fields``.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not what it expects
        raise UserError(
            f"cannot be read as a torch optimizer state ({first_line(error)})",
            where=str(path),
            fix=NAME_KEYED,
        ) from error
    return state_fields(checkpoint, module, str(path))


def state_fields(checkpoint: Any, module: nn.Module, where: str) -> dict[str, Fields]:
    """The second moments of an optimizer's ``state_dict``, perhaps under the key ``optimizer``.

    Args:
        checkpoint: the state.
        module: the model whose parameters it is of.
        where: the place of the state, for messages.

    Returns:
        fields by the names that the state records, or by those of the model.

    Raises:
        UserError: it is no such state, there are no second moments in it, or its parameters have no
            names and fit none or several of the known orders.
    """
    checkpoint = _state_of(checkpoint, where)
    try:
        entries = list(_entries(checkpoint, where))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "its 'state' and 'param_groups' are not as torch writes them",
            where=where,
            fix=NAME_KEYED,
        ) from error
    _check_second_moments([entry.fields for entry in entries], where)
    names = [entry.name for entry in entries]
    known = [name for name in names if name is not None]
    if known and len(known) < len(names):
        raise UserError(
            f"it names {len(known)} of its {len(names)} parameters", where=where, fix=NAME_KEYED
        )
    if not known:
        known = _names_by_place(entries, module, where)
    return {
        name: fields
        for name, entry in zip(known, entries, strict=True)
        if (fields := _second_moments(entry, name, where))
    }


def _state_of(checkpoint: Any, where: str) -> dict[str, Any]:
    if isinstance(checkpoint, dict) and "optimizer" in checkpoint:
        checkpoint = checkpoint["optimizer"]
    if not (isinstance(checkpoint, dict) and {"state", "param_groups"} <= set(checkpoint)):
        raise UserError(
            "no optimizer state_dict (keys 'state' and 'param_groups') in it",
            where=where,
            fix=NAME_KEYED,
        )
    return checkpoint


def _entries(checkpoint: Mapping[str, Any], where: str) -> Iterator[_Entry]:
    """The parameters of all groups, in their order."""
    for group in checkpoint["param_groups"]:
        identifiers = list(group["params"])
        names = list(group.get("param_names") or map(_if_name, identifiers))
        if len(names) != len(identifiers):
            raise UserError(
                f"a group has {len(identifiers)} parameters and {len(names)} param_names",
                where=where,
                fix=NAME_KEYED,
            )
        for identifier, name in zip(identifiers, names, strict=True):
            fields = dict(checkpoint["state"].get(identifier) or {})
            yield _Entry(identifier, name, fields, group)


def _if_name(identifier: Any) -> str | None:
    return identifier if isinstance(identifier, str) else None


# ------------------------------------------------------------------ what a state holds


def _check_second_moments(state: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuse a state without second moments, with the reason why it has none."""
    if any(_has_second_moments(fields) for fields in state):
        return
    present = sorted({
        str(key)
        for fields in state
        for key, value in fields.items()
        if key != STEP and value is not None
    })  # fmt: skip
    if not present:
        reason = "its state is empty, as before the first step or of SGD without momentum"
    elif any(field in present for field in _QUANTISED):
        reason = f"they are quantised to 8 bits ({', '.join(present)})"
    elif present == [_MOMENTUM]:
        reason = "it keeps momentum alone, as SGD and Muon do"
    else:
        reason = f"it keeps {', '.join(present)} alone"
    raise UserError(
        f"there are no second moments in it: {reason}",
        where=where,
        fix="set model.optimizer_state=estimate, or a state of Adam or Adafactor",
    )


def _has_second_moments(fields: Mapping[str, Any]) -> bool:
    return any(
        fields.get(field) is not None
        for field in (ROW, COL, FULL, _TORCH_ROW, _TORCH_COL, _TORCH_FULL)
    )


def _second_moments(entry: _Entry, name: str, where: str) -> Fields:
    """The second moments of one parameter under this project's names; empty if it has none."""
    fields, group = entry.fields, entry.group
    if _is_torch_adafactor(fields):
        return _of_torch_adafactor(fields, group)
    kept: Fields = {
        field: fields[field] for field in (ROW, COL, FULL) if fields.get(field) is not None
    }
    if FULL in kept and "betas" in group:  # Adam's; Adafactor has no such setting
        step = fields.get(STEP, group.get(STEP))
        if step is None:
            raise UserError(
                f"parameter {name} has no step, so that its {FULL} cannot be corrected for its "
                "start at zero",
                where=where,
                fix=NAME_KEYED,
            )
        kept |= {STEP: float(step), BETA2: float(group["betas"][1])}
    elif FULL in kept and fields.get(STEP) is not None:
        kept[STEP] = float(fields[STEP])
    return kept


def _is_torch_adafactor(fields: Mapping[str, Any]) -> bool:
    return any(fields.get(field) is not None for field in (_TORCH_ROW, _TORCH_FULL))


def _of_torch_adafactor(fields: Mapping[str, Any], group: Mapping[str, Any]) -> Fields:
    """The moments of torch.optim.Adafactor, whose V is never taken for less than its ε squared."""
    kept: Fields = {}
    if fields.get(_TORCH_FULL) is not None:
        kept[FULL] = fields[_TORCH_FULL]
    else:
        kept = {ROW: fields[_TORCH_ROW].squeeze(-1), COL: fields[_TORCH_COL].squeeze(-2)}
    epsilon = (group.get("eps") or (None,))[0]
    if epsilon is None:  # torch's own default
        epsilon = torch.finfo(next(iter(kept.values())).dtype).eps
    return {**kept, FLOOR: float(epsilon) ** 2}


# ------------------------------------------------------------------ names by place


def _names_by_place(entries: Sequence[_Entry], module: nn.Module, where: str) -> list[str]:
    """The names of parameters that the state has numbers for, in its order."""
    groups: dict[int, int] = {}
    for entry in entries:
        groups[id(entry.group)] = groups.get(id(entry.group), 0) + 1
    sizes = tuple(groups.values())
    parameters = dict(module.named_parameters())
    orders = _orders(list(parameters), sizes, module)
    fitting = [order for order in orders if _shapes_fit(entries, order, parameters)]
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


def _shapes_fit(
    entries: Sequence[_Entry], order: Sequence[str], parameters: Mapping[str, Tensor]
) -> bool:
    """Whether each entry could be of the parameter that an order gives it."""
    return len(order) == len(entries) and all(
        _fits(entry.fields, tuple(parameters[name].shape))
        for entry, name in zip(entries, order, strict=True)
    )


def _fits(fields: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether all tensors of an entry are of the shapes that a parameter of ``shape`` has there."""
    rows, columns = shape[:-1], (*shape[:-2], *shape[-1:])
    shapes = {
        **{ROW: rows, COL: columns, FULL: shape},
        **{_TORCH_ROW: (*rows, 1), _TORCH_COL: (*shape[:-2], 1, *shape[-1:]), _TORCH_FULL: shape},
        **{_MOMENTUM: shape, "exp_avg": shape},
    }
    return all(
        tuple(fields[field].shape) == want
        for field, want in shapes.items()
        if isinstance(fields.get(field), Tensor)
    )
