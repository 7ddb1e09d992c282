"""What a method says of the cost of a run before it starts; ``tdabench plan`` asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Steps that cells with the same features share.
ENCODE_CORPUS, CHECK_INDEX = "encode the corpus into the index", "check the index"


@dataclass(frozen=True)
class PlannedRun:
    """The run that is planned: its amount of work, and the device for it.

    Attributes:
        tokens: mean length of a passage; it stands in for a query's, which is shorter.
        weights: dtype of the model as it is loaded.
        gradients: dtype of activations and gradients.
        device: where the model runs.
        apart: whether other processes write the index.
    """

    passages: int
    tokens: float
    queries: int
    top_k: int
    weights: torch.dtype
    gradients: torch.dtype
    device: torch.device
    apart: bool


@dataclass(frozen=True)
class Pass:
    """One step of a run.

    Attributes:
        rows: how many passages, queries or blocks it takes.
        bytes_read, bytes_written: what it moves of the index.
        spread: whether an engine shares it out among devices; all else runs on one.
        shares: what cells with the same features do together, or one of them for all; empty where
            each does it alone. They read what they share once.
        own_rows: rows that each takes itself of a step that it shares.
    """

    name: str
    rows: int
    flops: float
    bytes_read: int = 0
    bytes_written: int = 0
    spread: bool = False
    shares: str = ""
    own_rows: int = 0


@dataclass(frozen=True)
class Costs:
    """What a run of a method takes.

    Attributes:
        passes: the steps, in order.
        blocks: sizes of the blocks of a feature row.
        storage: bytes a passage of each format of the index.
        chosen: the format that the run uses; ``none`` stores nothing.
        features: the settings that the index depends on, as JSON values.
        batch_tokens: padded tokens in a forward pass.
        needs_moments: whether the model must bring second moments.
    """

    passes: list[Pass]
    blocks: list[int]
    storage: dict[str, int]
    chosen: str
    memory: dict[str, int]
    features: dict[str, Any]
    batch_tokens: int
    needs_moments: bool
