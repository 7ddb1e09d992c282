"""Tasks made from lists, for tests of methods and of what judges them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.passages import Passage, PassageStore, write_passages
from bench.storage import content_key
from bench.tasks.base import Query, Task


def make_task(
    folder: Path,
    texts: Sequence[str],
    queries: Sequence[Query] = (),
    *,
    name: str = "toy",
    annotated: bool = True,
) -> Task:
    """A task whose passages are ``texts``, in this order, with ids ``p0``, ``p1``, ...

    Args:
        folder: where the corpus is written; made if missing. One task a folder.
        queries: as ``Query(query_id="q0", prompt="Al Grey plays the", target="trombone",
            gold_rows=(3,))``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_passages((Passage(row, f"p{row}", text) for row, text in enumerate(texts)), folder)
    return Task(
        name=name,
        version=1,
        sha256=content_key([list(texts), [asdict(query) for query in queries]], length=64),
        corpus_sha256=content_key(list(texts), length=64),
        queries=list(queries),
        passages=PassageStore(folder),
        annotated=annotated,
        counts={
            "passages": len(texts),
            "queries": len(queries),
            "characters": sum(map(len, texts)),
        },
    )
