"""Whether what a cell says of itself agrees: its result, its settings, its folder and its key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.results.intervals import Complaint
from bench.results.per_query import SUPPORT
from bench.results.schema import CONFIG, PER_QUERY, RESULT, Result
from bench.results.settings import Config, MeasuredBy
from bench.storage.keys import content_key, path_part
from metrics import measures
from metrics.measures import MetricKind

_ABSENT = "absent"
_PARTS = ("task", "model", "method")
Table = Mapping[str, np.ndarray]


def disagreements(folder: Path, result: Result, config: Config) -> Iterator[Complaint]:
    """What result, settings, folder and key say of one cell and do not agree on."""
    yield from _names(folder, result, config)
    method = result.method.get("config")
    for name, own, other in _differences(config.get("method"), method, "method"):
        yield f"{RESULT}, {name}", f"stored {_short(own)}, {CONFIG} has {_short(other)}"
    for what, stored, expected in (
        ("method.key", result.method.get("key"), content_key(method)),
        ("seed", result.seed, config.get("seed")),
        ("imported", result.imported, "import" in config),
        ("index.bytes_per_passage", *_index(result)),
    ):
        if stored != expected:
            yield f"{RESULT}, {what}", f"stored {_short(stored)}, expected {_short(expected)}"
    if not result.imported and config.get("top_k") != result.top_k:
        yield f"{RESULT}, top_k", f"stored {result.top_k}, {CONFIG} has {config.get('top_k')!r:.60}"
    if result.identity:
        yield from _key(folder, result, config)


def _names(folder: Path, result: Result, config: Config) -> Iterator[Complaint]:
    """A cell has one name of its task, model and method, in three places."""
    for level, part in zip((2, 1, 0), _PARTS, strict=True):
        name = getattr(result, part).get("name")
        place = folder.parents[level].name
        if path_part(str(name)) != place:
            yield f"{RESULT}, {part}.name", f"stored {_short(name)}, its folder is called {place}"
        settings = config.get(part)
        if settings is None and part == "model" and result.imported:
            continue  # no model was asked for
        own = settings.get("name") if isinstance(settings, dict) else None
        if own != name:
            yield f"{RESULT}, {part}.name", f"stored {_short(name)}, {CONFIG} has {_short(own)}"


def _index(result: Result) -> tuple[Any, Any]:
    """The size of the index by passage, as it is stored and as it follows."""
    size, n_passages = result.index.get("bytes"), result.task.get("n_passages")
    expected = None if size is None or not n_passages else size / n_passages
    return result.index.get("bytes_per_passage"), expected


def _key(folder: Path, result: Result, config: Config) -> Iterator[Complaint]:
    """The folder is called by what the numbers depend on, and this agrees with the rest."""
    parts = dict(result.identity)
    version = parts.pop("version", None)
    if content_key([version, parts]) != folder.name:
        yield "key", f"the folder is not called by what {RESULT} says that its key is made of"
    task = [result.task.get(name) for name in ("name", "version", "sha256")]
    metric, ranking = config.get("metric"), parts.get("ranking")
    own = ranking.get("settings") if isinstance(ranking, dict) else None
    compared = [
        ("seed", parts.get("seed"), result.seed),
        ("task", parts.get("task"), None if parts.get("task") is None else task),
    ]
    if isinstance(own, dict) and isinstance(ranking, dict):
        compared += [("method", ranking.get("name"), result.method.get("name"))]
        compared += _shared("method", own, config.get("method"))
    compared += _shared("metric", parts.get("metric"), metric)
    for what, stored, expected in compared:
        if stored != expected:
            yield f"key, {what}", f"made of {_short(stored)}, the cell has {_short(expected)}"


def _shared(name: str, own: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Plain values that two tables have under one name, at any depth."""
    if not isinstance(own, dict) or not isinstance(other, dict):
        return
    for key in own.keys() & other.keys() - {"judge"}:
        if isinstance(own[key], dict):
            yield from _shared(f"{name}.{key}", own[key], other[key])
        elif isinstance(own[key], list) and isinstance(other[key], dict):
            # A method within the method: its name, its class where it is the user's, its settings.
            inner, _, settings = own[key] if len(own[key]) == 3 else (None, None, None)
            yield f"{name}.{key}.name", inner, other[key].get("name")
            yield from _shared(f"{name}.{key}", settings, other[key])
        elif not (own[key] is None and isinstance(other[key], dict)):
            yield f"{name}.{key}", own[key], other[key]


def _differences(config: Any, stored: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """The names under which two tables differ, with the value of the second and of the first."""
    if isinstance(config, dict) and isinstance(stored, dict):
        for key in sorted({*config, *stored}):
            yield from _differences(
                config.get(key, _ABSENT), stored.get(key, _ABSENT), f"{name}.{key}"
            )
    elif config != stored or isinstance(config, bool) != isinstance(stored, bool):
        yield name, stored, config


def _short(value: Any) -> str:
    return f"{value!r:.60}"


# ------------------------------------------------------------------ completeness


def not_asked_for(table: Table, asked: MeasuredBy, is_judged: bool) -> Iterator[Complaint]:
    """Columns that the settings do not ask for, and metrics that they ask for and nobody has.

    Args:
        is_judged: whether anything says which of the passages are correct.
    """
    wanted = {
        MetricKind.influence: (asked.steps, "metric.tail_patch.enabled"),
        MetricKind.retraining: (asked.retrains, "metric.retraining"),
    }
    for name in table:
        kind = measures.of(name).kind
        if kind is MetricKind.attribution and name not in asked.attribution:
            yield name, f"{PER_QUERY} has it, metric.attribution of {CONFIG} does not name it"
        elif kind in wanted and not wanted[kind][0]:
            yield (
                name,
                f"{PER_QUERY} has it, {wanted[kind][1]} of {CONFIG} says it was not measured",
            )
    if is_judged and not any(name in table for name in asked.attribution):
        yield PER_QUERY, f"has none of the metrics that metric.attribution of {CONFIG} names"
    if asked.steps and measures.TAIL_PATCH not in table:
        yield measures.TAIL_PATCH, f"{PER_QUERY} lacks it, {CONFIG} says that it was measured"


def left_out(result: Result, table: Table, with_slices: bool) -> Iterator[Complaint]:
    """Means, slices and groups that follow from the table of queries and are not in the result.

    Args:
        with_slices: whether the result has them; that of a kept cell is without.
    """
    scored = [
        name
        for name in measures.in_order(table)
        if measures.of(name).is_averaged and table[name].dtype.kind == "f"
    ]
    scored = [name for name in scored if not np.isnan(table[name]).all()]
    if lacking := [name for name in scored if name not in result.metrics]:
        yield "metrics", f"{RESULT} lacks {some(lacking)}, which {PER_QUERY} has"
    for name, groups in labelled_groups(table).items() if with_slices else ():
        stored = result.slices.get(name)
        if stored is None:
            yield f"slices, {name}", f"{RESULT} lacks it: {PER_QUERY} has {len(groups)} groups"
            continue
        if lacking := [group for group in groups if group not in stored]:
            yield f"slices, {name}", f"{RESULT} lacks {some(lacking)}"
        for group, rows in groups.items():
            of_group = [one for one in scored if not np.isnan(table[one][rows]).all()]
            if lacking := [one for one in of_group if one not in stored.get(group, of_group)]:
                yield f"slices, {name}={group}", f"{RESULT} lacks {some(lacking)}"
    kinds = [name.partition("=")[2] for name in table if name.startswith(f"{SUPPORT}=")]
    shares = result.slices.get(SUPPORT, {})
    lacking = [kind for kind in kinds if "share" not in shares.get(kind, {})]
    if lacking and with_slices:
        yield f"slices, {SUPPORT}", f"{RESULT} lacks {some(lacking)}"


def labelled_groups(table: Table) -> dict[str, dict[str, np.ndarray]]:
    """The rows of each group of queries, by slice: columns of texts but the ids."""
    slices: dict[str, dict[str, np.ndarray]] = {}
    for name, labels in table.items():
        if labels.dtype.kind != "O" or name == "query_id" or not _is_text(labels):
            continue
        rows: dict[str, list[int]] = {}
        for row, label in enumerate(labels.tolist()):
            if label is not None:
                rows.setdefault(label, []).append(row)
        slices[name] = {label: np.array(rows[label]) for label in sorted(rows)}
    return slices


def _is_text(labels: np.ndarray) -> bool:
    return all(label is None or isinstance(label, str) for label in labels.tolist())


def some(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
