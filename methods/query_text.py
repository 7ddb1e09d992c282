"""The text of a query that a retrieval method searches with."""

from __future__ import annotations

from enum import Enum

from bench.tasks.base import Query


class QueryPart(Enum):
    """The part of a query that is read: the whole fact, or only what the model was asked."""

    prompt_and_target = "prompt_and_target"
    prompt = "prompt"


def query_text(query: Query, part: QueryPart) -> str:
    """The prompt, followed by separator and target if ``part`` says so."""
    return query.prompt if part is QueryPart.prompt else query.text
