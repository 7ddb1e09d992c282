"""Texts in parts that a forward pass holds, so that a long one takes no more memory than others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

# Bytes of the float32 logits of a forward pass over a number of texts. A training holds about five
# times as much at once, so that one long text among short ones does not take a machine's memory.
LOGITS_BYTES = 512 * 2**20


def most_tokens(vocab_size: int) -> int:
    """The most tokens, padding included, whose float32 logits take LOGITS_BYTES."""
    return max(1, LOGITS_BYTES // (4 * vocab_size))


def parts_of(lengths: Iterable[int], tokens: int, texts: int | None = None) -> Iterator[slice]:
    """Consecutive texts in parts of at most so many tokens, or of one text that is longer.

    Args:
        lengths: the number of tokens of each text.
        tokens: the most tokens of a part when its texts are padded to its longest.
        texts: the most texts of a part; None for any number.

    Yields:
        the places of each part's texts; no part is empty.
    """
    start = longest = at = 0
    for at, length in enumerate(lengths, 1):
        longest = max(longest, length)
        n_texts = at - start
        if n_texts > 1 and (n_texts * longest > tokens or (texts is not None and n_texts > texts)):
            yield slice(start, at - 1)
            start, longest = at - 1, length
    if at > start:
        yield slice(start, at)
