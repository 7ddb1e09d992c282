"""The commands of ``tdabench``: what each does, and the module that does it.

A module has a function ``main`` that takes the words after the command's name and returns the exit
status. Its arguments are its own. Nothing slow is imported before the command is known.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bench.core.errors import UserError

# The progress of what takes seconds before a command that computes can begin.
LOADING = ("load torch and transformers", 2, "libraries")
_DEFAULT_RESULTS = Path("runs")  # the default of results_dir in conf/config.yaml


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: one line for ``tdabench --help``.
        module: the name of its module.
    """

    summary: str
    module: str


COMMANDS = {
    "run": Command("run a cell, or with -m a sweep of cells", "bench.cli.run"),
    "train": Command(
        "train a model on a task's passages, or go on where that was stopped", "bench.cli.train"
    ),
    "moments": Command(
        "write an optimizer's state, whatever trainer left it, as second moments by name",
        "bench.cli.moments",
    ),
    "predict": Command(
        "ask a model every query, and write its wrong answers as queries to trace",
        "bench.cli.predict",
    ),
    "plan": Command(
        "what runs with gradient methods will cost: passes, FLOPs, bytes, hours", "bench.cli.plan"
    ),
    "import": Command(
        "make rows of rankings made elsewhere: release format, TREC run file, bergson",
        "bench.cli.import_",
    ),
    "report": Command(
        "write the leaderboard as text, Markdown, CSV, LaTeX and HTML, a viewer, figures",
        "bench.cli.report",
    ),
    "list": Command(
        "list methods, metrics, judges, tasks, models, engines and experiments", "bench.cli.list_"
    ),
    "annotate": Command(
        "let people judge a blinded sample of the rankings, and compare", "bench.cli.annotate"
    ),
    "export": Command(
        "write rankings for trec_eval, or as a data set for the Hugging Face Hub",
        "bench.cli.export",
    ),
    "fetch": Command(
        "download a public release: resumable, verified, only when asked", "bench.cli.fetch"
    ),
    "reproduce": Command(
        "check what the paper reports against the cells of a results folder",
        "bench.cli.reproduce",
    ),
    "verify": Command(
        "recompute the metrics of results or of a bundle from the stored rankings, the means of "
        "what takes a model",
        "bench.cli.verify",
    ),
    "submit": Command(
        "write finished cells, verified and without texts, as a bundle for a public board",
        "bench.cli.submit",
    ),
    "site": Command(
        "build the static site of all boards, bundles' rows among them, and the documentation",
        "bench.cli.site",
    ),
    "completion": Command("print the tab completion of bash, zsh or fish", "bench.cli.completion"),
}


class Parser(argparse.ArgumentParser):
    """Raises the one-line error of this project where argparse would print its usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where the arguments are described."""
        raise UserError(message, fix=f"see `{self.prog} --help`")


def parser_of(name: str) -> Parser:
    """A parser of the arguments of a command, which has none yet."""
    summary = COMMANDS[name].summary
    return Parser(prog=f"tdabench {name}", description=f"{summary[0].upper()}{summary[1:]}.")


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add RESULTS, the folder of finished cells that a command reads."""
    parser.add_argument(
        "results",
        nargs="?",
        type=Path,
        default=_DEFAULT_RESULTS,
        metavar="RESULTS",
        help="folder of finished cells (default: %(default)s)",
    )
