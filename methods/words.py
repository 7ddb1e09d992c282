"""How text becomes words, for the methods that match words."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum


class Tokenizer(Enum):
    """How text becomes words."""

    words = "words"  # lower-case runs of letters, digits and underscores of any script
    whitespace = "whitespace"


_WORD = re.compile(r"\w+")
TOKENIZERS: dict[Tokenizer, Callable[[str], list[str]]] = {
    Tokenizer.words: lambda text: _WORD.findall(text.lower()),
    Tokenizer.whitespace: str.split,
}
