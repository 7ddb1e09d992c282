"""``tdabench report``: the leaderboard of a results folder in every format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.commands import add_results, parser_of
from bench.core import progress
from bench.core.escape import clean

if TYPE_CHECKING:
    from bench.run.loggers import LoggerConfig


def main(words: Sequence[str]) -> int:
    """Write the report, and print the leaderboard unless told not to; returns 0.

    Raises:
        UserError: wrong words, an unknown logger, no cells, a damaged one, or a folder that cannot
            be written.
    """
    parser = parser_of("report")
    add_results(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the files go (default: RESULTS/report)"
    )
    parser.add_argument("--quiet", action="store_true", help="write files, print nothing")
    parser.add_argument(
        "--no-figures", dest="figures", action="store_false", help="draw no figures"
    )
    parser.add_argument(
        "--no-viewer",
        dest="viewer",
        action="store_false",
        help="read no rankings, write no viewer",
    )
    parser.add_argument(
        "--cells",
        action="store_true",
        help="copy the cells beside the tables, less their lists: `tdabench verify DIR` can then "
        "make the tables again",
    )
    parser.add_argument(
        "--log",
        nargs="+",
        metavar="WORD",
        help="tell a logger of the finished cells and of this report: its name, and its settings "
        "(--log wandb logger.mode=online)",
    )
    options = parser.parse_args(words)
    if options.cells and options.out is None:
        parser.error("--cells needs --out DIR")
    logger = _logger(options.log) if options.log else None
    from bench.report.recorded import record_cells
    from bench.report.write import report

    paths = report(
        options.results,
        options.out,
        quiet=options.quiet,
        figures=options.figures,
        viewer=options.viewer,
    )
    if options.cells:
        record_cells(options.results, options.out)
    if logger is not None:
        _log(logger, options.results, paths.folder)
    if not options.quiet:
        print(f"report: {clean(paths.html)}")
    return 0


def _logger(words: Sequence[str]) -> LoggerConfig:
    """The settings of a logger by its name and ``logger.KEY=VALUE``.

    Raises:
        UserError: an unknown logger or key, or a faulty value.
    """
    from bench.run.composing import composed
    from bench.run.settings import settings_from

    return settings_from(composed([f"logger={words[0]}", *words[1:]], "report")).logger


def _log(logger: LoggerConfig, results: Path, report_dir: Path) -> None:
    """Tell a logger of all finished cells and of the report; the folder's name is their group."""
    from bench.results.schema import read_cells
    from bench.run.loggers import log_cell, log_report

    sweep = results.resolve().name
    for cell in progress.track(list(read_cells(results)), "log cells", unit="cells"):
        log_cell(logger, cell, cell.config, sweep)
    log_report(logger, results, report_dir, sweep)
