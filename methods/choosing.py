"""From a method's configuration to its class and checked settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.core.registry import DESCRIPTION
from bench.core.typed import typed
from methods import METHODS

if TYPE_CHECKING:
    from methods.base import Method

_NOT_SETTINGS = ("name", *DESCRIPTION)


def chosen(settings: Mapping[str, Any], where: str = "method") -> tuple[type[Method], Any]:
    """The class of a method and its configuration, checked against the class's ``Config``.

    Args:
        settings: plain values of the group, ``name`` among them.
        where: the key that they are below.

    Raises:
        UserError: there is no such method, its code does not load, or a setting is unknown, missing
            or of the wrong type.
    """
    method_class = METHODS.get(settings.get("target") or settings["name"])
    for field in fields(method_class.Config):
        if field.name in _NOT_SETTINGS:
            raise UserError(
                f"{method_class.__name__} has a setting of the reserved name {field.name!r}",
                where=where,
                fix=f"rename it; {', '.join(_NOT_SETTINGS)} describe the method",
            )
    return method_class, typed(method_class.Config, settings, where, _NOT_SETTINGS)
