"""The public interface of tdabench: what it offers to Python, and the command of that name.

Everything is imported when it is first asked for. The packages that do the work have plain names
(``bench``, ``methods``, ``metrics``, ``conf``), so another one of these names may stand before them
on Python's path: that is said in one line, before anything of it is run.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api.attribution import Attribution, RankedPassages, attribute
    from bench.api.evaluation import evaluate
    from bench.api.results import Results, load
    from bench.api.running import run
    from bench.core.environment import __version__
    from bench.core.errors import UserError

_HOMES = {
    "Attribution": "bench.api.attribution",
    "RankedPassages": "bench.api.attribution",
    "Results": "bench.api.results",
    "UserError": "bench.core.errors",
    "__version__": "bench.core.environment",
    "attribute": "bench.api.attribution",
    "evaluate": "bench.api.evaluation",
    "load": "bench.api.results",
    "run": "bench.api.running",
}
__all__ = [
    "Attribution", "RankedPassages", "Results", "UserError", "__version__", "attribute",
    "evaluate", "load", "main", "run",
]  # fmt: skip
_PACKAGES = ("bench", "methods", "metrics", "conf")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tdabench' has no attribute {name!r}")
    if fault := _shadowed():
        raise ImportError(fault)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__


def main() -> int:
    """Run the command line, and return its exit status; one that a signal ended does not return."""
    if fault := _shadowed():
        print(f"error: {fault}", file=sys.stderr)
        return 2
    from bench.core import stopping

    with stopping.on_signals():
        try:
            from bench.cli.main import main as command

            status = command()
            if not stopping.asked():
                stopping.all_done()
        except stopping.Stopped as stop:  # before the command began, or after its end
            print(stopping.line(stop.number), file=sys.stderr)
            status = 128 + stop.number
        if stopping.asked():
            with suppress(OSError, ValueError):  # whoever reads them may be gone
                sys.stdout.flush()
                sys.stderr.flush()
            stopping.end_now(status)
    return status


def _shadowed() -> str:
    """Which of this project's packages is found elsewhere than beside this file; empty if none."""
    here = Path(__file__).resolve().parent
    for name in _PACKAGES:
        spec = find_spec(name)
        place = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if place != here / name:
            return (
                f"{name}: another package of this name comes first on Python's path ({place}); "
                f"rename it, or start elsewhere: tdabench's own is {here / name}"
            )
    return ""
