"""A group of plain values checked against the dataclass that describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from bench.core.errors import UserError, did_you_mean, first_line


def typed(schema: type, values: Mapping[str, Any], group: str, drop: tuple[str, ...] = ()) -> Any:
    """Check a group's values against a dataclass and build it.

    Args:
        group: config group, for messages; empty for the keys outside every group.
        drop: keys that the harness reads itself, such as ``name``.

    Raises:
        UserError: names the key, and the nearest right one if it is unknown.
    """
    given = {key: value for key, value in values.items() if key not in drop}
    known = [field.name for field in fields(schema)]
    given = _with_floats(schema, given)
    for key in given:
        if key not in known:
            raise UserError(f"unknown key {_full(group, key)}", fix=did_you_mean(key, known))
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), given))
    except MissingMandatoryValue as error:
        key = _full(group, getattr(error, "full_key", None) or "value")
        raise UserError("has no value", where=key, fix=f"set {key}=…") from error
    except (ValidationError, ConfigKeyError, OmegaConfBaseException) as error:
        key = _full(group, getattr(error, "full_key", None) or "")
        raise UserError(first_line(error), where=key) from error


def _with_floats(schema: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with whole numbers as floats where a field takes a float or something else.

    Omegaconf takes 0 for a float, but not for a float or something else, as λ is.
    """
    hints = get_type_hints(schema)
    return {key: _with_float(hints.get(key), value) for key, value in values.items()}


def _with_float(hint: Any, value: Any) -> Any:
    if is_dataclass(hint) and isinstance(value, Mapping):
        return _with_floats(hint, value)  # type: ignore[arg-type]
    kinds = get_args(hint)
    return float(value) if type(value) is int and float in kinds and int not in kinds else value


def _full(group: str, key: str) -> str:
    return ".".join(part for part in (group, key) if part)
