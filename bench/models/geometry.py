"""The configuration of transformers for a decoder of a given size."""

from __future__ import annotations

from dataclasses import asdict

from transformers import AutoConfig, PretrainedConfig

from bench.core.errors import at_least
from bench.models.decoder import check_decoder
from bench.models.settings import Geometry
from bench.models.sizes import check_numbers


def decoder_of(geometry: Geometry) -> PretrainedConfig:
    """The configuration of transformers for a geometry.

    Raises:
        UserError: names the number that no decoder can have.
    """
    for name, value in asdict(geometry).items():
        if name != "architecture":
            at_least(1, f"model.geometry.{name}", value)
    check_decoder(geometry, "model.geometry")
    check_numbers(asdict(geometry), "model.geometry")
    inner = "n_inner" if geometry.architecture == "gpt2" else "intermediate_size"
    return AutoConfig.for_model(
        geometry.architecture,
        hidden_size=geometry.hidden_size,
        num_hidden_layers=geometry.num_layers,
        num_attention_heads=geometry.num_heads,
        vocab_size=geometry.vocab_size,
        max_position_embeddings=geometry.context_length,
        bos_token_id=None,
        eos_token_id=0,
        **{inner: geometry.intermediate_size},
    )
