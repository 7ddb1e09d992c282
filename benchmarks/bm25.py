"""BM25 over a million sentences beside bm25s, and beside rank_bm25 on fewer of them.

    OMP_NUM_THREADS=1 python benchmarks/bm25.py --sentences trex_sentences.jsonl \
        --facts trex_facts.jsonl

The files are in the release's format. The corpus repeats their sentences until there are
``--passages`` of them, with half of the words of each, drawn by chance, exchanged for words from
anywhere in the file: common words stay as common, sentences as long, and hardly two are alike.
Queries are the facts' first prompts with their answers.

Each step runs in a process of its own, whose memory beyond its start is watched: what is anonymous
(its own), and what is resident in all, maps of files included. Indexing includes reading and
splitting the text; where other work shares the machine, its processor seconds say more than those
on the clock. Searching opens the index that another process left, as a second run of ``tdabench``
does; the first ``--warm`` queries are not counted. Then ours and each other one answer the same
queries in turns, and the ratio is the median of those of single queries:

    bm25s        its numpy engine, which scores every passage; its own index
    rank_bm25    method.engine=rank_bm25, on the first ``--small`` passages

Their lists, cut by the project's rule for ties, have to be ours, scores included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import multiprocessing
import shlex
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from bench.core.progress import set_quiet
from bench.engines.serial import Serial, SerialConfig
from bench.storage.mirror import Mirror
from bench.tasks.passages import Passage, PassageStore, write_passages
from methods.bm25_scoring import DECIMALS, InvertedIndexScorer, Variant
from methods.rank_bm25 import RankBm25
from methods.topk import TopK
from methods.word_index import open_or_build
from methods.words import TOKENIZERS, Tokenizer

K1, B, TOP_K = 1.5, 0.75, 100
tokenize = TOKENIZERS[Tokenizer.words]
Search = Callable[[list[str], int], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    """Make, measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        large, small = Path(name, "large"), Path(name, "small")
        for corpus, n in ((large, options.passages), (small, options.small)):
            corpus.mkdir()
            write_passages(_passages(options.sentences, n), corpus)
        print(f"{options.passages:,} passages, {options.queries} queries, top {TOP_K}", flush=True)
        _report("index", _apart(_index, large))
        _report("search", _apart(_search, large, options))
        if not options.no_bm25s:
            _report("bm25s", _apart(_beside, large, options, _bm25s))
        _apart(_index, small)
        print(f"{options.small:,} passages")
        _report("rank_bm25", _apart(_beside, small, options, _rank_bm25))
    print("again:", shlex.join(["python", *sys.argv]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--sentences", type=Path, required=True)
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=20_000, help="passages for rank_bm25")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--warm", type=int, default=20, help="queries before those that count")
    parser.add_argument("--no-bm25s", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--folder", help="where the corpora are written; the system's if not given")
    return parser.parse_args()


def _passages(path: Path, n: int) -> Iterator[Passage]:
    with open(path, encoding="utf-8") as stream:
        texts = [json.loads(line)["text"].split() for line in stream]
    words = [word for text in texts for word in text]
    draw = np.random.default_rng(0)
    for row, text in enumerate(itertools.islice(itertools.cycle(texts), n)):
        kept = (draw.random(len(text)) < 0.5).tolist()
        others = draw.integers(len(words), size=len(text)).tolist()
        mixed = zip(text, kept, others, strict=True)
        yield Passage(row, f"p{row}", " ".join(w if keep else words[o] for w, keep, o in mixed))


def _queries(options: argparse.Namespace) -> tuple[list[list[str]], list[list[str]]]:
    """Words of the queries to warm up with, and of those that count."""
    with open(options.facts, encoding="utf-8") as stream:
        lines = itertools.islice(stream, options.warm + options.queries)
        facts = [json.loads(line) for line in lines]
    words = [tokenize(f"{fact['prompt0']} {fact['entity1']}") for fact in facts]
    return words[: options.warm], words[options.warm :]


# ------------------------------------------------------------------ each in its own process


def _index(corpus: Path) -> dict[str, object]:
    index = open_or_build(
        corpus / "words", PassageStore(corpus), tokenize, Serial(SerialConfig()), Mirror(corpus)
    )
    return {"seconds": index.seconds, "mib on disk": index.nbytes / 2**20}


def _ours(corpus: Path) -> Search:
    index = open_or_build(
        corpus / "words", PassageStore(corpus), tokenize, Serial(SerialConfig()), Mirror(corpus)
    )
    return InvertedIndexScorer(index, Variant.atire_robertson, K1, B).search


def _search(corpus: Path, options: argparse.Namespace) -> dict[str, object]:
    began = time.perf_counter()
    search = _ours(corpus)
    opened = time.perf_counter() - began
    warm, queries = _queries(options)
    for words in warm:
        search(words, TOP_K)
    return {"seconds to open": opened, "ms": [_timed(search, words)[0] for words in queries]}


def _beside(
    corpus: Path, options: argparse.Namespace, make_peer: Callable[[PassageStore], Search]
) -> dict[str, object]:
    ours = _ours(corpus)
    began = time.perf_counter()
    peer = make_peer(PassageStore(corpus))
    seconds = time.perf_counter() - began
    warm, queries = _queries(options)
    for words in warm:
        ours(words, TOP_K)
    took, ratios, unlike = [], [], 0
    for words in queries:
        ms, found = _timed(ours, words)
        peer_ms, expected = _timed(peer, words)
        took.append(peer_ms)
        ratios.append(peer_ms / ms)
        same = np.array_equal(found[0], expected[0]) and np.allclose(found[1], expected[1], 0, 1e-5)
        unlike += not same
    return {"seconds": seconds, "ms": took, "times ours": ratios, "lists unlike ours": unlike}


def _timed(search: Search, words: list[str]) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    began = time.perf_counter()
    found = search(words, TOP_K)
    return 1000 * (time.perf_counter() - began), found


def _rank_bm25(passages: PassageStore) -> Search:
    return RankBm25((tokenize(passage.text) for passage in passages), K1, B).search


def _bm25s(passages: PassageStore) -> Search:
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    numbers: dict[str, int] = {}
    ids = [
        array("i", [numbers.setdefault(word, len(numbers)) for word in tokenize(passage.text)])
        for passage in passages
    ]
    index = bm25s.BM25(
        k1=K1, b=B, method="atire", idf_method="robertson", dtype="float64", backend="numpy"
    )
    index.index((ids, numbers), create_empty_token=False, show_progress=False)
    rows = np.arange(len(ids))

    def search(words: list[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = index.get_scores([numbers[word] for word in words if word in numbers])
        best = TopK(1, k)
        best.push(scores.round(DECIMALS)[np.newaxis], rows)
        return best.rows[0], best.scores[0]

    return search


# ------------------------------------------------------------------ processes, memory, printing


def _apart(work: Callable[..., dict[str, object]], *arguments: object) -> dict[str, object]:
    """What ``work`` finds in a fresh process, and the memory that it took at most."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_watched, work, *arguments).result()


def _watched(work: Callable[..., dict[str, object]], *arguments: object) -> dict[str, object]:
    set_quiet(True)
    before, before_cpu, done = _memory(), time.process_time(), threading.Event()
    peak = before

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = np.maximum(peak, _memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = work(*arguments)
    finally:
        done.set()
        watcher.join()
    anonymous, resident = (peak - before).tolist()
    cpu = time.process_time() - before_cpu
    return {**found, "cpu seconds": cpu, "anonymous mib": anonymous, "resident mib": resident}


def _memory() -> np.ndarray:
    """Anonymous and all resident memory of this process in MiB, as Linux counts it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return np.array([int(status[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS")])


def _report(name: str, found: dict[str, object]) -> None:
    print(f"{name:<10}", "; ".join(f"{what} {_text(value)}" for what, value in found.items()))


def _text(value: object) -> str:
    if isinstance(value, list):
        middle, tenth, last = np.percentile(value, [50, 10, 90])
        return f"{middle:.2f} (tenth to ninetieth percentile {tenth:.2f} to {last:.2f})"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
