"""Mirrors of cells and reports. Files are the record: a logger is told last and may fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core import progress
from bench.core.errors import UserError, did_you_mean
from bench.core.escape import clean
from bench.results.schema import CONFIG, PER_QUERY, RESULT, Cell
from metrics import measures

_KNOWN = ("none", "wandb")
_PARTS = ("task", "model", "method")
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
    with _at_the_cost_of_a_line(config, f"the result is in {cell.folder}"):
        if config.name == "wandb":
            _log_wandb(config, cell, settings, sweep)


def log_failure(
    config: LoggerConfig, results_dir: Path, settings: dict[str, Any], sweep: str, reason: str
) -> None:
    """Tell the logger of a cell of a sweep that failed, and why; as ``log_cell`` otherwise."""
    with _at_the_cost_of_a_line(config, "run.log says which cells failed"):
        if config.name == "wandb":
            task, model, method = (str(settings[part]["name"]) for part in _PARTS)
            name, tags = f"{method}-{model}-failed", [task, model, method]
            run = _started(config, results_dir, sweep, "evaluate", name, tags, _told_of(settings))
            run.summary.update({"failed": clean(reason)})
            run.finish(exit_code=1)


def log_report(config: LoggerConfig, results_dir: Path, report_dir: Path, sweep: str) -> None:
    """Tell the logger of a report: its leaderboard as a table, and the figures that were drawn."""
    with _at_the_cost_of_a_line(config, f"the report is in {report_dir}"):
        if config.name != "wandb":
            return
        import pandas as pd
        import wandb

        run = _started(config, results_dir, sweep, "report", "leaderboard", [], {})
        rows = pd.read_csv(report_dir / "leaderboard.csv")
        run.log({"leaderboard": wandb.Table(dataframe=rows)})
        figures = sorted((report_dir / "figures").glob("*.png"))
        if figures:
            run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in figures})
        run.finish()


@contextmanager
def _at_the_cost_of_a_line(config: LoggerConfig, still: str) -> Iterator[None]:
    """A context in which what goes wrong is told in one line, with what is there all the same."""
    try:
        yield
    except Exception as error:  # whatever goes wrong in there, the files are on disk
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        progress.complain(f"logger {config.name} failed ({reason}); {still}")


def _told_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings less the paths of this machine."""
    return {key: value for key, value in settings.items() if key not in _PLACES}


def _started(
    config: LoggerConfig,
    results_dir: Path,
    sweep: str,
    job_type: str,
    name: str,
    tags: list[str],
    settings: dict[str, Any],
    run_id: str | None = None,
) -> Any:
    """A run of W&B that is told neither the host nor what the terminal shows."""
    import wandb  # slow to import

    return wandb.init(
        project=config.project,
        group=config.group or sweep,
        job_type=job_type,
        id=run_id,
        name=name,
        tags=tags,
        config=settings,
        mode=config.mode,  # type: ignore[arg-type]
        dir=str(results_dir),
        reinit="finish_previous",
        settings={**_SILENT, **({} if config.host else _NO_HOST)},
    )


def _log_wandb(config: LoggerConfig, cell: Cell, settings: dict[str, Any], sweep: str) -> None:
    import pandas as pd
    import wandb

    result, key = cell.result, cell.folder.name
    run = _started(
        config,
        cell.folder.parents[3],
        sweep,
        "evaluate",
        # The key tells cells of a sweep apart that differ in settings alone.
        f"{result.method['name']}-{result.model['name']}-{key[:8]}",
        [result.task["name"], result.model["name"], result.method["name"]],
        _told_of(settings),
        run_id=key,  # a cell that is logged again takes its own place
    )
    run.summary.update(
        {
            f"{_head(name)}{suffix}": measures.of(name).shown(value)
            for name, estimate in result.metrics.items()
            for suffix, value in (
                ("", estimate.value),
                ("/low", estimate.ci95[0]),
                ("/high", estimate.ci95[1]),
            )
        }
    )
    for number, epoch in enumerate(_epochs(result.model), start=1):
        run.log({"training/epoch": number, **{f"training/{k}": v for k, v in epoch.items()}})
    table = pd.read_parquet(cell.folder / PER_QUERY)
    for name in table.columns:
        if (scale := measures.of(name).scale) != 1:
            table[name] *= scale
    run.log({"per_query": wandb.Table(dataframe=table.rename(columns=_head))})
    # Not the rankings: they quote the corpus, which may not be passed on.
    artifact = wandb.Artifact(f"cell-{key}", type="cell")
    for file in (RESULT, CONFIG, PER_QUERY):
        artifact.add_file(str(cell.folder / file), name=file)
    run.log_artifact(artifact)
    run.finish()


def _epochs(model: dict[str, Any]) -> list[dict[str, float]]:
    """What each epoch of the model's training noted; none of a model that was trained elsewhere."""
    training = model.get("training")
    epochs = training.get("epochs") if isinstance(training, dict) else None
    return [epoch for epoch in epochs or [] if isinstance(epoch, dict)]


def _head(name: str) -> str:
    """A metric's name with the unit in which a value is told, as in the tables of a report."""
    unit = measures.of(name).unit
    return f"{name} ({unit})" if unit else name
