"""What each phase of a run holds in memory, and on how many devices of one size it fits.

A model that is spread (``model.device_map``) has whole layers on each device, with all that lies
beside their weights; what is made of a whole text is on the first device alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from methods.costs import PlannedRun
from methods.gradient.cost import Architecture, token_bytes
from metrics.optimizer_step import activation_bytes

if TYPE_CHECKING:
    from bench.run.settings import Settings

WEIGHTS, PROJECTIONS = "weights", "projections"
STEPPED, SCALES = "stepped weights", "1 / sqrt(V)"


@dataclass(frozen=True)
class PhaseMemory:
    """What one phase holds at a time, in bytes by purpose.

    Attributes:
        by_layer: what lies with the layers, and so is spread as they are.
        on_one: what is on one device as a whole.
        n_layers: the number of layers that are spread.
    """

    name: str
    by_layer: Mapping[str, int]
    on_one: Mapping[str, int]
    n_layers: int

    def fullest(self, devices: int) -> int:
        """Bytes on the fullest of some devices, none of which holds a part of a layer."""
        layers = -(-self.n_layers // devices)
        return sum(self.by_layer.values()) * layers // self.n_layers + sum(self.on_one.values())

    def least_devices(self, memory: float) -> int | None:
        """The least number of devices of ``memory`` bytes that hold it; None where none does."""
        numbers = range(1, self.n_layers + 1)
        return next((n for n in numbers if self.fullest(n) <= memory), None)


def phases_of(
    settings: Settings,
    architecture: Architecture,
    run: PlannedRun,
    memory: Mapping[str, int],
    devices: int,
) -> Iterator[PhaseMemory]:
    """The phases that need devices, each with the least that it goes on with.

    - encode: weights, projections, what a forward and backward pass keeps of one passage, and the
      logits. Larger batches are tried first, and halved where memory ends;
    - search: weights stay; R with what it is made of, queries and a block of passages;
    - tail-patch: weights, those stepped on by one passage, whose memory their gradients had, and a
      pass. A model on one device keeps 1 / sqrt(V) of all parameters, too; one on several makes
      them anew, one tensor after the other, so that the largest counts.

    Args:
        memory: bytes by purpose, as of ``Costs``.
        devices: the number of devices that the model is spread over.
    """
    layers, logits = token_bytes(architecture, run.gradients)
    held = {name: memory[name] for name in (WEIGHTS, PROJECTIONS)}
    n_layers, tokens = architecture.n_layers, run.tokens
    yield PhaseMemory(
        "encode, a passage at a time",
        {**held, "a pass": int(tokens * layers)},
        {"logits": int(tokens * logits)},
        n_layers,
    )
    searched = ("Hessian", "resident queries", "passages while searching")
    yield PhaseMemory("search", held, {name: memory.get(name, 0) for name in searched}, n_layers)
    if settings.metric.tail_patch.enabled:
        size = run.gradients.itemsize
        stepped = architecture.parameters * size
        if settings.model.get("adapter"):  # its matrices carry the gradient, and are stepped on
            stepped = sum(m * n for m, n, _ in architecture.matrices) * size
        is_saved = settings.metric.tail_patch.optimizer == "saved"
        largest = max(m * n for m, n, _ in architecture.matrices)
        largest = max(largest, architecture.vocab_size * architecture.hidden_size)
        scale = size * largest if is_saved and devices > 1 else 0
        hidden, vocabulary = architecture.hidden_size, architecture.vocab_size
        kept = activation_bytes(run.gradients, 0, hidden, n_layers)
        logits = activation_bytes(run.gradients, vocabulary, 0, 0)
        yield PhaseMemory(
            "tail-patch, a passage at a time",
            {
                WEIGHTS: memory[WEIGHTS],
                STEPPED: stepped,
                SCALES: stepped if is_saved and devices == 1 else 0,
                "a pass": int(tokens * kept),
            },
            {"logits": int(tokens * logits), "a tensor's 1 / sqrt(V)": scale},
            n_layers,
        )
