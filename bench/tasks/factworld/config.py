"""Settings of the invented worlds, and what is refused."""

# No postponed annotations: OmegaConf reads the types of the fields.
from dataclasses import dataclass

from bench.core.fields import part_of_key
from bench.tasks.factworld.sentences import MAX_FREQUENCY
from bench.tasks.factworld.wording import N_PROMPTS
from bench.tasks.factworld.world import MIN_FACTS

_MAX_OBJECTS = 10_000  # half of the names of the smallest kind


@dataclass
class FactWorldConfig:
    """Settings; ``conf/task/factworld.yaml`` says what each is for."""

    n_facts: int | None = part_of_key(at_least=MIN_FACTS)
    n_passages: int = part_of_key(at_least=1)
    n_queries: int | None = part_of_key(at_least=1)
    max_frequency: int = part_of_key(at_least=1, at_most=MAX_FREQUENCY)
    n_objects: int = part_of_key(at_least=2, at_most=_MAX_OBJECTS)
    zipf_exponent: float = part_of_key(at_least=0, at_most=10)
    alias_rate: float = part_of_key(at_least=0, at_most=1)
    alias_statement_rate: float = part_of_key(at_least=0, at_most=1)
    alias_introductions: int = part_of_key(at_least=1, at_most=MAX_FREQUENCY)
    near_name_rate: float = part_of_key(at_least=0, at_most=1)
    denied_rate: float = part_of_key(at_least=0, at_most=0.5)
    prompt: int = part_of_key(at_least=0, at_most=N_PROMPTS - 1)
    separator: str = part_of_key()
    seed: int = part_of_key(at_least=0)


@dataclass
class ReplacedWorldConfig(FactWorldConfig):
    """Settings; ``conf/task/replaced.yaml`` says what each is for."""

    bridge_rate: float = part_of_key(at_least=0, at_most=0.9)
