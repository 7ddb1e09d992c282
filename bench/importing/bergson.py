"""bergson's score folder: ``scores.bin``, ``info.json`` and ``config.yaml``.

``scores.bin`` has one record a training row: for each query a score and a byte that says whether it
was written, at the offsets that ``info.json`` gives. Rows and queries carry no ids: they are joined
by their order. Whether a high score is a strong one stands in ``config.yaml`` alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import progress
from bench.core.errors import UserError
from bench.storage.bounds import open_regular, values_of
from bench.storage.documents import read_json, read_yaml
from bench.tasks.base import Task
from methods.base import Ranking
from methods.topk import TopK

SCORES, _INFO, _CONFIG = "scores.bin", "info.json", "config.yaml"
FILES = (SCORES, _INFO, _CONFIG)
_ORIENTATION = "higher_is_better"
_BLOCK_BYTES = 16 << 20  # read at a time; the scores of a block are all that is held
_TYPES = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}
_FLAGS = ("bool", "|b1", "?")


@dataclass(frozen=True)
class Layout:
    """The places of the numbers of one record.

    Attributes:
        num_items: how many records there are, one a passage.
        num_scores: how many queries each record has a score for.
        dtype: the type of a score.
        stride: bytes from one query's score to the next one's.
        itemsize: bytes of a record.
    """

    num_items: int
    num_scores: int
    dtype: np.dtype
    stride: int
    itemsize: int


def read_bergson(folder: Path, task: Task, top_k: int) -> tuple[list[Ranking], dict[str, Any]]:
    """The ``top_k`` best passages of each of the task's queries.

    Memory is ``queries × (top_k + block)``, never queries × passages.

    Returns:
        rankings in the order of the task's queries, and what the folder says of itself.

    Raises:
        UserError: a damaged or unfinished folder, or one of another number of queries or passages.
    """
    layout = read_layout(folder / _INFO)
    higher_is_better = read_orientation(folder / _CONFIG)
    _check_size(folder / SCORES, layout)
    for what, number, expected in (
        ("num_scores", layout.num_scores, len(task.queries)),
        ("num_items", layout.num_items, len(task.passages)),
    ):
        if number != expected:
            noun = "queries" if what == "num_scores" else "passages"
            raise UserError(
                f"{what} is {number:,}, but the task has {expected:,} {noun}",
                where=str(folder / _INFO),
                fix=f"score exactly the task's {noun}, in their order",
            )
    top = TopK(layout.num_scores, top_k)
    for start, scores in _blocks(folder / SCORES, layout, task):
        rows = np.arange(start, start + scores.shape[1], dtype=np.int64)
        top.push(scores if higher_is_better else -scores, rows)
    rankings = [
        Ranking(query.query_id, rows, scores)
        for query, rows, scores in zip(task.queries, top.rows, top.scores, strict=True)
    ]
    return rankings, {_ORIENTATION: higher_is_better, "score_type": layout.dtype.name}


def _blocks(path: Path, layout: Layout, task: Task) -> Iterator[tuple[int, np.ndarray]]:
    """First row and scores ``[queries, rows]`` of each block of records.

    Raises:
        UserError: a score that was not written, or is not finite.
    """
    at_once = max(1, _BLOCK_BYTES // layout.itemsize)
    starts = range(0, layout.num_items, at_once)
    size = layout.dtype.itemsize
    with open_regular(path) as stream:
        for start in progress.track(starts, f"read {SCORES}", unit="blocks"):
            raw = np.frombuffer(stream.read(at_once * layout.itemsize), dtype=np.uint8)
            raw = raw.reshape(-1, layout.itemsize)
            written = raw[:, size :: layout.stride][:, : layout.num_scores]
            if not written.all():
                _refuse(path, task, start, written == 0, "has no score", "finish bergson's run")
            # A stride is a power of two above the size, so that scores lie on multiples of it.
            scores = raw.view(layout.dtype)[:, :: layout.stride // size][:, : layout.num_scores]
            if not np.isfinite(scores).all():
                bad = ~np.isfinite(scores)
                _refuse(path, task, start, bad, "has a score that is not finite", "score it anew")
            yield start, scores.T


def _refuse(path: Path, task: Task, start: int, bad: np.ndarray, what: str, fix: str) -> None:
    row, query = (int(part[0]) for part in np.nonzero(bad))
    name = task.queries[query].query_id
    raise UserError(
        f"{what} for query {query} ({name!r})", where=f"{path}, row {start + row}", fix=fix
    )


def _check_size(path: Path, layout: Layout) -> None:
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise UserError(f"cannot read it ({error.strerror})", where=str(path)) from error
    expected = layout.num_items * layout.itemsize
    if size != expected:
        raise UserError(
            f"has {size:,} bytes where {_INFO} says {expected:,}",
            where=str(path),
            fix="copy the folder again",
        )


# ------------------------------------------------------------------ what the folder says of itself


def read_layout(path: Path) -> Layout:
    """The places of the numbers, as ``info.json`` gives them.

    Raises:
        UserError: no such file, no JSON, scores by token, a number that is no count, or another
            layout than one score and one flag a query at equal distances.
    """
    info = read_json(path)
    if not isinstance(info, dict):
        raise UserError("is no JSON object", where=str(path), fix="copy the folder again")
    if info.get("attribute_tokens"):
        raise UserError(
            "holds a score for each token, not for each passage",
            where=f"{path}, field 'attribute_tokens'",
            fix="score with attribute_tokens=false",
        )
    num_items, num_scores = _count(info, "num_items", path), _count(info, "num_scores", path)
    return _layout(info.get("dtype"), num_items, num_scores, path)


def _count(info: dict[str, Any], name: str, path: Path) -> int:
    value = info.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise UserError(f"expected a count, found {value!r:.60}", where=f"{path}, field {name!r}")


def _layout(dtype: Any, num_items: int, num_scores: int, path: Path) -> Layout:
    where = f"{path}, field 'dtype'"
    try:
        names, formats, offsets = (list(dtype[key]) for key in ("names", "formats", "offsets"))
        itemsize = dtype["itemsize"]
        kind, stride = formats[0], offsets[2] if num_scores > 1 else itemsize
        numbers = all(type(number) is int for number in (itemsize, stride, *offsets))
        numbers = numbers and len(formats) == 2 * num_scores  # before as many are written out
    except (TypeError, KeyError, IndexError) as error:
        raise UserError(
            "is no structured dtype", where=where, fix="copy the folder again"
        ) from error
    if kind not in _TYPES:
        raise UserError(
            f"scores of type {kind!r:.40} are not read", where=where, fix="score with float32"
        )
    score = np.dtype(_TYPES[kind])
    starts = [i * stride for i in range(num_scores)] if numbers else []
    regular = (
        numbers
        and stride > score.itemsize
        and stride % score.itemsize == 0 == itemsize % score.itemsize
        and num_scores * stride <= itemsize
        and names == [f"{part}_{i}" for i in range(num_scores) for part in ("score", "written")]
        and offsets == [at for start in starts for at in (start, start + score.itemsize)]
        and all(f == kind for f in formats[::2])
        and all(f in _FLAGS for f in formats[1::2])
    )
    if not regular:
        raise UserError(
            "is not a score and a flag for each query at equal distances",
            where=where,
            fix="score with another version of bergson, or write a TREC run",
        )
    return Layout(num_items, num_scores, score, stride, itemsize)


def read_orientation(path: Path) -> bool:
    """Whether a higher score is a stronger one, by ``config.yaml``, wherever in it that stands.

    Raises:
        UserError: no such file, no YAML, or no one answer in it.
    """
    answers = [
        value[_ORIENTATION]
        for value in values_of(read_yaml(path))
        if isinstance(value, dict) and _ORIENTATION in value
    ]
    if not all(isinstance(value, bool) for value in answers) or len(set(answers)) != 1:
        what = f"found {', '.join(map(str, answers))[:60]}" if answers else "it is not there"
        raise UserError(
            f"expected one of true and false, {what}",
            where=f"{path}, field {_ORIENTATION!r}",
            fix="say whether a higher score is a stronger one",
        )
    return answers[0]
