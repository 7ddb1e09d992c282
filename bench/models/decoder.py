"""The decoders that can be built from their sizes alone, without files of a model."""

from __future__ import annotations

from typing import Protocol

from bench.core.errors import UserError, did_you_mean

ARCHITECTURES = ("gpt2", "gpt_neox", "llama")


class Decoder(Protocol):
    """The part of a configuration that decides whether a decoder can be built from it."""

    architecture: str
    hidden_size: int
    num_heads: int


def check_decoder(decoder: Decoder, group: str) -> None:
    """Refuse an architecture that is not known, and heads of unequal width.

    Args:
        group: the group that the settings stand in, for the message: ``model``.

    Raises:
        UserError: the architecture is unknown, or the heads do not divide the width.
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
