"""Kernels that a model's files name: transformers may fetch code of that name, and run it.

A ``config.json`` with ``"attn_implementation": "someone/kernel"`` makes transformers load a kernel
from the model hub where the package kernels is installed, and ``trust_remote_code=False`` forbids
that for some publishers only. ``save_pretrained`` writes no such field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bench.core.errors import UserError

_FIELD = re.compile(r"^_?(attn|experts)_implementation(_internal)?$")
_WITHIN = (None, "eager", "sdpa", "batched_mm", "grouped_mm")  # transformers' own code and torch's


def refuse_kernels(config: Any, where: str) -> None:
    """Refuse a configuration that names any implementation but those within transformers.

    Args:
        where: the file that it is from.

    Raises:
        UserError: names the field and its value.
    """
    for field, value in _implementations(config):
        if value not in _WITHIN:
            raise UserError(
                f"{field} is {value!r:.80}, and transformers may fetch and run code of that name",
                where=where,
                fix=f"delete {field}, so that transformers uses its own",
            )


def _implementations(config: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """The values of every field that chooses an implementation, at any depth."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            chosen = field or (name if _FIELD.match(str(name)) else "")
            yield from _implementations(value, chosen)
    elif isinstance(config, list):
        for value in config:
            yield from _implementations(value, field)
    elif field:
        yield field, config
