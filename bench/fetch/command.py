"""``tdabench fetch trex|c4``."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.errors import UserError, did_you_mean
from bench.fetch.releases import BASE, RELEASES, chosen_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the command."""
    parser.add_argument(
        "release",
        metavar="trex|c4",
        help="facts, sentences and rankings of T-REx, or rankings of C4 (C4 itself is elsewhere)",
    )
    parser.add_argument(
        "files",
        nargs="*",
        default=[],
        metavar="FILE",
        help="names or globs (default: all but the sample of facts, which is reported broken)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the files go (default: data/trex, data/c4)"
    )
    parser.add_argument(
        "--base",
        metavar="URL",
        help=f"a mirror's folder, of which any file may be named (default: {BASE})",
    )
    parser.add_argument("--yes", action="store_true", help="download without asking")


def main(options: argparse.Namespace) -> int:
    """Say what would be downloaded, ask, and download; returns 0.

    Raises:
        UserError: anything that the user can mend, and a download that nobody has agreed to.
    """
    if options.release not in RELEASES:
        raise UserError(
            f"unknown release {options.release!r}", fix=did_you_mean(options.release, RELEASES)
        )
    base = BASE if options.base is None else options.base
    if not base.startswith(("http://", "https://")):
        raise UserError(
            "is no address of a server", where=f"--base {base}", fix="begin with https://"
        )
    names = chosen_files(RELEASES[options.release], options.files, options.base is not None)
    folder = options.out or Path("data") / options.release
    from bench.fetch.fetching import fetch

    fetch(names, base, folder, options.yes)
    return 0
