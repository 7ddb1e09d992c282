"""What of a model decides over the vectors that are made with it: part of an index's key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.models.language_model import LanguageModel


def model_identity(model: LanguageModel) -> dict[str, Any]:
    """Weights, dtypes, and how a text becomes tokens, as JSON values."""
    return {
        "model": model.sha256,
        "append_eos": model.append_eos,
        "context_length": model.context_length,
        "dtype": str(model.gradient_dtype),
        "weights_dtype": str(next(model.module.parameters()).dtype),
    }
