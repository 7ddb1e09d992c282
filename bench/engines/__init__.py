"""Engines that run independent jobs: here, in other processes, or on other machines."""

from bench.core.registry import Registry
from bench.engines.base import Engine

ENGINES: Registry[Engine] = Registry("engine", "bench.engines.base:Engine", package="conf")

__all__ = ["ENGINES", "Engine"]
