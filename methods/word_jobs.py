"""The words of some passages, counted as one job, and the merge of such counts.

A word's number is its place among all words by their first occurrence. A job numbers its own words
in that way; the merge gives each word of the first job the same number, and the next ones to the
words that later jobs bring. So the numbers do not depend on how the corpus was cut.
"""

from __future__ import annotations

import json
import time
from array import array
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from bench.engines.base import Job
from bench.storage.parted import rows_part
from bench.storage.sealed_arrays import read_arrays, write_arrays
from bench.tasks.passages import PassageStore

# Text of one job: most of a million words, which take some tens of megabytes to sort.
BYTES_A_JOB = 4 << 20
_KIND = "words of some passages"

Tokenize = Callable[[str], list[str]]


@dataclass(frozen=True)
class CountedWords:
    """The words of consecutive passages.

    Attributes:
        words: the distinct words, in the order of their numbers here.
        postings: word, row and how often, int32 ``[3, postings]``, sorted by word, then row.
        lengths: words of each passage, int32 ``[passages]``.
        seconds: what counting took.
    """

    words: list[str]
    postings: np.ndarray
    lengths: np.ndarray
    seconds: float


@dataclass(frozen=True)
class WordCounter:
    """Counts the words of a corpus, here or in another process, to which it can be sent."""

    passages: PassageStore
    tokenize: Tokenize

    def jobs(self, folder: Path) -> list[Job]:
        """A job for each part of the corpus, in the order of rows."""
        jobs = []
        for rows in self.passages.ranges(BYTES_A_JOB):
            path = rows_part(folder, rows)
            jobs.append(Job(WordCounter.write, (self, path, rows), path))
        return jobs

    def write(self, path: Path, rows: range) -> None:
        """Count the words of some passages, and write the counts."""
        began = time.perf_counter()
        # A new word gets the next number. (A factory that knew the dictionary would be a circle,
        # which stays in memory until Python looks for such.)
        numbers = defaultdict[str, int](count().__next__)
        numbered, lengths = array("i"), np.zeros(len(rows), dtype=np.int32)
        for place, passage in enumerate(self.passages.slice(rows.start, rows.stop)):
            words = self.tokenize(passage.text)
            numbered.extend(map(numbers.__getitem__, words))
            lengths[place] = len(words)
        self.passages.check_unchanged()  # this may be another process than the one that opened them
        text = np.frombuffer(json.dumps(list(numbers)).encode(), dtype=np.uint8)
        arrays = {
            "words": text,
            "postings": _postings(numbered, lengths, rows.start),
            "lengths": lengths,
        }
        write_arrays(path, _KIND, arrays, {"seconds": time.perf_counter() - began})


def read_words(path: Path) -> CountedWords:
    """Read what a job counted.

    Raises:
        DamagedError: it is not what was written.
    """
    arrays, facts = read_arrays(path, _KIND)
    words = json.loads(arrays["words"].tobytes())
    return CountedWords(words, arrays["postings"], arrays["lengths"], facts["seconds"])


def _postings(numbered: array[int], lengths: np.ndarray, first: int) -> np.ndarray:
    """Count the words of the passages from row ``first`` on: int32 ``[3, postings]``."""
    pairs = np.array(numbered, dtype=np.int64) * len(lengths)
    pairs += np.repeat(np.arange(len(lengths)), lengths)
    pairs.sort()
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    words, rows = np.divmod(pairs[starts], len(lengths))
    frequencies = np.diff(starts, append=len(pairs))
    return np.stack([words, rows + first, frequencies]).astype(np.int32)


class WordMerge:
    """Numbers and postings of all words, from the counts of one part after the other.

    Attributes:
        numbers: the number of each word so far.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self._held = np.zeros(0, dtype=np.int64)  # passages that hold each word
        self._free = np.zeros(0, dtype=np.int64)  # where each word's next posting goes

    def count(self, part: CountedWords) -> None:
        """Number the words of the next part, and count the passages that hold each."""
        own = np.array([self.numbers.setdefault(w, len(self.numbers)) for w in part.words], int)
        grown = np.zeros(len(self.numbers), dtype=np.int64)
        grown[: len(self._held)] = self._held
        grown[own] += np.bincount(part.postings[0], minlength=len(own))
        self._held = grown

    def starts(self) -> np.ndarray:
        """Where each word's postings start, int64 ``[words + 1]``, once all parts are counted."""
        starts = np.concatenate([[0], np.cumsum(self._held)])
        self._free = starts[:-1].copy()
        return starts

    def place(self, part: CountedWords) -> np.ndarray:
        """The places of a part's postings among all; to be asked part by part, in order."""
        words = part.postings[0]
        own = np.array([self.numbers[word] for word in part.words], dtype=np.int64)
        counts = np.bincount(words, minlength=len(own))
        within = np.arange(len(words)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = self._free[own][words] + within
        self._free[own] += counts
        return places
