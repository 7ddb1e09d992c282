"""How a ranking is made. Listing the methods imports none of them.

A method is its YAML: ``conf/method/NAME.yaml`` names the class, describes it, holds its settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.registry import Registry

if TYPE_CHECKING:
    from methods.base import Method

METHODS: Registry[Method] = Registry(
    "method", "methods.base:Method", package="conf", entry_points="tdabench.methods"
)
