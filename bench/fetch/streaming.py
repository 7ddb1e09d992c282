"""The first documents of a data set of the Hugging Face Hub, as local shards in C4's public layout.

A task's passages must be the same in every run and addressed by row, which a stream is not: so it
is written down once, in whole files, and ``task=c4`` reads those. Takes the extra ``datasets``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from bench.core import progress
from bench.core.errors import UserError, at_least, first_line
from bench.storage import jsonlines
from bench.storage.keys import path_part
from bench.storage.locks import exclusive
from bench.storage.whole_files import whole_file

# About 90 MB gzipped, of C4: a shard is written whole, so one that breaks off is begun again.
SHARD_DOCUMENTS = 100_000
_FIELDS = ("text", "url", "timestamp")  # the fields of C4; only the text is required
_MANIFEST = "stream.json"


@dataclass(frozen=True)
class Stream:
    """The data set that is streamed, as ``datasets.load_dataset`` names it.

    Attributes:
        dataset: ``OWNER/NAME`` on the Hub, or a local folder of its files.
        subset: its configuration; None for the only one.
        revision: a commit, tag or branch; None for what the Hub has now.
    """

    dataset: str
    subset: str | None
    split: str
    revision: str | None


def write_shards(
    stream: Stream, n_documents: int, folder: Path, shard_documents: int = SHARD_DOCUMENTS
) -> list[Path]:
    """Write the first documents; those of shards that are there already are not written again.

    Asked again for more, the same documents have the same places: only a last shard that was not
    full is replaced.

    Args:
        n_documents: how many documents; all, if the data set has fewer.
        folder: the folder of this stream and no other; made if missing.
        shard_documents: how many documents a file holds.

    Returns:
        the paths of the shards, in order.

    Raises:
        UserError: the folder holds another stream, the data set cannot be read, a document without
            text, or a full disk.
    """
    at_least(1, "--documents", n_documents)
    source = {**asdict(stream), "shard_documents": shard_documents}
    with exclusive(folder):
        sizes = _sizes_there(folder, source)
        n_full = sum(1 for size in sizes if size == shard_documents)
        sizes = sizes[:n_full] if sum(sizes) < n_documents else sizes
        if (missing := n_documents - sum(sizes)) > 0:
            progress.say(f"stream {stream.dataset}: {sum(sizes):,} documents are here")
            documents = islice(_documents(stream, sum(sizes)), missing)
            for first in documents:
                shard = chain([first], islice(documents, shard_documents - 1))
                sizes.append(_write_shard(folder / _name(stream, len(sizes)), shard))
                with whole_file(folder / _MANIFEST) as out:
                    json.dump({"source": source, "documents": sizes}, out)
    if not sizes:
        raise UserError("holds no document", where=stream.dataset, fix="is the split right?")
    return [folder / _name(stream, number) for number in range(len(sizes))]


def _name(stream: Stream, number: int) -> str:
    """The name of a shard: C4's pattern, without the count of shards, which may still grow."""
    return f"{path_part(Path(stream.dataset).name)}-{path_part(stream.split)}.{number:05}.json.gz"


def _sizes_there(folder: Path, source: dict[str, Any]) -> list[int]:
    path = folder / _MANIFEST
    if not path.is_file():
        return []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        written, sizes = record["source"], [int(size) for size in record["documents"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot read it ({error})", where=str(path), fix="delete this folder"
        ) from error
    if written != source:
        raise UserError(
            f"the folder holds another stream ({written.get('dataset')} {written.get('subset')} "
            f"{written.get('split')} {written.get('revision')})",
            where=str(folder),
            fix="choose another --out",
        )
    return sizes


def _write_shard(path: Path, documents: Iterable[dict[str, Any]]) -> int:
    """Write documents as they come; returns how many."""
    n_documents = 0
    with (
        whole_file(path, "wb") as out,
        gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as packed,
    ):
        for document in documents:
            packed.write(jsonlines.dump(document).encode("utf-8"))
            n_documents += 1
    return n_documents


def _documents(stream: Stream, start: int) -> Iterator[dict[str, Any]]:
    """The documents from number ``start`` on, with C4's fields."""
    records = _opened(stream).skip(start)
    number = start
    try:
        for number, record in enumerate(
            progress.track(records, f"stream {stream.dataset}", unit="documents"), start=start
        ):
            if not isinstance(record.get("text"), str):
                raise UserError(
                    f"document {number:,} has no text",
                    where=stream.dataset,
                    fix="only data sets with a column `text` can be streamed",
                )
            # Timestamps may come as dates.
            yield {name: str(record[name]) for name in _FIELDS if record.get(name) is not None}
    except UserError:
        raise
    except Exception as error:  # the library raises errors of all kinds
        raise UserError(
            f"broke off after document {number:,} ({first_line(error)})",
            where=stream.dataset,
            fix="run the command again: whole shards are kept",
        ) from error


def _opened(stream: Stream) -> Any:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(
            "streaming needs the package datasets",
            where="--stream",
            fix="pip install 'tdabench[datasets]'",
        ) from error
    try:
        return load_dataset(
            stream.dataset,
            stream.subset,
            split=stream.split,
            revision=stream.revision,
            streaming=True,
        )
    except Exception as error:  # the library raises errors of all kinds
        raise UserError(
            f"cannot be opened ({first_line(error)})",
            where=stream.dataset,
            fix="check --stream, --subset and --split; code of data sets is never run",
        ) from error
