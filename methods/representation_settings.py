"""Settings of the methods that compare representations in the model; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bench.core.fields import part_of_key, speed
from methods.query_text import QueryPart


class Pooling(Enum):
    """How the states of a text's tokens become one vector.

    ``mean`` averages them; ``last`` takes the last token's, the only one that saw the whole text.
    """

    mean = "mean"
    last = "last"


@dataclass
class RepresentationConfig:
    """Settings of ``conf/method/repsim.yaml``."""

    layer: int = part_of_key()
    pooling: Pooling = part_of_key()
    normalize: bool = part_of_key()
    query: QueryPart = part_of_key()
    batch_size: int = speed(at_least=1)


@dataclass
class OutputEmbeddingConfig:
    """Settings of ``conf/method/output_embedding.yaml``."""

    normalize: bool
