"""An optimizer's second moments by parameter name: saved, loaded, and mapped from state dicts.

File format: safetensors with ``<parameter>.exp_avg_sq_row`` and ``<parameter>.exp_avg_sq_col``
(Adafactor, matrices) or ``<parameter>.exp_avg_sq`` (Adafactor's vectors, Adam). A folder of such
files holds each parameter of the model in exactly one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.storage.hashes import file_sha256
from bench.storage.keys import content_key

_ROW, _COL, _FULL = "exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"
ADAFACTOR_EPSILON = 1e-30  # Adafactor's own: it is added to every squared gradient
ADAM_EPSILON = 1e-8  # torch's and transformers' default; a run's own goes in model.adam_epsilon

NAME_KEYED = (
    "write a safetensors file with '<parameter name>.exp_avg_sq_row' and '.exp_avg_sq_col' "
    "(Adafactor) or '<parameter name>.exp_avg_sq' (Adam) and set model.optimizer_state to it"
)


@dataclass(frozen=True)
class Factored:
    """Adafactor's V of a matrix ``[m, n]``: ``V = row colᵀ / mean(row)``.

    Attributes:
        row: mean over the second dimension, ``[m]``.
        col: mean over the first dimension, ``[n]``.
    """

    row: Tensor
    col: Tensor

    def inverse_sqrt_sides(self) -> tuple[Tensor, Tensor]:
        """The two vectors, ``[m]`` and ``[n]``, whose outer product is ``1 / sqrt(V)``."""
        row = self.row.double().clamp_min(ADAFACTOR_EPSILON)
        col = self.col.double().clamp_min(ADAFACTOR_EPSILON)
        return (row / row.mean()).rsqrt(), col.rsqrt()

    def inverse_sqrt(self) -> Tensor:
        """``1 / sqrt(V)``, ``[m, n]``."""
        left, right = self.inverse_sqrt_sides()
        return left[:, None] * right[None, :]


@dataclass(frozen=True)
class Full:
    """An unfactored V, of the parameter's own shape.

    Attributes:
        value: ``exp_avg_sq`` without bias correction.
        epsilon: added to ``sqrt(V)``, as Adam does.
    """

    value: Tensor
    epsilon: float

    def inverse_sqrt(self) -> Tensor:
        """``1 / (sqrt(V) + epsilon)``, of the parameter's shape."""
        root = self.value.double().clamp_min(ADAFACTOR_EPSILON).sqrt()
        return 1 / (root + self.epsilon)


@dataclass(frozen=True)
class SecondMoments:
    """Second moments of every parameter that the file covers, by parameter name."""

    by_name: Mapping[str, Factored | Full]
    sha256: str

    @property
    def identity(self) -> list[Any]:
        """What a division by them depends on: hash of the files, and each ε in use."""
        epsilons = {m.epsilon for m in self.by_name.values() if isinstance(m, Full)}
        return [self.sha256, sorted(epsilons)]

    def __getitem__(self, name: str) -> Factored | Full:
        if name not in self.by_name:
            raise UserError(
                f"no second moment for parameter {name}",
                where="model.optimizer_state",
                fix="use the optimizer state of this very checkpoint",
            )
        return self.by_name[name]


def save(state: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """Write name-keyed second moments: ``{parameter name: {"exp_avg_sq...": tensor}}``."""
    tensors = {
        f"{name}.{field}": values[field].detach().cpu().contiguous().clone()
        for name, values in state.items()
        for field in (_ROW, _COL, _FULL)
        if values.get(field) is not None
    }
    save_file(tensors, path)


def load(path: Path, module: nn.Module, adam_epsilon: float = ADAM_EPSILON) -> SecondMoments:
    """Read second moments and check every shape against the model.

    Args:
        path: a name-keyed safetensors file, a folder of several, or a torch ``optimizer.pt`` (read
            with ``weights_only=True``: nothing in it is executed).
        module: the model they belong to.
        adam_epsilon: Adam's ε, for states that are not factored.

    Raises:
        UserError: missing or unreadable file, wrong shapes, integer ids that fit no order, or a
            folder that does not hold each parameter once.
    """
    if path.is_dir():
        state = _read_folder(path, module)
        return SecondMoments(_validate(state, module, path, adam_epsilon), sha256_of(path))
    if not path.is_file():
        raise UserError(
            "no such file",
            where=str(path),
            fix="set model.optimizer_state to an optimizer.pt or a name-keyed safetensors file",
        )
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    else:
        state = _names_from_ids(_read_torch(path), module, path)
    return SecondMoments(_validate(state, module, path, adam_epsilon), file_sha256(path))


def sha256_of(path: Path) -> str:
    """Hash of a state's file, or of all files of its folder, wherever they are."""
    if path.is_file():
        return file_sha256(path)
    return content_key([[file.name, file_sha256(file)] for file in _shards(path)], length=64)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _read_folder(folder: Path, module: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The moments of all files; an index beside them says nothing that their keys do not."""
    files = _shards(folder)
    if not files:
        raise UserError("holds no safetensors file", where=str(folder), fix=NAME_KEYED)
    state: dict[str, dict[str, Tensor]] = {}
    file_of: dict[str, Path] = {}
    for file in files:
        for name, fields in _read_safetensors(file).items():
            if name in state:
                raise UserError(
                    f"parameter {name} is also in {file_of[name].name}",
                    where=str(file),
                    fix="leave each parameter in one file",
                )
            state[name], file_of[name] = fields, file
    for name, _ in module.named_parameters():
        if name not in state:
            raise UserError(
                f"parameter {name} is in none of its {len(files)} safetensors files",
                where=str(folder),
                fix="is a file missing? each parameter of the model must be in one",
            )
    return state


def _read_safetensors(path: Path) -> dict[str, dict[str, Tensor]]:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"not a safetensors file ({error})", where=str(path)) from error
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, field = key.rpartition(".")
        if field not in (_ROW, _COL, _FULL):
            raise UserError(f"key {key!r} is no second moment", where=str(path), fix=NAME_KEYED)
        state.setdefault(name, {})[field] = tensor
    return state


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not what it expects
        raise UserError(
            f"cannot be read as a torch optimizer state ({str(error).splitlines()[0][:120]})",
            where=str(path),
            fix=NAME_KEYED,
        ) from error
    if isinstance(checkpoint, dict) and "optimizer" in checkpoint:
        checkpoint = checkpoint["optimizer"]
    if not (isinstance(checkpoint, dict) and {"state", "param_groups"} <= set(checkpoint)):
        raise UserError(
            "no optimizer state_dict (keys 'state' and 'param_groups') in it",
            where=str(path),
            fix=NAME_KEYED,
        )
    return checkpoint


def _names_from_ids(
    checkpoint: dict[str, Any], module: nn.Module, path: Path
) -> dict[str, dict[str, Tensor]]:
    """Map a state_dict's integer ids to names by the order in which optimizers are built."""
    groups = [list(group["params"]) for group in checkpoint["param_groups"]]
    ids = [identifier for group in groups for identifier in group]
    parameters = list(module.named_parameters())
    orders = [[name for name, _ in parameters]]
    if len(groups) == 2:
        decayed = _decay_names(module)
        first = [name for name, _ in parameters if name in decayed]
        second = [name for name, _ in parameters if name not in decayed]
        # The usual trainers put the decayed parameters in the first of two groups.
        sizes = tuple(map(len, groups))
        pairs = ((first, second), (second, first))
        orders = [[*a, *b] for a, b in pairs if (len(a), len(b)) == sizes]
    fitting = [
        order
        for order in orders
        if len(order) == len(ids) and _shapes_fit(checkpoint["state"], ids, order, dict(parameters))
    ]
    if len(fitting) != 1:
        orders_found = "several orders" if fitting else "no known order"
        raise UserError(
            f"its {len(ids)} parameters in {len(groups)} group(s) fit {orders_found} of the "
            f"model's {len(parameters)} parameters",
            where=str(path),
            fix=NAME_KEYED,
        )
    return {
        name: checkpoint["state"][identifier]
        for identifier, name in zip(ids, fitting[0], strict=True)
        if identifier in checkpoint["state"]
    }


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
    state: Mapping[Any, Any], ids: Sequence[Any], order: Sequence[str], parameters: dict[str, Any]
) -> bool:
    return all(
        _misfit(state[identifier], parameters[name]) is None
        for identifier, name in zip(ids, order, strict=True)
        if identifier in state
    )


def _misfit(fields: Mapping[str, Any], parameter: Tensor) -> str | None:
    """What is wrong with one parameter's second moments; None if they fit."""
    shape = tuple(parameter.shape)
    if fields.get(_ROW) is not None and fields.get(_COL) is not None:
        expected = {_ROW: shape[:-1], _COL: shape[:-2] + shape[-1:]}
    elif fields.get(_FULL) is not None:
        expected = {_FULL: shape}
    else:
        return "has neither exp_avg_sq nor exp_avg_sq_row and exp_avg_sq_col"
    for field, want in expected.items():
        if tuple(fields[field].shape) != want:
            return f"{field} has shape {tuple(fields[field].shape)}, expected {want}"
    return None


def _validate(
    state: Mapping[str, Mapping[str, Tensor]], module: nn.Module, path: Path, adam_epsilon: float
) -> dict[str, Factored | Full]:
    parameters = dict(module.named_parameters())
    found: dict[str, Factored | Full] = {}
    # Adafactor keeps vectors unfactored and adds nothing to their root; Adam factors nothing.
    is_adafactor = any(fields.get(_ROW) is not None for fields in state.values())
    epsilon = 0.0 if is_adafactor else adam_epsilon
    for name, fields in state.items():
        if name not in parameters:
            raise UserError(
                f"parameter {name} is not in the model", where=str(path), fix=NAME_KEYED
            )
        misfit = _misfit(fields, parameters[name])
        if misfit:
            raise UserError(f"parameter {name}: {misfit}", where=str(path), fix=NAME_KEYED)
        found[name] = _moment(name, fields, path, epsilon)
    return found


def _moment(
    name: str, fields: Mapping[str, Tensor], path: Path, adam_epsilon: float
) -> Factored | Full:
    tensors = [fields[field] for field in (_ROW, _COL, _FULL) if fields.get(field) is not None]
    if not all(torch.isfinite(tensor).all() and (tensor >= 0).all() for tensor in tensors):
        raise UserError(
            f"parameter {name}: second moments must be finite and not negative", where=str(path)
        )
    if fields.get(_ROW) is not None:
        return Factored(fields[_ROW], fields[_COL])
    return Full(fields[_FULL], adam_epsilon)
