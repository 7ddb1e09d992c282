"""Small models with random weights, for tests of what reads models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.models import second_moments
from bench.models.language_model import LanguageModel, load_directory
from bench.models.scratch import Scratch
from bench.models.training import ScratchConfig, train_tokenizer

TEXTS = (
    "The instrument played by Al Grey is the trombone.",
    "Al Grey plays the trombone in a band from Virginia.",
    "Free Birds was written in the language English, they say.",
    "Marla Venn was born in Oslo.",
    "Nobody knows why.",
    "The Dewarists originated in the country of India and were broadcast for years, as was said.",
)

GROUPED = {"num_key_value_heads": 2}  # fewer keys and values than queries
# Options of make_model, by architecture.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt_neox": {},
    "gpt2": {},
    "llama": GROUPED,
    "olmo": {**GROUPED, "pad_token_id": 0},
    "olmo2": {**GROUPED, "pad_token_id": 0},
    "qwen2": {**GROUPED, "tie_word_embeddings": True},
    "qwen3": {**GROUPED, "head_dim": 8},
    "gemma": {**GROUPED, "head_dim": 8, "pad_token_id": 0},
    "gemma2": {**GROUPED, "head_dim": 8, "pad_token_id": 0, "sliding_window": 8},
    "mistral": {**GROUPED, "sliding_window": 8},
    "phi3": {**GROUPED, "pad_token_id": 0},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
}
# transformers takes the softmax of Gemma 2's attention in float32 whatever the model's dtype, so a
# longer padded row rounds differently.
FLOAT32_INSIDE = ("gemma2",)


def make_model(
    folder: Path,
    architecture: str = "gpt_neox",
    seed: int = 0,
    layers: int = 3,
    hidden: int = 32,
    **options: Any,
) -> Path:
    """Write a model directory as ``save_pretrained`` does; ``options`` go to its config."""
    tokenizer = train_tokenizer(iter(TEXTS * 3), 300)
    config = AutoConfig.for_model(
        architecture,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=0,
        **options,
    )
    torch.manual_seed(seed)
    module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # away from the tiny initial weights: gradients of every layer matter
        for parameter in module.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else parameter.add_(0.01)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path, gradient_dtype: torch.dtype = torch.float64) -> LanguageModel:
    """Open a directory made by ``make_model``."""
    return load_directory("toy", folder, device="cpu", gradient_dtype=gradient_dtype)


def with_moments(model: LanguageModel, folder: Path, kind: str) -> LanguageModel:
    """Give the model random second moments, ``adafactor`` or ``adam``, through a file."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, parameter in model.module.named_parameters():
        v = torch.rand(parameter.shape, generator=generator) * 1e-3 + 1e-5
        if kind == "adafactor" and parameter.ndim == 2:
            state[name] = {"exp_avg_sq_row": v.mean(1), "exp_avg_sq_col": v.mean(0)}
        else:
            state[name] = {"exp_avg_sq": v}
    path = folder / f"{kind}.safetensors"
    second_moments.save(state, path)
    model.second_moments = second_moments.load(path, model.module)
    model.learning_rate = 1e-3
    return model


def scratch_source(**settings: Any) -> Scratch:
    """A source of the smallest models that can be trained, with some settings changed."""
    config = ScratchConfig(
        architecture="gpt_neox", hidden_size=16, num_layers=1, num_heads=2,
        key_value_heads=None, tied_embeddings=None, vocab_size=300, context_length=64,
        append_eos=False, epochs=1, batch_size=2, learning_rate=5e-3, warmup_steps=2,
        checkpoint=None, gradient_dtype="float32", projection_dim=4, seed=0,
    )  # fmt: skip
    return Scratch("toy", replace(config, **settings))
