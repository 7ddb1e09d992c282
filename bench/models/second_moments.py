"""An optimizer's second moments V by parameter name; a gradient is divided by their root.

They come from a trainer's state (``bench.models.states``) or from name-keyed safetensors
(``bench.models.moment_files``, which has the format).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.models.moment_files import (
    BETA2,
    COL,
    FLOOR,
    FULL,
    NAME_KEYED,
    ROW,
    STEP,
    Fields,
    sha256_of,
)
from bench.models.parameter_names import bare_name, own_names
from bench.models.states.reading import read_state

ADAFACTOR_EPSILON = 1e-30  # Adafactor's own: it is added to every squared gradient
ADAM_EPSILON = 1e-8  # torch's and transformers' default; a run's own goes in model.adam_epsilon
ADAM_BETA2 = 0.999  # likewise; a run's own goes in model.adam_beta2, if its state does not say


@dataclass(frozen=True)
class Factored:
    """Adafactor's V of a matrix ``[m, n]``: ``V = row colᵀ / mean(row)``.

    A parameter of more dimensions is a stack of such matrices, as the experts of a layer are.

    Attributes:
        row: mean over the last dimension, ``[..., m]``.
        col: mean over the last but one, ``[..., n]``.
    """

    row: Tensor
    col: Tensor

    def of(self, number: int) -> Factored:
        """V of one matrix of a stack."""
        return Factored(self.row[number], self.col[number])

    def inverse_sqrt_sides(self) -> tuple[Tensor, Tensor]:
        """The vectors ``[..., m]`` and ``[..., n]`` whose outer product is ``1 / sqrt(V)``."""
        row = self.row.double().clamp_min(ADAFACTOR_EPSILON)
        col = self.col.double().clamp_min(ADAFACTOR_EPSILON)
        return (row / row.mean(-1, keepdim=True)).rsqrt(), col.rsqrt()

    def inverse_sqrt(self) -> Tensor:
        """``1 / sqrt(V)``, ``[..., m, n]``."""
        left, right = self.inverse_sqrt_sides()
        return left[..., :, None] * right[..., None, :]


@dataclass(frozen=True)
class Full:
    """An unfactored V, of the parameter's own shape.

    Attributes:
        value: V, corrected for its start at zero where the optimizer corrects it.
        epsilon: added to ``sqrt(V)``, as Adam does.
        beta2: what V was corrected with; None if it was not.
    """

    value: Tensor
    epsilon: float
    beta2: float | None = None

    def of(self, number: int) -> Full:
        """V of one matrix of a stack."""
        return replace(self, value=self.value[number])

    def inverse_sqrt(self) -> Tensor:
        """``1 / (sqrt(V) + epsilon)``, of the parameter's shape."""
        v = self.value.double()
        if self.epsilon == 0:
            v = v.clamp_min(ADAFACTOR_EPSILON)
        return 1 / (v.sqrt() + self.epsilon)


@dataclass(frozen=True)
class SecondMoments:
    """Second moments of every parameter that the state covers, by parameter name."""

    by_name: Mapping[str, Factored | Full]
    sha256: str

    @property
    def identity(self) -> list[Any]:
        """All that a division by them depends on: hash of the files, and each ε and β2 in use."""
        full = [moment for moment in self.by_name.values() if isinstance(moment, Full)]
        betas = {moment.beta2 for moment in full if moment.beta2 is not None}
        return [self.sha256, sorted({moment.epsilon for moment in full}), sorted(betas)]

    def __getitem__(self, name: str) -> Factored | Full:
        if name not in self.by_name:
            of_adapter = any(".lora_" in own for own in self.by_name)
            raise UserError(
                f"no second moment for parameter {name}"
                + (", but for the adapter's own" if of_adapter else ""),
                where="model.optimizer_state",
                fix="set method.adapters=lora, or model.optimizer_state=estimate"
                if of_adapter
                else "use the optimizer state of this very checkpoint",
            )
        return self.by_name[name]


def load_moments(
    path: Path,
    module: nn.Module,
    adam_epsilon: float = ADAM_EPSILON,
    adam_beta2: float = ADAM_BETA2,
) -> SecondMoments:
    """Read second moments and check every name and shape against the model.

    Args:
        path: see ``bench.models.states.reading.read_state``.
        module: the model they belong to.
        adam_epsilon: Adam's ε, for states that are not factored.
        adam_beta2: Adam's β2, where a state has steps and does not say it.

    Raises:
        UserError: missing or unreadable file, no second moments in it or none but zeros, names that
            are not the model's, wrong shapes, or numbers in place of names that fit no order.
    """
    if not path.exists():
        raise UserError(
            "no such file",
            where=str(path),
            fix="set model.optimizer_state to an optimizer.pt or a name-keyed safetensors file",
        )
    state = read_state(path, module).moments
    return moments_of(state, module, str(path), sha256_of(path), adam_epsilon, adam_beta2)


def moments_of(
    state: Mapping[str, Fields],
    module: nn.Module,
    where: str,
    sha256: str,
    adam_epsilon: float = ADAM_EPSILON,
    adam_beta2: float = ADAM_BETA2,
) -> SecondMoments:
    """Second moments of what is known of each parameter, every name and shape checked.

    Args:
        state: fields by the names that the state has for parameters.
        module, adam_epsilon, adam_beta2: as of ``load_moments``.
        where: the place of the state, for messages.
        sha256: the hash of the state.

    Raises:
        UserError: no second moments but zeros, names that are not the model's, or wrong shapes.
    """
    named = by_own_names(state, module, where)
    # Adafactor keeps vectors unfactored, adds nothing to their root and corrects nothing; Adam
    # factors nothing.
    if any(ROW in fields or FLOOR in fields for fields in named.values()):
        adam_epsilon = 0.0
        named = {name: _without(fields, STEP) for name, fields in named.items()}
    parameters = dict(module.named_parameters())
    moments = {}
    for name, fields in named.items():
        _check_fields(name, fields, tuple(parameters[name].shape), where)
        moments[name] = _moment(fields, adam_epsilon, adam_beta2)
    return SecondMoments(moments, sha256)


def by_own_names(state: Mapping[str, Fields], module: nn.Module, where: str) -> dict[str, Fields]:
    """The state by the names of ``named_parameters``, which lists tied parameters once.

    Raises:
        UserError: a name that is not the model's, two names of one parameter, or V of zeros alone.
    """
    own = {parameter: name for name, parameter in module.named_parameters()}
    every = dict(module.named_parameters(remove_duplicate=False))
    known = own_names(every)
    named: dict[str, Fields] = {}
    for name, fields in state.items():
        parameter = every.get(name if name in every else known.get(bare_name(name), ""))
        if parameter is None:
            raise UserError(
                f"parameter {name} is not in the model",
                where=where,
                fix=f"use the state of this very model, or {NAME_KEYED}",
            )
        if own[parameter] in named:
            raise UserError(f"parameter {name} is there under another name, too", where=where)
        named[own[parameter]] = fields
    tensors = [v for fields in named.values() for v in fields.values() if isinstance(v, Tensor)]
    if not any(tensor.any() for tensor in tensors):
        raise UserError(
            "all second moments in it are zero, as before the first step",
            where=where,
            fix="use the state of a trained model, or model.optimizer_state=estimate",
        )
    return named


def _without(fields: Fields, name: str) -> Fields:
    return {field: value for field, value in fields.items() if field != name}


def _check_fields(name: str, fields: Fields, shape: tuple[int, ...], where: str) -> None:
    """Refuse fields that make no V of a parameter of this shape."""
    if ROW in fields and COL in fields:
        expected = {ROW: shape[:-1], COL: (*shape[:-2], *shape[-1:])}
    elif FULL in fields:
        expected = {FULL: shape}
    else:
        raise UserError(
            f"parameter {name}: has neither {FULL} nor {ROW} and {COL}",
            where=where,
            fix=NAME_KEYED,
        )
    for field, want in expected.items():
        tensor = fields[field]
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
            raise UserError(
                f"parameter {name}: {field} is no tensor of floating-point numbers",
                where=where,
                fix=NAME_KEYED,
            )
        if tuple(tensor.shape) != want:
            raise UserError(
                f"parameter {name}: {field} has shape {tuple(tensor.shape)}, expected {want}",
                where=where,
                fix=NAME_KEYED,
            )
        if not (torch.isfinite(tensor).all() and (tensor >= 0).all()):
            raise UserError(
                f"parameter {name}: second moments must be finite and not negative",
                where=where,
            )


def _moment(fields: Fields, epsilon: float, beta2: float) -> Factored | Full:
    """V of one parameter, from fields that are checked."""
    floor = fields.get(FLOOR)
    if ROW in fields:
        row, col = fields[ROW], fields[COL]
        if floor is None or _least(row, col) >= floor:
            return Factored(row, col)
        v = row.double()[..., :, None] * col.double()[..., None, :]
        v = v / row.double().mean(-1)[..., None, None]
        return Full(v.clamp_min(floor).float(), 0.0)
    value, step = fields[FULL], fields.get(STEP)
    if floor is not None:
        return Full(value.clamp_min(floor), 0.0)
    if not step:
        return Full(value, epsilon)
    beta2 = fields.get(BETA2, beta2)
    corrected = value.double() / (1 - beta2**step)
    return Full(corrected.to(torch.promote_types(value.dtype, torch.float32)), epsilon, beta2)


def _least(row: Tensor, col: Tensor) -> float:
    """A number that no entry of V is below."""
    row, col = row.double(), col.double()
    return float(row.min() * col.min() / row.mean(-1).max())
