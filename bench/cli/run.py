"""``tdabench run``: Hydra composes and sweeps; each job is one cell."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench.cli.commands import LOADING
from bench.core import progress, run_log
from bench.core.errors import UserError, did_you_mean, first_line
from bench.core.escape import clean
from bench.run.composing import composed_beside, later_cells, sweep
from bench.run.config_errors import explain
from bench.run.extend_hydra import extend_hydra
from bench.run.loggers import log_failure
from bench.run.parts import Parts
from bench.run.settings import Settings, settings_from
from bench.storage.files import refuse_address

# Jobs of a sweep append "done" or "failed" here, whichever process they run in.
_JOURNAL = "TDABENCH_SWEEP_JOURNAL"
_WORDS = "TDABENCH_SWEEP_WORDS"  # those of the command, as a JSON list, for the same processes
_LOG = "run.log"  # what the run said, in a folder of its own below results_dir/.jobs
_SWEEP = ("-m", "--multirun")
_DRY_RUN = "--dry-run"
_OPTIONS = (
    *_SWEEP, _DRY_RUN, "-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve",
    "-p", "--package", "-r", "--run", "-i", "--info", "-cd", "--config-dir",
)  # fmt: skip

# What a single run raised, for `main`: Hydra would print a line of its own before ours.
_raised: list[UserError | _IsSweep] = []


class _IsSweep(Exception):  # noqa: N818 - no error: the experiment is run as a sweep
    """What was asked for as one cell is several."""


class CellError(Exception):
    """A cell failed by a fault of the code; its traceback has been printed."""


def main(words: Sequence[str]) -> int:
    """Run one cell or a sweep of them; an experiment that sweeps does so without ``-m``, too.

    Returns:
        0 = all cells are done; 1 = some cell failed; 2 = nothing could be done with this input.

    Raises:
        UserError: an unknown option, results at an address, or, of a dry run, anything wrong.
    """
    for word in words:
        name, _, value = word.partition("=")
        if name.startswith("-") and name not in _OPTIONS:
            raise UserError(f"unknown option {name!r}", fix=did_you_mean(name, _OPTIONS))
        if name == "results_dir":  # before Hydra makes a folder of that name
            refuse_address(value.strip("'\""), name)
    if _DRY_RUN in words:
        return _dry_run([word for word in words if word not in (*_SWEEP, _DRY_RUN)])
    extend_hydra()
    # Hydra takes its options before the overrides only.
    ordered = sorted(words, key=lambda word: word not in _SWEEP)
    with tempfile.NamedTemporaryFile(prefix="tdabench-sweep-") as journal:
        os.environ[_JOURNAL] = journal.name
        os.environ[_WORDS] = json.dumps([word for word in ordered if word not in _SWEEP])
        os.environ["HYDRA_FULL_ERROR"] = "1"  # hand exceptions over; we print them as one line
        try:
            try:
                _start(ordered)
            except _IsSweep:
                _start(["-m", *ordered])
        except UserError as error:
            return _report(error)
        except (HydraException, OmegaConfBaseException, ValueError, UserWarning) as error:
            # A ValueError is Hydra's, of a group without a choice: those of cells are CellErrors.
            return _report(explain(error, ordered))
        except BrokenPipeError:
            raise  # the reader of `--help` has read enough
        except OSError as error:
            # Hydra's, of the folder in which it keeps its own files: those of cells are CellErrors.
            return _report(_unwritable(error))
        except CellError:
            return 1
        return _status(Path(journal.name))


def _dry_run(overrides: Sequence[str]) -> int:
    """Print the cells that would run, with their plan, and make nothing."""
    cells = sweep(overrides)
    with progress.counted(*LOADING):  # not needed for a wrong word
        from bench.plan.sweep import show_cells

    show_cells(cells)
    return 0


def _start(words: Sequence[str]) -> None:
    """Give the words to Hydra, and raise what a single run has raised."""
    sys.argv = ["tdabench run", *words]
    _raised.clear()
    _job()
    if _raised:
        raise _raised.pop()


def _unwritable(error: OSError) -> UserError:
    return UserError(
        f"cannot be written ({error.strerror or first_line(error)})",
        where=f"results_dir: {error.filename}",
        fix="set results_dir to a folder of yours",
    )


def _report(error: UserError) -> int:
    """Print one line for the user, whose input made nothing possible."""
    print(f"error: {clean(error)}", file=sys.stderr)
    return 2


def _status(journal: Path) -> int:
    """The exit status of what the journal notes; each failed cell of a sweep printed its line."""
    outcomes = journal.read_text(encoding="utf-8").split()
    if "failed" not in outcomes:
        return 0
    print(
        f"{outcomes.count('failed')} of {len(outcomes)} cells failed; the others are in place",
        file=sys.stderr,
    )
    return 1 if "done" in outcomes else 2


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
def _job(config: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    overrides = list(hydra_config.overrides.task)
    if not in_sweep and _is_sweep(hydra_config, overrides):
        _raised.append(_IsSweep())
        return
    settings, sweep_name = None, ""
    with ExitStack() as stack:
        try:
            if in_sweep:  # Hydra has made the folder already
                stack.enter_context(run_log.kept_in(Path(hydra_config.runtime.output_dir) / _LOG))
            settings = settings_from(config)
            progress.set_quiet(settings.quiet)
            if not in_sweep:
                stack.enter_context(_log_of(settings))
            run_log.note(shlex.join(["tdabench", "run", *overrides]))
            folder = Path(hydra_config.sweep.dir).name if in_sweep else "single"
            sweep_name = hydra_config.runtime.choices.get("experiment") or folder
            Parts(settings).check_files()
            # Seconds, and not needed for a wrong word or a missing file.
            with progress.counted(*LOADING):
                from bench.run.cell import run_cell

            later = partial(_later, overrides) if in_sweep else tuple
            run_cell(settings, overrides, sweep_name, later)
        except UserError as error:
            if in_sweep:
                progress.complain(f"error: {' '.join(overrides)}: {error}")
                _note("failed")
                _log_failure(settings, sweep_name, str(error))
                return  # Hydra would print a line of its own for what is raised
            run_log.note(f"error: {error}")
            _raised.append(error)
            return
        except Exception as error:
            traceback.print_exc()
            run_log.note(traceback.format_exc())
            _note("failed")
            _log_failure(settings, sweep_name, f"{type(error).__name__}: {error}")
            raise CellError(f"{' '.join(overrides)}: {error}") from error
    _note("done")


def _later(overrides: Sequence[str]) -> list[Settings]:
    """The settings of the sweep's cells after this one that differ from it in the method alone."""
    words = json.loads(os.environ[_WORDS])
    return [_settings_of(tuple(cell)) for cell in later_cells(words, overrides)]


@lru_cache(maxsize=256)
def _settings_of(overrides: tuple[str, ...]) -> Settings:
    """The settings of another cell of the sweep, which many cells ask for."""
    return settings_from(composed_beside(overrides))


def _log_failure(settings: Settings | None, sweep_name: str, reason: str) -> None:
    """Tell the logger of a cell that failed; settings that could not be read name no logger."""
    if settings is not None:
        log_failure(settings.logger, settings.results_dir, settings.resolved, sweep_name, reason)


@contextmanager
def _log_of(settings: Settings) -> Iterator[None]:
    """The context in which what a single run says is kept below its results."""
    file = settings.results_dir / ".jobs" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}" / _LOG
    with ExitStack() as stack:
        try:
            stack.enter_context(run_log.kept_in(file))
        except OSError as error:
            raise _unwritable(error) from error
        yield


def _is_sweep(hydra_config: HydraConf, overrides: Sequence[str]) -> bool:
    """Whether the experiment gives several values to a key that the command line does not set."""
    swept = hydra_config.sweeper.get("params") or {}
    return not set(map(str, swept)) <= {word.partition("=")[0] for word in overrides}


def _note(outcome: str) -> None:
    with open(os.environ[_JOURNAL], "a", encoding="utf-8") as stream:
        stream.write(f"{outcome}\n")
