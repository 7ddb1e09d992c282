"""The context length of a model: what its files say, under the names that families use."""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from bench.core.errors import UserError

# The names that the families of transformers give to the number, the usual one first.
_NAMES = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length",
    "max_seq_length", "seq_length",
)  # fmt: skip
# transformers' own stand-in for "no limit" is 10^30; no model reads a thousand million tokens.
_MOST = 10**9


class ContextLength(NamedTuple):
    """A number of tokens, and where it is from."""

    tokens: int
    source: str


def declared_context(config: PretrainedConfig) -> ContextLength | None:
    """The length that a configuration names, the text model's first; None if it names none."""
    text: Any = config.get_text_config()
    parts = [(text, "text_config."), (config, "")] if text is not config else [(config, "")]
    for part, prefix in parts:
        for name in _NAMES:
            if (tokens := _sane(getattr(part, name, None))) is not None:
                return ContextLength(tokens, f"{prefix}{name} of config.json")
    return None


def context_of(
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    asked: int | None = None,
    where: str = "model",
) -> ContextLength:
    """The most tokens that a model reads: the least that its files name, or what is asked for.

    Args:
        config: the model's.
        tokenizer: the model's, whose ``model_max_length`` may be less, or all that is known.
        asked: ``model.context_length``.
        where: the model's folder, for messages.

    Raises:
        UserError: no file names a length and none is asked for, or more is asked for than the
            configuration allows.
    """
    declared = declared_context(config)
    if asked is not None:
        if declared is not None and asked > declared.tokens:
            raise UserError(
                f"the model reads {declared.tokens} tokens at most ({declared.source})",
                where=f"model.context_length={asked}",
                fix=f"set {declared.tokens} or less, or null",
            )
        return ContextLength(asked, "model.context_length")
    limit = _sane(tokenizer.model_max_length)
    known = [declared] if declared is not None else []
    if limit is not None:
        known.append(ContextLength(limit, "model_max_length of its tokenizer"))
    if not known:
        raise UserError(
            "neither its config.json nor its tokenizer says how many tokens it reads",
            where=where,
            fix="set model.context_length=N to what it was trained with",
        )
    return min(known, key=lambda one: one.tokens)


def _sane(tokens: object) -> int | None:
    """The number, if it is a length that a model may have; else None."""
    if isinstance(tokens, bool) or not isinstance(tokens, int | float):
        return None
    return int(tokens) if 0 < tokens < _MOST else None
