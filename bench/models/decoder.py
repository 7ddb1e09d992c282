"""Which decoders can be built here from their numbers alone."""

from __future__ import annotations

from typing import Protocol

from bench.core.errors import UserError, did_you_mean

ARCHITECTURES = ("gpt2", "gpt_neox", "llama")


class Decoder(Protocol):
    """What of a configuration decides whether it can be built."""

    architecture: str
    hidden_size: int
    num_heads: int


def check_decoder(decoder: Decoder, group: str) -> None:
    """Refuse an architecture that is not known, and heads of unequal width.

    Args:
        group: of the keys, for the message: ``model``.

    Raises:
        UserError: either of these.
    """
    if decoder.architecture not in ARCHITECTURES:
        raise UserError(
            f"unknown architecture {decoder.architecture!r}",
            where=f"{group}.architecture",
            fix=did_you_mean(decoder.architecture, ARCHITECTURES),
        )
    if decoder.hidden_size % decoder.num_heads:
        raise UserError(
            f"hidden_size {decoder.hidden_size} is not a multiple of num_heads {decoder.num_heads}",
            where=f"{group}.num_heads",
            fix="choose a divisor",
        )
