"""Mirrors of finished cells. Files are the record: a logger is told last and may fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.core import progress
from bench.core.errors import UserError, did_you_mean
from bench.results.schema import CONFIG, PER_QUERY, RESULT, Cell

_KNOWN = ("none", "wandb")


@dataclass
class LoggerConfig:
    """Settings of the logger that is told of finished cells; reasons in ``conf/logger``."""

    name: str
    project: str = "tdabench"
    group: str | None = None
    mode: str = "offline"


def check_logger(config: LoggerConfig) -> None:
    """Refuse an unknown logger before any work starts."""
    if config.name not in _KNOWN:
        raise UserError(
            f"unknown logger {config.name!r}", where="logger", fix=did_you_mean(config.name, _KNOWN)
        )


def log_cell(config: LoggerConfig, cell: Cell, settings: dict[str, Any], sweep: str) -> None:
    """Tell the logger of a finished cell. A failing logger costs one line, never a result."""
    if config.name != "wandb":
        return
    try:
        _log_wandb(config, cell, settings, sweep)
    except Exception as error:  # whatever goes wrong in there, the cell is on disk
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        progress.complain(f"logger wandb failed ({reason}); the result is in {cell.folder}")


def _log_wandb(config: LoggerConfig, cell: Cell, settings: dict[str, Any], sweep: str) -> None:
    import pandas as pd
    import wandb  # slow to import, as pandas is

    result = cell.result
    run = wandb.init(
        project=config.project,
        group=config.group or sweep,
        job_type="evaluate",
        name=f"{result.method['name']}-{result.model['name']}",
        tags=[result.task["name"], result.model["name"], result.method["name"]],
        config=settings,
        mode=config.mode,  # type: ignore[arg-type]
        dir=str(cell.folder.parents[3]),
        reinit="finish_previous",
    )
    run.summary.update(
        {
            f"{name}{suffix}": value
            for name, estimate in result.metrics.items()
            for suffix, value in (
                ("", estimate.value),
                ("/low", estimate.ci95[0]),
                ("/high", estimate.ci95[1]),
            )
        }
    )
    run.log({"per_query": wandb.Table(dataframe=pd.read_parquet(cell.folder / PER_QUERY))})
    # Not the rankings: they quote the corpus, which may not be passed on.
    artifact = wandb.Artifact(f"cell-{cell.folder.name}", type="cell")
    for file in (RESULT, CONFIG, PER_QUERY):
        artifact.add_file(str(cell.folder / file), name=file)
    run.log_artifact(artifact)
    run.finish()
