"""The dialogue of ``tdabench fetch``: say what would be downloaded, ask, download."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.core import progress
from bench.core.errors import UserError
from bench.core.escape import clean
from bench.fetch.download import bytes_there, download, is_whole
from bench.fetch.remote import Remote, look
from bench.storage.disk import disk_errors
from bench.storage.locks import exclusive


def fetch(names: Sequence[str], base: str, folder: Path, yes: bool) -> None:
    """Fetch files that are not there yet.

    Args:
        base: the address of their folder on the server.
        folder: the folder that they go into; made if missing.
        yes: download without asking.

    Raises:
        UserError: a download that nobody has agreed to, and all that can go wrong with one.
    """
    looked = progress.track(names, "ask the server", unit="files")
    remotes = [look(name, base) for name in looked]
    checked = progress.track(remotes, "check what is there", unit="files")
    with disk_errors(folder, "--out"):
        wanted = [remote for remote in checked if not is_whole(folder / remote.name, remote)]
    print(
        f"{len(remotes) - len(wanted):,} of {len(remotes):,} files are in {clean(folder)} already"
    )
    if not wanted:
        return
    to_come = _announce(wanted, base, folder)
    _check_folder(folder, to_come)
    if not (yes or agreed()):
        return
    with exclusive(folder):
        for remote in wanted:
            came = download(remote, base, folder)
            print(f"{clean(folder / came.name)}: {_verified(came)}", flush=True)


def _announce(wanted: list[Remote], base: str, folder: Path) -> int:
    """Print what will be downloaded; returns its bytes, as far as they are known."""
    print(f"from {clean(base)}:")
    to_come = 0
    for remote in wanted:
        there = bytes_there(folder, remote)
        to_come += (remote.size or there) - there
        size = "unknown size" if remote.size is None else f"{remote.size:,} bytes"
        resumed = f", {there:,} of them are here" if there else ""
        replaced = ", replaces another version" if (folder / remote.name).exists() else ""
        print(f"  {remote.name}  {size}{resumed}{replaced}")
    at_least = "at least " if any(remote.size is None for remote in wanted) else ""
    print(f"to download into {clean(folder)}: {len(wanted):,} files, {at_least}{to_come:,} bytes")
    return to_come


def _verified(remote: Remote) -> str:
    checks = [*(["size"] if remote.size is not None else []), *sorted(remote.digests)]
    return f"{', '.join(checks)} verified" if checks else "the server gives nothing to verify it by"


def _check_folder(folder: Path, n_bytes: int) -> None:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        what = "no permission to write" if existing.is_dir() else "is no folder"
        raise UserError(what, where=str(existing), fix="choose another --out")
    free = shutil.disk_usage(existing).free
    if free < n_bytes:
        raise UserError(
            f"{n_bytes:,} bytes do not fit: {free:,} are free",
            where=str(folder),
            fix="choose another --out, or name fewer files",
        )


def agreed() -> bool:
    """Ask whether to go on, and say so if not. Raises UserError where nobody can answer."""
    if _confirmed("Go on? [y/N] "):
        return True
    print("nothing is downloaded")
    return False


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError("nothing is downloaded unasked", fix="add --yes, or run it in a terminal")
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False
