"""Values of the settings of a task, a model and a method, refused before a model library is loaded.

The classes check their settings once more, and in full, when a cell is run: some of that takes the
classes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import MISSING

from bench.core.errors import UserError
from bench.core.fields import check_ranges
from bench.core.registry import DESCRIPTION, Registry
from bench.core.typed import typed
from bench.models import SOURCES
from bench.tasks import TASKS
from methods import METHODS


def check_values(settings: Mapping[str, Any], spans: bool) -> None:
    """Refuse values of a wrong type or out of range, and files that are not there.

    Args:
        settings: plain values by group, ``task``, ``model`` and ``method`` among them.
        spans: whether the method is to take its scores apart.

    Raises:
        UserError: names the key and what may be set.
    """
    for registry, group in ((TASKS, "task"), (METHODS, "method")):
        values = settings[group]
        # A class that is named by its target is of somebody else, and may import anything.
        if "target" not in values:
            config = _check(registry, values["name"], values, group)
            if spans and group == "method" and config is not None:
                check_spans(values["name"], config)
    model = settings["model"]
    _check(SOURCES, model.get("source", ""), model, "model")


def check_spans(name: str, config: Any) -> None:
    """Refuse ``spans=true`` for a method whose scores do not come apart by token.

    Args:
        name: the method's name.
        config: its settings.

    Raises:
        UserError: names the methods that can, or the setting that is in the way.
    """
    if not hasattr(config, "check_spans"):
        able = [one for one in METHODS if hasattr(METHODS.settings_of(one), "check_spans")]
        raise UserError(
            f"the scores of {name} are not taken apart by token",
            where="spans",
            fix=f"leave spans=false, or use {', '.join(able)}",
        )
    config.check_spans()


def _check(registry: Registry[Any], name: str, values: Mapping[str, Any], group: str) -> Any:
    """The settings of one group, which check themselves where they can.

    A value that is not given is refused by who needs it: a plan can do without. Then there are no
    settings, and the answer is None.
    """
    if MISSING in values.values():
        return None
    config = typed(registry.settings_of(name), values, group, ("name", "source", *DESCRIPTION))
    check_ranges(config, group)
    if callable(check := getattr(config, "check", None)):
        check()
    return config
