"""Settings of the invented worlds, and what is refused."""

# No postponed annotations: OmegaConf reads the types of the fields.
from dataclasses import dataclass

from bench.core.errors import UserError
from bench.tasks.factworld.sentences import MAX_FREQUENCY
from bench.tasks.factworld.wording import N_PROMPTS
from bench.tasks.factworld.world import MIN_FACTS

_MAX_OBJECTS = 10_000  # half of the names of the smallest kind


@dataclass
class FactWorldConfig:
    """Settings; ``conf/task/factworld.yaml`` says what each is for.

    Raises:
        UserError: a value out of range.
    """

    n_facts: int | None
    n_passages: int
    n_queries: int | None
    max_frequency: int
    n_objects: int
    zipf_exponent: float
    alias_rate: float
    alias_statement_rate: float
    alias_introductions: int
    near_name_rate: float
    denied_rate: float
    prompt: int
    separator: str
    seed: int

    def check(self) -> None:
        """Refuse what no world can be made from."""
        if self.n_facts is not None:
            _within(self.n_facts, MIN_FACTS, None, "n_facts")
        _within(self.n_passages, 1, None, "n_passages")
        if self.n_queries is not None:
            _within(self.n_queries, 1, None, "n_queries")
        _within(self.max_frequency, 1, MAX_FREQUENCY, "max_frequency")
        _within(self.n_objects, 2, _MAX_OBJECTS, "n_objects")
        _within(self.zipf_exponent, 0, 10, "zipf_exponent")
        _within(self.alias_introductions, 1, MAX_FREQUENCY, "alias_introductions")
        for name in ("alias_rate", "alias_statement_rate", "near_name_rate"):
            _within(getattr(self, name), 0, 1, name)
        _within(self.denied_rate, 0, 0.5, "denied_rate")
        _within(self.prompt, 0, N_PROMPTS - 1, "prompt")
        _within(self.seed, 0, None, "seed")


@dataclass
class ReplacedWorldConfig(FactWorldConfig):
    """Settings; ``conf/task/replaced.yaml`` says what each is for."""

    bridge_rate: float

    def check(self) -> None:
        """Refuse what no world can be made from."""
        super().check()
        _within(self.bridge_rate, 0, 0.9, "bridge_rate")


def _within(value: float, low: float, high: float | None, name: str) -> None:
    if value >= low and (high is None or value <= high):
        return
    wanted = f"at least {low}" if high is None else f"from {low} to {high}"
    raise UserError(
        f"expected {wanted}, found {value}", where=f"task.{name}", fix=f"set task.{name}"
    )
