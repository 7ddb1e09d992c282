"""The command ``tdabench``: one subcommand per step, one line per mistake of the user."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bench.cli.annotate import add_arguments as add_annotate_arguments
from bench.cli.export import add_arguments as add_export_arguments
from bench.cli.fetch import add_arguments as add_fetch_arguments
from bench.core import stopping
from bench.core.environment import __version__
from bench.core.errors import UserError, did_you_mean
from bench.core.escape import clean

# Nothing slow is imported up here: `tdabench list` and `--help` answer at once.

DONE, FAILED, WRONG_INPUT, INTERRUPTED, STOPPED = 0, 1, 2, 130, 143
DEFAULT_RESULTS = "runs"  # the default of results_dir in conf/config.yaml
COMMANDS = {
    "run": "run a cell, or with -m a sweep of cells",
    "train": "train a model on a task's passages, or go on where that was stopped",
    "predict": "ask a model every query, and write its wrong answers as queries to trace",
    "plan": "what runs with gradient methods will cost: passes, FLOPs, bytes, hours",
    "import": "make rows of rankings made elsewhere: release format, TREC run file, bergson",
    "report": "write the leaderboard as text, Markdown, CSV, LaTeX and HTML, a viewer, figures",
    "list": "list methods, metrics, judges, tasks, models, engines and experiments",
    "annotate": "let people judge a blinded sample of the rankings, and compare",
    "export": "write rankings for trec_eval, or as a data set for the Hugging Face Hub",
    "fetch": "download a public release: resumable, verified, only when asked",
    "reproduce": "check what the paper reports against the cells of a results folder",
    "verify": "recompute the metrics from the stored rankings, the means of what takes a model",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 1 a cell failed or a number does not hold, 2 the user's input is
        wrong, 130 interrupted, 143 stopped by SIGTERM after finishing what was at hand.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UserError as error:
        print(f"error: {clean(error)}", file=sys.stderr)
        return WRONG_INPUT
    except BrokenPipeError:
        # `| head` has read enough. What is still buffered must not fail at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except stopping.Stopped:
        print("stopped: what is finished is kept; run again to go on", file=sys.stderr)
        return STOPPED


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        _parser().print_help()
        return DONE
    if arguments[0] in ("run", "train", "predict", "plan", "import"):
        # Threads that wait spin for a moment, then sleep. With OpenMP's long default, one of two
        # cores taken made a training step of `tiny` ten times slower; never spinning halves the
        # speed of tail-patch on a quiet machine. OpenMP reads it once, when torch is imported.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if arguments[0] == "run":
        from bench.cli import run

        # Hydra has its own grammar and its own --help.
        with stopping.on_sigterm():
            return run.main(arguments[1:])
    if not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise UserError(
            f"unknown command {arguments[0]!r}", fix=did_you_mean(arguments[0], COMMANDS)
        )
    if arguments[0] == "plan":  # it plans a sweep either way; `-m` is what `run` would be told
        arguments = [word for word in arguments if word not in ("-m", "--multirun")]
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # --help and --version have printed what was asked for
        return int(stop.code or DONE)
    if options.command == "list":
        from bench.cli import list_ as listing

        listing.show(options.group)
        return DONE
    if options.command == "train":
        from bench.cli import train

        return train.main(options.overrides)
    if options.command == "predict":
        from bench.cli import predict

        return predict.main(options.out, options.words)
    if options.command == "plan":
        from bench.plan import sweep as plan_sweep

        return plan_sweep.main(options.overrides)
    if options.command == "import":
        from bench.cli import import_ as command

        return command.main(options.words)
    if options.command == "annotate":
        from bench.cli import annotate

        return annotate.main(options)
    if options.command == "export":
        from bench.cli import export

        return export.main(options)
    if options.command == "fetch":
        from bench.cli import fetch

        return fetch.main(options)
    if options.command == "reproduce":
        from bench.cli import reproduce as reproduction

        return reproduction.main(options.results, options.claims)
    return _report(options) if options.command == "report" else _verify(options)


def _report(options: argparse.Namespace) -> int:
    from bench.report.write import report

    paths = report(
        options.results,
        options.out,
        quiet=options.quiet,
        figures=options.figures,
        viewer=options.viewer,
    )
    if not options.quiet:
        print(f"report: {clean(paths.html)}")
    return DONE


def _verify(options: argparse.Namespace) -> int:
    from bench.results.verify import lines, verify

    problems = verify(options.results)
    for line in map(str, problems) if options.quiet else lines(problems):
        print(line)
    return FAILED if problems else DONE


class _Parser(argparse.ArgumentParser):
    """Raises the one-line error of this project where argparse would print its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, fix=f"see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tdabench",
        description="Benchmark of training-data attribution for language models.",
        epilog="Each command prints its own help: tdabench COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"tdabench {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parts = {
        name: commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        for name, summary in COMMANDS.items()
    }
    for name in ("report", "reproduce", "verify"):
        parts[name].add_argument(
            "results",
            nargs="?",
            type=Path,
            default=Path(DEFAULT_RESULTS),
            metavar="RESULTS",
            help="folder of finished cells (default: %(default)s)",
        )
    add_annotate_arguments(parts["annotate"])
    add_export_arguments(parts["export"])
    add_fetch_arguments(parts["fetch"])
    parts["train"].add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as of `tdabench run`: model=… and task=…, of which a run makes and finds the same "
        "model. After each epoch all is saved that the next needs: a training that is stopped or "
        "killed goes on from there, and ends in the same weights",
    )
    parts["predict"].add_argument(
        "out", metavar="OUT", help="the file to write: queries of task=jsonl"
    )
    parts["predict"].add_argument(
        "words",
        nargs="*",
        metavar="KEY=VALUE",
        help="which=wrong|right|all (default: wrong), max_tokens=N of an answer (default: 12); "
        "else as of `tdabench run`: task=… and model=…",
    )
    parts["plan"].add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as of `tdabench run` (task=…, model=…, method=…, or an experiment or other sweep, "
        "whose cells are then summed), and plan.passages, "
        "plan.tokens_per_passage, plan.queries, plan.device_tflops and plan.devices, which stand "
        "in for what is not here; nothing is trained, encoded or written",
    )
    parts["import"].add_argument(
        "words",
        nargs="*",
        metavar="FILE|KEY=VALUE",
        help="files, globs or score folders of bergson; task=NAME whose queries and passages were "
        "ranked, or task=none to believe the file's own judgement; name=NAME for the leaderboard, "
        "format=release|trec|bergson (default: by content), missing=error|skip|empty for what "
        "only one of file and task has, top_k=N to cut lists; model=NAME metric=default to "
        "measure tail-patch; else as of `tdabench run`",
    )
    parts["report"].add_argument(
        "--out", type=Path, metavar="DIR", help="where the files go (default: RESULTS/report)"
    )
    parts["report"].add_argument("--quiet", action="store_true", help="write files, print nothing")
    for part, summary in (
        ("figures", "draw no figures"),
        ("viewer", "read no rankings, write no viewer"),
    ):
        parts["report"].add_argument(f"--no-{part}", dest=part, action="store_false", help=summary)
    parts["reproduce"].add_argument(
        "--claims", type=Path, metavar="FILE", help="a YAML of claims of your own"
    )
    parts["verify"].add_argument("--quiet", action="store_true", help="print problems only")
    parts["list"].add_argument(
        "group",
        nargs="?",
        metavar="GROUP",
        help="methods, metrics, judges, tasks, models, engines or experiments (default: all)",
    )
    return parser
