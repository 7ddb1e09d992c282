"""``tdabench fetch trex|c4|results``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.cli.commands import Parser, parser_of
from bench.core.errors import UserError, did_you_mean
from bench.core.escape import clean
from bench.fetch.releases import BASE, RELEASES, chosen_files

_RESULTS = "results"


def _parser() -> Parser:
    parser = parser_of("fetch")
    parser.add_argument(
        "release",
        metavar="trex|c4|results",
        help="facts, sentences and rankings of T-REx, rankings of C4 (C4 itself is elsewhere), or "
        "the cells that runs have kept at their remote_dir",
    )
    parser.add_argument(
        "files",
        nargs="*",
        default=[],
        metavar="FILE",
        help="names or globs (default: all but the sample of facts, which is reported broken); "
        "the remote_dir with results",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where the files go (default: data/trex, data/c4, runs)",
    )
    parser.add_argument(
        "--base",
        metavar="URL",
        help=f"a mirror's folder, of which any file may be named (default: {BASE})",
    )
    parser.add_argument(
        "--stream",
        metavar="DATASET",
        help="c4 only: not the release but the first documents of a data set of the Hugging Face "
        "Hub (allenai/c4) or of a local folder, written as shards for task=c4; takes "
        "tdabench[datasets]",
    )
    parser.add_argument("--documents", type=int, metavar="N", help="how many, with --stream")
    parser.add_argument("--subset", metavar="NAME", help="such as en, with --stream")
    parser.add_argument(
        "--split", default="train", metavar="NAME", help="with --stream (default: %(default)s)"
    )
    parser.add_argument(
        "--revision", metavar="NAME", help="a commit of the data set, with --stream"
    )
    parser.add_argument("--yes", action="store_true", help="download without asking")
    return parser


def main(words: Sequence[str]) -> int:
    """Say what would be downloaded, ask, and download; returns 0.

    Raises:
        UserError: anything that the user can mend, and a download that nobody has agreed to.
    """
    options = _parser().parse_args(words)
    if options.release == _RESULTS:
        return _results(options)
    if options.release not in RELEASES:
        known = (*RELEASES, _RESULTS)
        raise UserError(
            f"unknown release {options.release!r}", fix=did_you_mean(options.release, known)
        )
    folder = options.out or Path("data") / options.release
    if options.stream is not None:
        return _stream(options, folder)
    for name in ("documents", "subset", "revision"):
        if getattr(options, name) is not None:
            raise UserError(
                "says what to take of a data set, and none is named",
                where=f"--{name}",
                fix="add --stream, such as --stream allenai/c4",
            )
    base = BASE if options.base is None else options.base
    if not base.startswith(("http://", "https://")):
        raise UserError(
            "is no address of a server", where=f"--base {base}", fix="begin with https://"
        )
    names = chosen_files(RELEASES[options.release], options.files, options.base is not None)
    from bench.fetch.fetching import fetch

    fetch(names, base, folder, options.yes)
    return 0


def _results(options: argparse.Namespace) -> int:
    others = (options.stream, options.base, options.documents, options.subset, options.revision)
    if len(options.files) != 1 or others != (None,) * len(others):
        raise UserError(
            "takes the remote_dir of the runs and nothing else",
            where="fetch results",
            fix="tdabench fetch results s3://bucket/tdabench --out runs",
        )
    from bench.storage.mirror import mirrors

    folder = options.out or Path("runs")
    results, _ = mirrors(options.files[0], folder, folder)
    cells, damaged = results.finished(), 0
    if not cells:
        raise UserError("no finished cell is there", where=str(results.url), fix="check remote_dir")
    for cell in cells:
        try:
            results.bring_folder(cell)
        except UserError as error:
            print(f"error: {clean(error)}", file=sys.stderr)
            damaged += 1
    print(
        f"{len(cells) - damaged:,} of {len(cells):,} cells; compare them: "
        f"tdabench report {shlex.quote(str(folder))}"
    )
    return 1 if damaged else 0


def _stream(options: argparse.Namespace, folder: Path) -> int:
    if options.release != "c4" or options.files or options.base is not None:
        raise UserError(
            "writes shards for task=c4, and takes neither files nor --base",
            where="--stream",
            fix="tdabench fetch c4 --stream allenai/c4 --subset en --documents N",
        )
    if options.documents is None:
        raise UserError("how many?", where="--documents", fix="add --documents N")
    from bench.fetch.fetching import agreed
    from bench.fetch.streaming import Stream, write_shards

    stream = Stream(options.stream, options.subset, options.split, options.revision)
    what = f"{options.documents:,} documents of {clean(stream.dataset)}"
    print(f"to stream into {clean(folder)}: {what}")
    if not (options.yes or agreed()):
        return 0
    shards = write_shards(stream, options.documents, folder)
    pattern = folder / shards[0].name.replace(".00000.", ".*.")
    print(f"shards: {len(shards):,}; use them: task=c4 {shlex.quote(f'task.passages={pattern}')}")
    return 0
