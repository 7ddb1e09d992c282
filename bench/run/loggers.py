"""Mirrors of finished cells. Files are the record: a logger is told last and may fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.core import progress
from bench.core.errors import UserError, did_you_mean
from bench.results.schema import CONFIG, PER_QUERY, RESULT, Cell
from metrics import measures

_KNOWN = ("none", "wandb")
_PLACES = ("results_dir", "cache_dir", "remote_dir")  # paths of this machine, which move no number
# wandb prints nothing and keeps nothing of what the terminal shows: run.log is the record of that.
_SILENT = {"silent": True, "console": "off"}
_NO_HOST = {
    "host": "", "program": "", "disable_git": True, "disable_code": True, "x_disable_meta": True,
    "x_disable_stats": True, "x_disable_machine_info": True, "x_save_requirements": False,
}  # fmt: skip


@dataclass
class LoggerConfig:
    """Settings of the logger that is told of finished cells; reasons in ``conf/logger``."""

    name: str
    project: str = "tdabench"
    group: str | None = None
    mode: str = "offline"
    host: bool = False


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
        # The key tells cells of a sweep apart that differ in settings alone.
        name=f"{result.method['name']}-{result.model['name']}-{cell.folder.name[:8]}",
        tags=[result.task["name"], result.model["name"], result.method["name"]],
        config={key: value for key, value in settings.items() if key not in _PLACES},
        mode=config.mode,  # type: ignore[arg-type]
        dir=str(cell.folder.parents[3]),
        reinit="finish_previous",
        settings={**_SILENT, **({} if config.host else _NO_HOST)},
    )
    run.summary.update(
        {
            f"{_head(name)}{suffix}": measures.of(name).scale * value
            for name, estimate in result.metrics.items()
            for suffix, value in (
                ("", estimate.value),
                ("/low", estimate.ci95[0]),
                ("/high", estimate.ci95[1]),
            )
        }
    )
    table = pd.read_parquet(cell.folder / PER_QUERY)
    for name in table.columns:
        if (scale := measures.of(name).scale) != 1:
            table[name] *= scale
    run.log({"per_query": wandb.Table(dataframe=table.rename(columns=_head))})
    # Not the rankings: they quote the corpus, which may not be passed on.
    artifact = wandb.Artifact(f"cell-{cell.folder.name}", type="cell")
    for file in (RESULT, CONFIG, PER_QUERY):
        artifact.add_file(str(cell.folder / file), name=file)
    run.log_artifact(artifact)
    run.finish()


def _head(name: str) -> str:
    """A metric's name with the unit in which a value is told, as in the tables of a report."""
    unit = measures.of(name).unit
    return f"{name} ({unit})" if unit else name
