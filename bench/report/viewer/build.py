"""Writing a viewer: rankings are read one at a time, and the new viewer replaces the last one.

Each group is a job, since most of the time goes into reading rankings: several processes do them
where there is much to read.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench.core import progress
from bench.core.environment import __version__
from bench.core.errors import UserError
from bench.core.escape import clean
from bench.engines.base import Job
from bench.engines.outcomes import outcomes, unless_single
from bench.report.rendering import rendered
from bench.report.viewer.chunks import NUMBERS, write_chunk
from bench.report.viewer.opening import opening
from bench.report.viewer.queries import Measures, Queries
from bench.report.viewer.reading import Ranked, read_ranked
from bench.report.viewer.sources import PAGE, RankingGroup, RankingSource
from bench.report.viewer.spill import Spill
from bench.report.viewer.values import json_of, numbers_json, valid_unicode
from bench.report.workers import engine_for
from bench.storage.disk import disk_errors
from bench.storage.documents import read_json
from bench.storage.whole_files import whole_file
from bench.storage.whole_folders import partial_folder
from metrics.measures import MRR

DATA, CATALOG = "data", "catalog"
_SCRIPTS = (
    "dom", "store", "text", "shares", "state", "filter", "search", "list", "wins", "ranking",
    "query", "export", "keys", "main",
)  # fmt: skip
_BYTES_A_SECOND = 25e6  # of rankings that one core reads, packs and writes
_ENTRIES = 2500  # listed passages in one chunk of rankings
_CHARACTERS, _PASSAGES = 1 << 17, 1000  # in one chunk of passages


def write_viewer(groups: Sequence[RankingGroup], folder: Path, home: str | None = None) -> Path:
    """Write the viewer of ``groups`` into ``folder``, in place of the viewer that it may hold.

    Args:
        home: address of the leaderboard's page, relative to ``folder``; None where there is none.

    Returns:
        the page to open.

    Raises:
        UserError: a ranking file is damaged, there is no space, or the folder holds something else.
    """
    with _replaced(folder) as partial:
        data = partial / DATA
        data.mkdir()
        catalog = {
            "version": __version__,
            "reciprocal": MRR,
            "groups": _written(groups, data, folder),
        }
        write_chunk(data, CATALOG, json_of(catalog))
        (partial / PAGE).write_text(viewer_page(home), encoding="utf-8")
    return folder / PAGE


def viewer_page(home: str | None) -> str:
    """The page, program and style in one file; ``home`` as of ``write_viewer``."""
    return rendered("viewer", folder="viewer", scripts=_SCRIPTS, home=home)


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``folder`` only if the block succeeds."""
    with disk_errors(folder):
        if folder.exists() and not _is_viewer(folder):
            raise UserError(
                "holds something that is no viewer", where=str(folder), fix="move it away"
            )
        partial = partial_folder(folder)
        try:
            made = partial / "new"
            made.mkdir()
            yield made
            if folder.exists():
                os.rename(folder, partial / "old")
            os.rename(made, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _is_viewer(folder: Path) -> bool:
    return folder.is_dir() and (
        (folder / DATA / f"{CATALOG}.js").is_file() or not any(folder.iterdir())
    )


def _written(groups: Sequence[RankingGroup], data: Path, folder: Path) -> list[dict[str, Any]]:
    """Write the chunks of all groups into ``data``; returns their entries in the catalog."""
    entries = data.parent.parent / "entries"
    entries.mkdir()
    jobs = [
        Job(write_group, (group, f"g{i}", data, entry, folder), entry)
        for i, group in enumerate(groups)
        for entry in [entries / f"{i}.json"]
    ]
    n_bytes = sum(one.rankings.stat().st_size for group in groups for one in group.sources)
    engine = unless_single(engine_for(n_bytes / _BYTES_A_SECOND), len(jobs))
    return list(outcomes(jobs, read_json, engine, "viewer", "boards"))


def write_group(group: RankingGroup, name: str, data: Path, entry: Path, folder: Path) -> None:
    """Write one group's chunks, all named ``NAME-…``, and its entry in the catalog.

    Args:
        entry: the file for that entry.
        folder: the viewer's folder, which a full disk is told with.
    """
    with (
        disk_errors(folder),
        tempfile.TemporaryDirectory(dir=data.parent.parent) as temporary,
        closing(Spill(Path(temporary))) as spill,
    ):
        written = _write_spilled(group, name, data, spill)
    with whole_file(entry) as stream:
        stream.write(valid_unicode(json_of(written)))


def _write_spilled(group: RankingGroup, name: str, data: Path, spill: Spill) -> dict[str, Any]:
    queries, longest = Queries(), 1
    measures, columns = [], []
    for method, source in enumerate(group.sources):
        measured, names, length = _spilled(method, source, queries, spill)
        measures.append(measured)
        columns.append(names)
        longest = max(longest, length)
    write_chunk(data, f"{name}-queries", json_of(queries.to_json()))
    starts = _write_passages(spill, name, data)
    step = max(1, _ENTRIES // longest)
    methods = []
    for method, source in enumerate(group.sources):
        of_method = f"{name}-m{method}"
        values = json_of(measures[method].to_json(len(queries)))
        write_chunk(data, f"{of_method}-measures", values, NUMBERS)
        for chunk, rankings in _by_chunk(spill.rankings(method), step):
            write_chunk(data, f"{of_method}-ranks-{chunk:05}", rankings, NUMBERS)
        methods.append({"label": clean(source.label), "columns": columns[method]})
    return {
        "task": clean(group.task),
        "model": clean(group.model),
        "queries": len(queries),
        "step": step,
        "passages": starts,
        "methods": methods,
        "opening": opening(group.sources, [one.reciprocals(len(queries)) for one in measures]),
    }


def _spilled(
    method: int, source: RankingSource, queries: Queries, spill: Spill
) -> tuple[Measures, list[str], int]:
    """Spill one method's rankings.

    Returns:
        the values of its metrics, the names of its further columns, the length of its longest list.
    """
    measures, columns, longest = Measures(source.table), dict[str, None](), 0
    rankings = read_ranked(source.rankings, source.threshold)
    for ranked in progress.track(rankings, f"viewer: {source.label}", unit="queries"):
        record = ranked.record
        place = queries.place(ranked, measures.labels(record.example_id))
        measures.add(place, ranked)
        columns.update(dict.fromkeys(ranked.columns))
        longest = max(longest, len(record.proponents))
        ids = [*record.proponent_ids, *(record.opponent_ids or ())]
        texts = [*record.proponents, *(record.opponents or ())]
        spill.add(method, place, ids, texts, _entry(ranked))
    return measures, list(columns), longest


def _entry(ranked: Ranked) -> str:
    """A ranking without its passages, of which the first ``n`` are proponents, others opponents.

    Members of a JSON object, with short keys, since there is an entry a query and method: ``s`` and
    ``o`` are the scores of both, ``t`` and ``u`` the shares of their tokens, ``c`` says which are
    correct, ``x`` holds further columns, ``m`` fields of the query. What is empty is left out.
    """
    record = ranked.record
    columns = ",".join(f"{json_of(name)}:{values}" for name, values in ranked.columns.items())
    members = {
        "s": numbers_json(record.proponent_scores) if record.proponent_scores else "",
        "c": f'"{ranked.correct}"' if ranked.correct else "",
        "x": f"{{{columns}}}" if columns else "",
        "o": numbers_json(record.opponent_scores) if record.opponent_scores else "",
        "m": json_of(ranked.more) if ranked.more else "",
        "t": json_of(ranked.shares) if ranked.shares else "",
        "u": json_of(ranked.opponent_shares) if ranked.opponent_shares else "",
    }
    written = "".join(f',"{key}":{text}' for key, text in members.items() if text)
    return f'"n":{len(record.proponents)}{written}'


def _by_chunk(
    rankings: Iterable[tuple[int, list[int], str]], step: int
) -> Iterator[tuple[int, str]]:
    """Rankings by query as JSON, ``step`` queries a chunk."""
    for chunk, held in itertools.groupby(rankings, lambda ranking: ranking[0] // step):
        entries = (
            f'"{query}":{{"p":{json_of(passages)},{rest}}}' for query, passages, rest in held
        )
        yield chunk, f"{{{','.join(entries)}}}"


def _write_passages(spill: Spill, name: str, data: Path) -> list[int]:
    """Write the passages of a group; returns the number of each chunk's first one, and the end."""
    starts, ids, texts, characters, end = [0], list[str](), list[str](), 0, 0

    def write() -> None:
        passages = json_of({"id": ids, "text": texts})
        write_chunk(data, f"{name}-passages-{len(starts) - 1:05}", passages)
        starts.append(end)

    for passage_id, text in spill.passages():
        if ids and (characters + len(text) > _CHARACTERS or len(ids) == _PASSAGES):
            write()
            ids, texts, characters = [], [], 0
        ids.append(passage_id)
        texts.append(text)
        characters += len(text)
        end += 1
    if ids:
        write()
    return starts
