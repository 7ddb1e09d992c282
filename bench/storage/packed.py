"""Folders as one zip file: the same bytes for the same content, and unpacked within bounds.

A zip may be a stranger's. Its names can climb out of any folder, its entries can be links, two
entries can have one name, and a few kilobytes of it can stand for any number of bytes.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench.core.errors import UserError
from bench.storage.bounds import open_regular
from bench.storage.whole_files import whole_file

# What is read of a packed folder, and of one that is not packed. A cell of 5,400 queries with lists
# of 100 passages, less their texts, has about 100 MB, of which half is left when it is packed.
MOST_FILES = 10_000
MOST_BYTES = 2 << 30
_MOST_PACKED = (2 << 30) - 1  # beyond it zip files have another form
_BLOCK = 1 << 20
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold: content alone makes the bytes
_MODE = (stat.S_IFREG | 0o644) << 16
_UNIX = 3
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_END = struct.Struct("<4s4H2IH")  # how a zip file ends: how long its list of entries is, and where
_LAST, _LARGER, _LOCATOR = b"PK\5\6", b"PK\6\7", 20
_MOST_ENTRY = 2048  # bytes in the list: 46, the name twice over, some times


def pack(folder: Path, target: Path) -> None:
    """Write all files of a folder, in the order of their names, into a zip file.

    Raises:
        UserError: the disk does not take it.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with whole_file(target, "wb") as stream, zipfile.ZipFile(stream, "w") as packed:
        for path in files:
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _DATE)
            entry.create_system, entry.external_attr = _UNIX, _MODE
            entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, path.stat().st_size
            with open(path, "rb") as source, packed.open(entry, "w") as copy:
                while block := source.read(_BLOCK):
                    copy.write(block)


def unpack(path: Path, folder: Path, is_wanted: Callable[[str], bool]) -> None:
    """Write the files of a zip file below an empty folder.

    Args:
        is_wanted: whether a name may be there, and so be written. It has to refuse whatever climbs.

    Raises:
        UserError: it is no sound zip file, holds anything but wanted files, or is beyond a bound of
            this module.
    """
    with _readable(path), open_regular(path, _MOST_PACKED) as stream:
        _check_end(stream)
        with zipfile.ZipFile(stream) as packed:
            entries = [entry for entry in packed.infolist() if not entry.is_dir()]
            _check(entries, path, is_wanted)
            left = MOST_BYTES
            for entry in entries:
                target = folder.joinpath(*entry.filename.split("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(entry) as source, open(target, "xb") as copy:
                    # What is unpacked is counted: the size that an entry gives may be a lie.
                    while block := source.read(_BLOCK):
                        left -= len(block)
                        if left < 0:
                            raise _too_large(path)
                        copy.write(block)


def _check_end(stream: IO[bytes]) -> None:
    """Refuse a list of entries that is too long to be read at all, and forms that could hide one.

    zipfile makes an object of each entry before anybody can count them. How long the list is stands
    in the last 22 bytes, unless a comment follows or the record of a larger archive goes before.

    Raises:
        zipfile.BadZipFile: it is.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _LOCATOR - _END.size))
    tail = stream.read()
    if size < _END.size:
        raise zipfile.BadZipFile("it is too short")
    signature, *_, list_bytes, _, comment = _END.unpack(tail[-_END.size :])
    if signature != _LAST or comment or tail[-_END.size - _LOCATOR :].startswith(_LARGER):
        raise zipfile.BadZipFile("it does not end as one of this size does")
    if list_bytes > MOST_FILES * _MOST_ENTRY:
        raise zipfile.BadZipFile("its list of files is too long")
    stream.seek(0)


def _check(entries: list[zipfile.ZipInfo], path: Path, is_wanted: Callable[[str], bool]) -> None:
    """Refuse, before anything is unpacked, what the list of entries shows."""
    if len(entries) > MOST_FILES:
        raise UserError(
            f"holds {len(entries):,} files, and {MOST_FILES:,} are the most", where=str(path)
        )
    names: set[str] = set()
    for entry in entries:
        kind, name = stat.S_IFMT(entry.external_attr >> 16), entry.filename
        fault = ""
        if not is_wanted(name):
            fault = "does not belong there"
        elif kind not in (0, stat.S_IFREG):
            fault = "is a link, or no file at all"
        elif name.lower() in names:
            fault = "is there twice"
        elif entry.flag_bits & _ENCRYPTED or entry.compress_type not in _PACKED:
            fault = "is encrypted, or packed by another method than deflate"
        if fault:
            raise UserError(f"{name[:120]!r} {fault}", where=str(path))
        names.add(name.lower())
    if sum(entry.file_size for entry in entries) > MOST_BYTES:
        raise _too_large(path)


def _too_large(path: Path) -> UserError:
    return UserError(f"unpacks to more than {MOST_BYTES:,} bytes, the most", where=str(path))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what zipfile raises of a broken file into one line; it does so in many ways."""
    try:
        yield
    except (
        zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError,
        OverflowError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"is no sound zip file ({reason})", where=str(path)) from error
    except OSError as error:
        raise UserError(
            f"cannot be unpacked ({error.strerror or error})", where=str(path)
        ) from error
