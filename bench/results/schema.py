"""The record of one finished cell: ``result.json`` and the files beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.fields import without_speed
from bench.results.fields import check_fields
from bench.storage.bounds import check_inside
from bench.storage.documents import read_json, read_yaml
from metrics.settings import MetricConfig
from metrics.stats.bootstrap import QUERIES, Estimate, Interval

SCHEMA_VERSION = 1
ENTAILED = 0.5  # the release calls a passage correct above this entailment score
RESULT, RETRIEVALS, PER_QUERY, CONFIG = (
    "result.json",
    "retrievals.jsonl",
    "per_query.parquet",
    "config.yaml",
)
FILES = (RESULT, RETRIEVALS, PER_QUERY, CONFIG)
FIRST_PASSAGES = "first_passages.jsonl.gz"  # of a cell that is kept without its rankings


@dataclass(frozen=True)
class Result:
    """Everything a leaderboard row needs, and what is needed to make it again.

    Attributes:
        task: name, version, sha256, n_queries, n_scored, n_passages, counts, and the separators
            between prompt and target.
        model: name, n_params, sha256, what is known of its training, and how it reads texts: the
            tokens that stand around one, and its context length.
        method: name, config, key, facts learnt on the way (such as the λ in use), counts.
        metrics: name → Estimate: the mean, its interval, over how many queries, and what was
            resampled for the interval (``over``), with the others that it was chosen from.
        slices: slice → group → metric → Estimate, e.g. ``slices["relation"]["instrument"]["mrr"]``.
        phases: ``[{name, seconds, peak_mib}]``.
        index: bytes, bytes_per_passage, shards.
        env: python, torch, device, git_sha, dirty.
        rankings_sha256: hash of ``retrievals.jsonl``.
        top_k: stored list length; MRR cannot see past it.
        command: the overrides that make this cell again.
        imported: true for rankings made elsewhere.
        identity: what the key, the name of the folder, is made of, and the version of that rule
            (``bench.run.identity``).
    """

    task: dict[str, Any]
    model: dict[str, Any]
    method: dict[str, Any]
    metrics: dict[str, Estimate]
    slices: dict[str, dict[str, dict[str, Estimate]]]
    phases: list[dict[str, Any]]
    index: dict[str, Any]
    env: dict[str, Any]
    date: str
    top_k: int
    seed: int
    command: str
    rankings_sha256: str = ""
    imported: bool = False
    identity: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def judge(self) -> dict[str, Any]:
        """The record of the judge; empty where the annotation decided, or nobody did."""
        return self.task.get("judge") or {}

    @property
    def threshold(self) -> float:
        """The judge's score above which a passage is correct; without a judge the release's."""
        return float(self.judge.get("threshold", ENTAILED))

    @property
    def n_queries(self) -> int | None:
        """How many queries the cell has; None where the result does not say."""
        return self.task.get("n_queries")

    @property
    def repeated_texts(self) -> int:
        """How many passages have the text of an earlier one; 0 where nobody has counted."""
        return (self.task.get("counts") or {}).get("repeated_texts", 0)

    def to_json(self) -> dict[str, Any]:
        """The record as ``result.json`` holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Source:
    """Where the cell of a bundle is from.

    Attributes:
        by: the person or group that handed it in.
        link: an address that tells more of it; empty if none was given.
        verified: the day on which it was checked here, e.g. ``"2026-11-28"``.
        version: the version of this package that checked it.
    """

    by: str
    link: str
    verified: str
    version: str


@dataclass(frozen=True)
class Cell:
    """A finished cell on disk: its folder and its parsed result.

    Attributes:
        source: where it is from, if it came in a bundle.
    """

    folder: Path
    result: Result = field(repr=False)
    source: Source | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its settings, as its ``config.yaml`` has them; empty if that is damaged."""
        try:
            settings = read_yaml(self.folder / CONFIG)
        except UserError:
            return {}  # `tdabench verify` tells of it
        return settings if isinstance(settings, dict) else {}

    @property
    def measured_by(self) -> dict[str, Any]:
        """The settings of its metrics that its numbers depend on; empty if they are damaged."""
        metric = self.config.get("metric")
        return without_speed(MetricConfig, metric) if isinstance(metric, dict) else {}

    @property
    def clusters_always(self) -> bool:
        """Whether its intervals are over clusters of queries in any case (``metric.cluster``)."""
        return self.measured_by.get("cluster", "auto") not in ("auto", "none")


def is_finished(folder: Path) -> bool:
    """Whether a cell is there.

    Raises:
        UserError: the folder is there without its result, which is written together with it.
    """
    if folder.exists() and not (folder / RESULT).exists():
        raise UserError(
            f"holds no {RESULT}: somebody removed it",
            where=str(folder),
            fix="delete the folder to run this cell again",
        )
    return folder.exists()


def read_result(path: Path) -> Result:
    """Read and validate one ``result.json``.

    Raises:
        UserError: not JSON, another schema version, a missing or unknown field, a wrong type.
    """
    record = read_json(path)
    if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"not a result of schema version {SCHEMA_VERSION}", where=str(path))
    try:
        check_fields(record)
        record["metrics"] = _estimates(record["metrics"])
        record["slices"] = {
            name: {group: _estimates(values) for group, values in groups.items()}
            for name, groups in record["slices"].items()
        }
        return Result(**record)
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"not a valid result ({reason:.200})", where=str(path)) from error


def _estimates(record: dict[str, Any]) -> dict[str, Estimate]:
    return {name: _estimate(values) for name, values in record.items()}


def _estimate(record: dict[str, Any]) -> Estimate:
    intervals = {
        name: Interval(_bounds(interval["ci95"]), _whole(interval["units"]))
        for name, interval in record.get("intervals", {}).items()
    }
    value, n, over = _real(record["value"]), _whole(record["n"]), record.get("over", QUERIES)
    if not isinstance(over, str):
        raise TypeError(f"over is no text: {over!r:.40}")
    return Estimate(value, _bounds(record["ci95"]), n, over, intervals)


def _bounds(values: list[Any]) -> tuple[float, float]:
    low, high = values
    return _real(low), _real(high)


def _real(value: Any) -> float:
    """The value as a float. No run writes NaN or infinity, and a table would sort by them."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"expected a finite number, found {value!r:.40}")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"expected a count, found {value!r:.40}")
    return value


def cell_folders(results_dir: Path, files: Sequence[str] = FILES) -> list[Path]:
    """The folders of cells below a results folder, sorted, which hold any of some files.

    Raises:
        UserError: the folder does not exist or holds no cell.
    """
    if not results_dir.is_dir():
        raise UserError(
            "no such results folder", where=str(results_dir), fix="run `tdabench run` first"
        )
    paths = {path.parent for file in files for path in results_dir.glob(f"*/*/*/*/{file}")}
    folders = sorted(path for path in paths if ".partial-" not in str(path))
    if not folders:
        raise UserError(
            "holds no finished cell", where=str(results_dir), fix=where_cells_are(results_dir)
        )
    return folders


def check_links(folder: Path) -> None:
    """Refuse a cell of which a file is a link that leads out of the results folder.

    Raises:
        UserError: one is.
    """
    for file in (*FILES, FIRST_PASSAGES):
        check_inside(folder / file, folder.parents[3])


def read_cells(results_dir: Path) -> list[Cell]:
    """All finished cells below a results folder, in the order of their paths.

    Raises:
        UserError: as ``cell_folders`` and ``check_links``, or a result is damaged.
    """
    folders = cell_folders(results_dir, [RESULT])
    for folder in folders:
        check_links(folder)
    return [Cell(folder, read_result(folder / RESULT)) for folder in folders]


def where_cells_are(results_dir: Path) -> str:
    """What to do about a folder without cells: they may lie deeper, or the folder within a cell's.

    `make bench`, like any sweep of one's own, writes to a folder below ``runs``.
    """
    below = sorted({path.parents[4] for path in results_dir.glob(f"*/*/*/*/*/{RESULT}")})
    if below:
        return f"there are some in {', '.join(map(str, below[:3]))}"
    for depth, above in enumerate(results_dir.absolute().parents[:4]):
        if next(results_dir.glob("*/" * (3 - depth) + RESULT), None):
            return f"give {above}, of whose cells it holds a part"
    return "run `tdabench run` first"
