"""What a retrieval method reads of a query."""

from __future__ import annotations

from enum import Enum

from bench.tasks.base import Query


class QueryPart(Enum):
    """With the answer, a method looks for the fact; without it, for what the model was asked."""

    prompt_and_target = "prompt_and_target"
    prompt = "prompt"


def query_text(query: Query, part: QueryPart) -> str:
    """The prompt, followed by separator and target if ``part`` says so."""
    return query.prompt if part is QueryPart.prompt else query.text
