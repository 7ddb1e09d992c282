"""Libraries that only some engines need."""

from __future__ import annotations

import importlib
from types import ModuleType

from bench.core.errors import UserError


def library(name: str, extra: str) -> ModuleType:
    """The library ``name``, imported.

    Raises:
        UserError: it is not installed; names the extra of tdabench that brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"engine={extra} needs the package {name} ({error})",
            where="engine",
            fix=f"pip install 'tdabench[{extra}]', or use engine=processes",
        ) from error
