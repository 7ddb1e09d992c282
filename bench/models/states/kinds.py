"""What optimizers keep of one parameter, under their own names, as second moments of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.models.moment_files import BETA2, COL, FLOOR, FULL, NAME_KEYED, ROW, STEP, Fields

ADAM = "Adam"  # and AdamW, NAdam, RAdam: exp_avg_sq is the same running mean in all of them
ADAFACTOR = "Adafactor"
TORCH_ADAFACTOR = "torch's Adafactor"
BITSANDBYTES = "Adam of bitsandbytes"
# torch's own Adafactor's names. Its rows are [m, 1] and its columns [1, n].
_TORCH_ROW, _TORCH_COL, _TORCH_FULL = "row_var", "col_var", "variance"
_LARGEST = "max_exp_avg_sq"  # what amsgrad divides by
_MOMENTUM = "momentum_buffer"
# bitsandbytes: the second state, the values that its bytes stand for, and the factor of each block.
_SECOND, _CODE, _FACTORS = "state2", "qmap2", "absmax2"
_WRAPPED = "__bnb_optimizer_quant_state__"  # what it puts them into since FSDP is supported
_BLOCKS = (256, 2048)  # numbers a block: since 0.45, and before


@dataclass(frozen=True)
class StateEntry:
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


def unwrapped(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An entry's fields with those of bitsandbytes among them, and none that are None."""
    inner = fields.get(_WRAPPED)
    merged = {**fields, **inner} if isinstance(inner, Mapping) else dict(fields)
    return {name: value for name, value in merged.items() if value is not None and name != _WRAPPED}


def kind_of(fields: Mapping[str, Any]) -> str | None:
    """The optimizer that keeps such fields; None for one that keeps no second moments."""
    if _TORCH_ROW in fields or _TORCH_FULL in fields:
        return TORCH_ADAFACTOR
    if ROW in fields or COL in fields:
        return ADAFACTOR
    if _SECOND in fields:
        return BITSANDBYTES
    return ADAM if FULL in fields else None


def check_second_moments(state: Iterable[Mapping[str, Any]], where: str) -> None:
    """Refuse a state without second moments, with the reason why it has none."""
    kept = list(state)
    if any(kind_of(fields) is not None for fields in kept):
        return
    raise UserError(
        f"there are no second moments in it: {_reason(kept)}",
        where=where,
        fix="set model.optimizer_state=estimate, or a state of Adam or Adafactor",
    )


def _reason(state: Sequence[Mapping[str, Any]]) -> str:
    present = sorted({str(key) for fields in state for key in fields if key != STEP})
    if not present:
        return "its state is empty, as before the first step or of SGD without momentum"
    if present == [_MOMENTUM]:
        return "it keeps momentum alone, as SGD and Muon do"
    return f"it keeps {', '.join(present)} alone"


def second_moments(entry: StateEntry, name: str, where: str) -> Fields:
    """The second moments of one parameter under this project's names; empty if it has none.

    Raises:
        UserError: Adam's without a step, or bytes that cannot be read.
    """
    kind, fields = kind_of(entry.fields), entry.fields
    if kind is None:
        return {}
    if kind == TORCH_ADAFACTOR:
        return _of_torch_adafactor(fields, entry.group)
    if kind == BITSANDBYTES:
        return _running_mean(_of_bitsandbytes(fields, name, where), entry, name, where)
    if kind == ADAFACTOR:
        return {field: fields[field] for field in (ROW, COL, FULL) if field in fields}
    largest = entry.group.get("amsgrad") and fields.get(_LARGEST)
    return _running_mean(
        largest if isinstance(largest, Tensor) else fields[FULL], entry, name, where
    )


def _running_mean(value: Any, entry: StateEntry, name: str, where: str) -> Fields:
    """Adam's V, with all that its correction takes; Adafactor's, of a vector, has no betas."""
    step = entry.fields.get(STEP, entry.group.get(STEP))
    if "betas" not in entry.group:
        return {FULL: value} if step is None else {FULL: value, STEP: float(step)}
    if step is None:
        raise UserError(
            f"parameter {name} has no step, so that its {FULL} cannot be corrected for its "
            "start at zero",
            where=where,
            fix=NAME_KEYED,
        )
    return {FULL: value, STEP: float(step), BETA2: float(entry.group["betas"][1])}


def _of_torch_adafactor(fields: Mapping[str, Any], group: Mapping[str, Any]) -> Fields:
    """The moments of torch.optim.Adafactor, whose V is never taken for less than its ε squared."""
    kept: Fields = {}
    if _TORCH_FULL in fields:
        kept[FULL] = fields[_TORCH_FULL]
    else:
        kept = {ROW: fields[_TORCH_ROW].squeeze(-1), COL: fields[_TORCH_COL].squeeze(-2)}
    epsilon = (group.get("eps") or (None,))[0]
    if epsilon is None:  # torch's own default
        epsilon = torch.finfo(next(iter(kept.values())).dtype).eps
    return {**kept, FLOOR: float(epsilon) ** 2}


def _of_bitsandbytes(fields: Mapping[str, Any], name: str, where: str) -> Tensor:
    """The second state of bitsandbytes' Adam: floats as they are, bytes dequantised by blocks."""
    state = fields[_SECOND]
    if state.dtype != torch.uint8:
        kept: Tensor = state
        return kept
    code, factors = (fields.get(name, torch.empty(0)) for name in (_CODE, _FACTORS))
    n = state.numel()
    sizes: list[int] = []
    if code.numel() == 1 << 8:
        sizes = [size for size in _BLOCKS if -(-n // size) == factors.numel()]
    if not sizes:
        raise UserError(
            f"parameter {name}: {_SECOND} is of 8 bits, and {_CODE} and {_FACTORS} are not those "
            f"of {' or '.join(map(str, _BLOCKS))} numbers a block",
            where=where,
            fix=NAME_KEYED,
        )
    return dequantised(state, code, factors, sizes[0])


def dequantised(state: Tensor, code: Tensor, factors: Tensor, size: int) -> Tensor:
    """The numbers that bytes stand for: ``code[byte]`` times the factor of the byte's block.

    Source: blockwise quantisation of 2110.02861, section 2.1, as bitsandbytes stores it.

    Args:
        state: uint8, of any shape; blocks follow each other in memory order.
        code: float32 ``[256]``.
        factors: float32 ``[blocks]``, the largest magnitude of each block.
        size: numbers a block; the last may be shorter.

    Returns:
        float32, of the shape of ``state``.
    """
    flat = code.float()[state.reshape(-1).int()]
    whole = flat.numel() // size * size
    flat[:whole].view(-1, size).mul_(factors.float()[: whole // size, None])
    flat[whole:] *= factors.float()[-1]
    return flat.view(state.shape)


def shapes_of(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes that tensors of an entry have for a parameter of ``shape``, by field."""
    rows, columns = shape[:-1], (*shape[:-2], *shape[-1:])
    return {
        **{ROW: rows, COL: columns, FULL: shape},
        **{_TORCH_ROW: (*rows, 1), _TORCH_COL: (*shape[:-2], 1, *shape[-1:]), _TORCH_FULL: shape},
        **{_MOMENTUM: shape, "exp_avg": shape, _SECOND: shape},
    }


# Fields of an entry that second moments are read from; of others it is enough that they are there.
NEEDED = frozenset({
    ROW, COL, FULL, _LARGEST, STEP, _TORCH_ROW, _TORCH_COL, _TORCH_FULL, _SECOND, _CODE, _FACTORS,
    _WRAPPED,
})  # fmt: skip
