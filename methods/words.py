"""How text becomes words, for the methods that match words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from enum import Enum

import regex

# Raised whenever a text would give other words, or a word index other files; part of their keys.
WORDS_VERSION = 3


class Tokenizer(Enum):
    """How text becomes words.

    ``words``: lower-case runs of letters, marks, digits and underscores of any script.
    ``whitespace``: pieces between white space, as they are.
    """

    words = "words"
    whitespace = "whitespace"


_ASCII_WORD = re.compile(r"\w+")
# The module re would break words at the vowel signs of many scripts; \w of regex alone lacks
# superscript digits.
_WORD = regex.compile(r"[\w\p{M}\p{N}]+")


def _words(text: str) -> list[str]:
    lower = text.lower()
    if lower.isascii():  # most English text is, and takes half the time
        return _ASCII_WORD.findall(lower)
    # Normalised, so that an accent typed apart from its letter makes no other word.
    return _WORD.findall(unicodedata.normalize("NFC", lower))


TOKENIZERS: dict[Tokenizer, Callable[[str], list[str]]] = {
    Tokenizer.words: _words,
    Tokenizer.whitespace: str.split,
}
