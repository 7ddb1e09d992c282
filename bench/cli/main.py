"""The command ``tdabench``: finds the command that is asked for; one line for a user's mistake."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from bench.cli.commands import COMMANDS, Parser
from bench.core import stopping
from bench.core.environment import __version__
from bench.core.errors import UserError, did_you_mean
from bench.core.escape import clean
from bench.core.spinning import brief_spinning
from bench.storage.disk import disk_errors

DONE, FAILED, WRONG_INPUT = 0, 1, 2
BY_SIGNAL = 128  # and its number on top, as shells count


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 1 a cell failed or a number does not hold, 2 the user's input is
        wrong, 130 interrupted, 143 stopped by SIGTERM and 129 by SIGHUP (``bench.core.stopping``).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with stopping.on_signals():
        return _status_of(words)


def _status_of(words: list[str]) -> int:
    try:
        # The line of `disk_errors` is for what no command has caught for itself.
        with brief_spinning(), disk_errors(folders="it"):
            return _dispatch(words)
    except SystemExit as stop:  # --help and --version have printed what was asked for
        return int(stop.code or DONE)
    except UserError as error:
        print(f"error: {clean(error)}", file=sys.stderr)
        return WRONG_INPUT
    except BrokenPipeError:
        # `| head` has read enough. What is still buffered must not fail at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, stopping.Stopped) else signal.SIGINT
        with suppress(OSError):  # the terminal may be gone
            print(stopping.line(number), file=sys.stderr, flush=True)
        return BY_SIGNAL + number


def _dispatch(words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        _overview().parse_args(words or ["--help"])
    name = words[0]
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}", fix=did_you_mean(name, COMMANDS))
    status: int = importlib.import_module(COMMANDS[name].module).main(words[1:])
    return status


def _overview() -> Parser:
    """The parser of what stands before any command: its help lists the commands."""
    parser = Parser(
        prog="tdabench",
        description="Benchmark of training-data attribution for language models.",
        epilog="Each command prints its own help: tdabench COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"tdabench {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary)
    return parser
