"""An inverted index on disk: which passages hold a word, and how often.

Written once as a stream, then memory-mapped by whoever asks again. Layout of an index folder, with
the postings (a passage that holds a word) sorted by word, then by row:

    words.json         the words, in the order of their numbers
    starts.npy         where each word's postings start, int64 ``[words + 1]``
    rows.npy           the passage of each posting, int32 ``[postings]``
    frequencies.npy    how often the word is in it, int32 ``[postings]``
    lengths.npy        words of each passage, int32 ``[passages]``

The folder is sealed (``bench.storage.sealed``). Its name says what was indexed: it is a key of
everything that moves a number, with the hash of the texts that were read.
"""

from __future__ import annotations

import json
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core import progress
from bench.storage.arrays import map_array, new_array
from bench.storage.sealed import open_or_make
from bench.tasks.passages import PassageStore

# Words sorted together while writing: a hundred megabytes, however large the corpus.
_WORDS_AT_ONCE = 1 << 21
_WORDS = "words.json"
_ARRAYS = {"starts": np.int64, "rows": np.int32, "frequencies": np.int32, "lengths": np.int32}


class NoWordsError(Exception):
    """The corpus has no word at all."""


@dataclass(frozen=True)
class WordIndex:
    """The postings of a corpus; the arrays are memory-mapped and read-only.

    Attributes:
        seconds: what indexing took, in the run that did it.
    """

    numbers: dict[str, int]
    starts: np.ndarray
    rows: np.ndarray
    frequencies: np.ndarray
    lengths: np.ndarray
    seconds: float

    def postings(self, word: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows, ascending, and frequencies of the passages that hold a word: int32 ``[held]``."""
        held = slice(self.starts[word], self.starts[word + 1])
        return self.rows[held], self.frequencies[held]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, which is what the folder takes but for the words themselves."""
        return sum(getattr(self, name).nbytes for name in _ARRAYS)


def open_or_build(
    folder: Path, passages: PassageStore, tokenize: Callable[[str], list[str]]
) -> WordIndex:
    """The index in ``folder``, which is written first if there is none.

    A run that dies leaves nothing behind: the folder appears when it is finished.

    Args:
        folder: named by a key of the corpus and of ``tokenize``.

    Raises:
        NoWordsError: no passage holds a word.
        UserError: the index is there, but its files are not what was written, or are of other
            passages.
    """
    made_from = {"passages": len(passages), "sha256": passages.sha256}
    facts = open_or_make(
        folder, "index of words", made_from, lambda partial: _write(partial, passages, tokenize)
    )
    words = json.loads((folder / _WORDS).read_text(encoding="utf-8"))
    arrays = {name: np.asarray(map_array(folder / f"{name}.npy")) for name in _ARRAYS}
    numbers = {word: number for number, word in enumerate(words)}
    return WordIndex(numbers, **arrays, seconds=facts["seconds"])


def _write(
    folder: Path, passages: PassageStore, tokenize: Callable[[str], list[str]]
) -> dict[str, float]:
    began = time.perf_counter()
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a new word gets the next number
    lengths = np.zeros(len(passages), dtype=np.int32)
    runs: list[Path] = []
    for run in _sorted_runs(passages, tokenize, numbers, lengths):
        runs.append(folder / f"run-{len(runs)}.npy")
        np.save(runs[-1], run, allow_pickle=False)
    if not numbers:
        raise NoWordsError
    np.save(folder / "lengths.npy", lengths, allow_pickle=False)
    _merge(runs, len(numbers), folder)
    (folder / _WORDS).write_text(json.dumps(list(numbers)), encoding="utf-8")
    passages.check_unchanged()
    return {"seconds": round(time.perf_counter() - began, 3)}


def _sorted_runs(
    passages: PassageStore,
    tokenize: Callable[[str], list[str]],
    numbers: defaultdict[str, int],
    lengths: np.ndarray,
) -> Iterator[np.ndarray]:
    """Postings of some passages after the other; ``numbers`` and ``lengths`` fill on the way.

    Yields:
        word, row, frequency: int32 ``[3, postings]``, sorted by word, then row.
    """
    numbered, first = array("i"), 0
    for passage in progress.track(passages, "index words", len(passages), unit="passages"):
        words = tokenize(passage.text)
        numbered.extend(map(numbers.__getitem__, words))
        lengths[passage.row] = len(words)
        if len(numbered) >= _WORDS_AT_ONCE:
            yield _postings(numbered, lengths[first : passage.row + 1], first)
            numbered, first = array("i"), passage.row + 1
    if numbered:
        yield _postings(numbered, lengths[first:], first)


def _postings(numbered: array[int], lengths: np.ndarray, first: int) -> np.ndarray:
    """Count the words of the passages from row ``first`` on: int32 ``[3, postings]``."""
    pairs = np.array(numbered, dtype=np.int64) * len(lengths)
    pairs += np.repeat(np.arange(len(lengths)), lengths)
    pairs.sort()
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    words, rows = np.divmod(pairs[starts], len(lengths))
    frequencies = np.diff(starts, append=len(pairs))
    return np.stack([words, rows + first, frequencies]).astype(np.int32)


def _merge(runs: list[Path], n_words: int, folder: Path) -> None:
    """Lay the runs out word by word; they are of ascending rows, and are removed on the way."""
    starts = np.zeros(n_words + 1, dtype=np.int64)
    for path in runs:
        words = map_array(path)[0]
        starts[1:] += np.bincount(words, minlength=n_words)
    starts.cumsum(out=starts)
    np.save(folder / "starts.npy", starts, allow_pickle=False)
    rows, frequencies = (
        new_array(folder / f"{name}.npy", np.int32, (int(starts[-1]),))
        for name in ("rows", "frequencies")
    )
    free = starts[:-1]  # where each word's next posting goes
    for path in progress.track(runs, "sort words", unit=f"times {_WORDS_AT_ONCE} words"):
        words, held_by, how_often = np.load(path, allow_pickle=False)
        counts = np.bincount(words, minlength=n_words)
        within = np.arange(len(words)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = free[words] + within
        rows[places], frequencies[places] = held_by, how_often
        free += counts
        path.unlink()
    rows.flush()
    frequencies.flush()
