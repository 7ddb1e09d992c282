"""How text becomes words, for the methods that match words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from enum import Enum

import regex

# Raised whenever the same text would give other words, or a word index other files; part of keys.
WORDS_VERSION = 3


class Tokenizer(Enum):
    """How text becomes words."""

    words = "words"  # lower-case runs of letters, marks, digits and underscores of any script
    whitespace = "whitespace"


_ASCII_WORD = re.compile(r"\w+")
# re's own \w breaks words at the vowel signs of many scripts; regex's knows no superscript digits.
_WORD = regex.compile(r"[\w\p{M}\p{N}]+")


def _words(text: str) -> list[str]:
    lower = text.lower()
    if lower.isascii():  # most English text, in half the time
        return _ASCII_WORD.findall(lower)
    # Composed, so that an accent typed apart from its letter makes no other word.
    return _WORD.findall(unicodedata.normalize("NFC", lower))


TOKENIZERS: dict[Tokenizer, Callable[[str], list[str]]] = {
    Tokenizer.words: _words,
    Tokenizer.whitespace: str.split,
}
