"""An inverted index on disk: which passages hold a word, and how often.

Made once, part by part (``methods.word_jobs``), then memory-mapped by whoever asks again. Layout of
an index folder, with the postings (a passage that holds a word) sorted by word, then by row:

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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.core import progress
from bench.engines import Engine
from bench.engines.outcomes import outcomes, unless_single
from bench.storage.arrays import map_array, new_array
from bench.storage.mirror import Mirror
from bench.storage.parted import open_or_merge
from bench.storage.sharing import Sharing, inventory
from bench.tasks.passages import PassageStore
from methods.word_jobs import Tokenize, WordCounter, WordMerge, read_words

_WORDS = "words.json"
_ARRAYS = {"starts": np.int64, "rows": np.int32, "frequencies": np.int32, "lengths": np.int32}


class NoWordsError(Exception):
    """The corpus has no word at all."""


@dataclass(frozen=True)
class WordIndex:
    """The postings of a corpus; the arrays are memory-mapped and read-only.

    Attributes:
        folder: where they are.
        numbers: the number of each word.
        seconds: what indexing took, all processes together.
    """

    folder: Path
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
    folder: Path, passages: PassageStore, tokenize: Tokenize, engine: Engine, mirror: Mirror
) -> WordIndex:
    """The index in ``folder``, which is made first if there is none.

    The folder appears when it is finished.

    Args:
        folder: named by a key of the corpus and of ``tokenize``.
        tokenize: can be sent to another process.
        engine: runs a job for each part of the corpus.
        mirror: a copy of the cache in a store, which the index is shared through.

    Raises:
        NoWordsError: no passage holds a word.
        UserError: the index is there, but its files are not what was written, or are of other
            passages.
    """
    counter = WordCounter(passages, tokenize)
    made_from = {"passages": len(passages), "sha256": passages.sha256}
    sharing = Sharing(mirror, inventory(folder))
    make = partial(_write, counter, engine, sharing)
    facts = open_or_merge(folder, "index of words", made_from, make, mirror)
    return map_index(folder, facts["seconds"])


def map_index(folder: Path, seconds: float) -> WordIndex:
    """The index in a folder that somebody has checked.

    Args:
        seconds: what indexing took.
    """
    words = json.loads((folder / _WORDS).read_text(encoding="utf-8"))
    arrays = {name: np.asarray(map_array(folder / f"{name}.npy")) for name in _ARRAYS}
    numbers = {word: number for number, word in enumerate(words)}
    return WordIndex(folder, numbers, **arrays, seconds=seconds)


def _write(
    counter: WordCounter, engine: Engine, sharing: Sharing, folder: Path, parts: Path
) -> dict[str, float]:
    jobs, merge, lengths, seconds = counter.jobs(parts), WordMerge(), array("i"), 0.0
    runs, unit = unless_single(engine, len(jobs)), "parts of the corpus"
    for part in outcomes(jobs, read_words, runs, "index words", unit, sharing):
        merge.count(part)
        lengths.frombytes(part.lengths.tobytes())
        seconds += part.seconds
    if not merge.numbers:
        for job in jobs:
            job.target.unlink()
        sharing.mirror.drop(parts)
        raise NoWordsError
    began = time.perf_counter()
    starts = merge.starts()
    np.save(folder / "lengths.npy", np.array(lengths, dtype=np.int32), allow_pickle=False)
    np.save(folder / "starts.npy", starts, allow_pickle=False)
    rows, frequencies = (
        new_array(folder / f"{name}.npy", np.int32, (int(starts[-1]),))
        for name in ("rows", "frequencies")
    )
    for job in progress.track(jobs, "sort words", unit="parts of the corpus"):
        part = read_words(job.target)
        places = merge.place(part)
        rows[places], frequencies[places] = part.postings[1:]
    rows.flush()
    frequencies.flush()
    (folder / _WORDS).write_text(json.dumps(list(merge.numbers)), encoding="utf-8")
    counter.passages.check_unchanged()
    return {"seconds": round(seconds + time.perf_counter() - began, 3)}
