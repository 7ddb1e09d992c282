"""Hashes that are kept: never of other bytes than the file has, and not read again without need."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.storage import hashes
from bench.storage.hashes import file_sha256, hashed_file


@pytest.fixture(autouse=True)
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files whose bytes were read, in order; nothing is known at first."""
    found: list[str] = []
    original = hashes.stream_sha256

    def noted(stream: IO[bytes]) -> str:
        found.append(Path(stream.name).name)
        return original(stream)

    monkeypatch.setattr(hashes, "stream_sha256", noted)
    hashes._known.clear()
    yield found
    hashes._known.clear()


@pytest.fixture(params=["fine", "coarse"])
def clock(request, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the file system as it is, or one that ticks once a second."""
    if request.param == "fine":
        return
    original, tick = os.fstat, 10**9

    def fstat(number: int) -> SimpleNamespace:
        found = original(number)
        names = [name for name in dir(found) if name.startswith("st_")]
        times = {"st_mtime_ns", "st_ctime_ns"}
        values = {name: getattr(found, name) for name in names}
        return SimpleNamespace(**{n: v - v % tick * (n in times) for n, v in values.items()})

    monkeypatch.setattr(os, "fstat", fstat)


def written(path: Path, content: bytes = b"0123456789") -> Path:
    with hashed_file(path) as stream:
        stream.write(content)
    return path


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_is_hashed_while_it_is_written(tmp_path: Path, read, order) -> None:
    array = np.arange(3 * 70_000, dtype=np.float32).reshape(70_000, 3).copy(order)
    np.save(tmp_path / "plain.npy", array)
    with hashed_file(tmp_path / "x.npy") as hashed:
        np.save(hashed, array, allow_pickle=False)
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "plain.npy").read_bytes()
    assert hashed.sha256 == file_sha256(tmp_path / "x.npy")
    assert read == []
    assert hashed.sha256 == file_sha256(tmp_path / "plain.npy")


@pytest.mark.usefixtures("clock")
def test_a_file_is_read_once_by_a_process_that_did_not_write_it(tmp_path: Path, read) -> None:
    path = written(tmp_path / "x")
    file_sha256(path)
    assert read == []
    hashes._known.clear()
    expected = hashlib.sha256(b"0123456789").hexdigest()
    assert [file_sha256(path) for _ in range(3)] == [expected] * 3
    assert read == ["x"]


@pytest.mark.usefixtures("clock")
def test_other_bytes_of_the_same_length_are_noticed_however_soon(tmp_path: Path) -> None:
    """Fault: two writes in one tick of the clock have the same time."""
    path = tmp_path / "x"
    for number in range(300):
        content = number.to_bytes(8, "little")
        if number % 2:
            written(path, content)
        else:
            file_sha256(written(path, b"anything"))
            with open(path, "r+b") as stream:  # in place
                stream.write(content)
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()
        path.write_bytes(content[::-1])
        assert file_sha256(path) == hashlib.sha256(content[::-1]).hexdigest()


@pytest.mark.usefixtures("clock")
def test_a_write_just_after_a_hash_was_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for number in range(300):
        content = number.to_bytes(8, "little")
        path.write_bytes(content)
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()


def test_a_time_that_was_put_back_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "x")
    before = path.stat()
    time.sleep(0.02)
    path.write_bytes(b"9876543210")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert file_sha256(path) == hashlib.sha256(b"9876543210").hexdigest()


def test_another_file_of_the_same_times_is_noticed(tmp_path: Path) -> None:
    path, other = written(tmp_path / "x"), tmp_path / "y"
    other.write_bytes(b"9876543210")
    before = path.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)
    assert file_sha256(path) == hashlib.sha256(b"9876543210").hexdigest()


def test_a_copy_is_known_once_it_is_old(tmp_path: Path, read, monkeypatch) -> None:
    """As ``cp`` leaves it: written and changed at one time."""
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    now = path.stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: now + hashes._LONG_NS)
    seen = (*hashes._state(path.open("rb"))[:3], now, now)
    monkeypatch.setattr(hashes, "_state", lambda _: seen)
    for _ in range(2):
        file_sha256(path)
    assert len(read) == 2
    monkeypatch.setattr(time, "time_ns", lambda: now + hashes._LONG_NS + 1)
    for _ in range(2):
        file_sha256(path)
    assert len(read) == 3


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch) -> None:
    """Its bytes, some old and some new, are hashed; nothing of that is kept for the new file."""
    path = written(tmp_path / "x")
    hashes._known.clear()
    original = hashes.stream_sha256

    def changed_before(stream: IO[bytes]) -> str:
        path.write_bytes(b"anything")
        found = original(stream)
        path.write_bytes(b"9876543210")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(hashes, "stream_sha256", changed_before)
        file_sha256(path)
    assert file_sha256(path) == hashlib.sha256(b"9876543210").hexdigest()


def test_what_another_process_put_there_is_not_taken_for_ours(tmp_path: Path, monkeypatch) -> None:
    replace, path = os.replace, tmp_path / "x"

    def overtaken(source: Path, target: Path) -> None:
        replace(source, target)
        theirs = tmp_path / "theirs"
        theirs.write_bytes(b"9876543210")
        os.utime(theirs, ns=(0, 0))
        replace(theirs, target)

    monkeypatch.setattr(os, "replace", overtaken)
    written(path)
    assert file_sha256(path) == hashlib.sha256(b"9876543210").hexdigest()


def test_where_times_cannot_be_set_nothing_is_wrong(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    for number in range(50):
        path = written(tmp_path / "x", number.to_bytes(8, "little"))
        content = number.to_bytes(8, "little")
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()
        path.write_bytes(b"anything")
        assert file_sha256(path) == hashlib.sha256(b"anything").hexdigest()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with hashed_file(tmp_path / "x") as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    assert hashes._known == {}
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file is where a folder should be"):
        written(tmp_path / "file" / "x")


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    written(tmp_path / "x").unlink()
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "x")


def test_file_sha256(tmp_path):
    data = bytes(range(256)) * 10_000  # more than two blocks
    (tmp_path / "x").write_bytes(data)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()
