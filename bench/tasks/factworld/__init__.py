"""An invented world of facts: the embedded task, and its lexically controlled variant."""

from bench.tasks.factworld.builder import FactWorld, ReplacedWorld
from bench.tasks.factworld.config import FactWorldConfig, ReplacedWorldConfig

__all__ = ["FactWorld", "FactWorldConfig", "ReplacedWorld", "ReplacedWorldConfig"]
