"""Values of the settings of a task, a model and a method, refused before a model library is loaded.

The classes check their settings once more, and in full, when a cell is run: some of that takes the
classes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import MISSING

from bench.core.fields import check_ranges
from bench.core.registry import DESCRIPTION, Registry
from bench.core.typed import typed
from bench.models import SOURCES
from bench.tasks import TASKS
from methods import METHODS


def check_values(settings: Mapping[str, Any]) -> None:
    """Refuse values of a wrong type or out of range, and files that are not there.

    Args:
        settings: plain values by group, ``task``, ``model`` and ``method`` among them.

    Raises:
        UserError: names the key and what may be set.
    """
    for registry, group in ((TASKS, "task"), (METHODS, "method")):
        values = settings[group]
        # A class that is named by its target is of somebody else, and may import anything.
        if "target" not in values:
            _check(registry, values["name"], values, group)
    model = settings["model"]
    _check(SOURCES, model.get("source", ""), model, "model")


def _check(registry: Registry[Any], name: str, values: Mapping[str, Any], group: str) -> None:
    """Make the settings of one group, and let them check themselves where they can.

    A value that is not given is refused by who needs it: a plan can do without.
    """
    if MISSING in values.values():
        return
    config = typed(registry.settings_of(name), values, group, ("name", "source", *DESCRIPTION))
    check_ranges(config, group)
    if callable(check := getattr(config, "check", None)):
        check()
