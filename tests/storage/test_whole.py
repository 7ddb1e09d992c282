"""Whole or not at all: what a failure half way leaves behind, and how it reads."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.storage import whole as storage
from bench.storage.whole import (
    content_key,
    disk_errors,
    exclusive,
    file_sha256,
    resumable_folder,
    whole_file,
    whole_folder,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(list(value))}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@given(st.dictionaries(st.text(), JSON, min_size=2, max_size=4))
def test_key_ignores_the_order_of_dictionaries(value):
    assert content_key(value) == content_key(reversed_keys(value))


def test_key_sees_the_order_of_lists_types_and_length():
    different = [[1, 2], [2, 1], ["1", 2], [1, 2.5], {"1": 2}, [[1], 2], [True, 2], [None, 2]]
    assert len({content_key(value) for value in different}) == len(different)
    assert len(content_key(1, length=64)) == 64
    assert content_key(1, length=64).startswith(content_key(1))
    assert content_key({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()[:16]


def test_key_of_a_file_name_that_is_no_utf8():
    assert content_key(os.fsdecode(b"x\xff")) != content_key("x")


def test_file_sha256(tmp_path):
    data = bytes(range(256)) * 10_000  # more than two blocks
    (tmp_path / "x").write_bytes(data)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_folder_appears_only_when_whole(tmp_path):
    target = tmp_path / "deep" / "target"
    with whole_folder(target) as partial:
        (partial / "a").write_text("1")
        assert not target.exists()
        assert partial.parent == target.parent, "a rename must not cross file systems"
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert (target / "a").read_text() == "1"
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_leaves_no_folder(tmp_path, error):
    def fail_half_way():
        with whole_folder(tmp_path / "target") as partial:
            (partial / "a").write_text("1")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_the_copy_that_was_there_first_stays(tmp_path):
    target = tmp_path / "target"
    with whole_folder(target) as partial:
        (partial / "a").write_text("mine")
        target.mkdir()
        (target / "a").write_text("theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (target / "a").read_text() == "theirs"


def test_a_full_disk_while_renaming_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "rename", full)
    with (
        pytest.raises(UserError, match="target: the disk is full; free some space"),
        whole_folder(tmp_path / "target") as partial,
    ):
        (partial / "a").write_text("1")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_writing_into_a_folder(tmp_path):
    with pytest.raises(UserError, match="the disk is full"), whole_folder(tmp_path / "target"):
        full()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_file_appears_only_when_whole(tmp_path, mode):
    target = tmp_path / "deep" / "x"
    content = "ü\n" if mode == "w" else b"\x00\n"
    with whole_file(target, mode) as stream:
        stream.write(content)
        assert not target.exists()
    data = target.read_bytes()
    assert data == (content.encode() if mode == "w" else content)
    assert [path.name for path in target.parent.iterdir()] == ["x"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_keeps_the_old_file(tmp_path, error):
    target = tmp_path / "x"
    target.write_text("old")

    def fail_half_way():
        with whole_file(target) as stream:
            stream.write("new")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert target.read_text() == "old"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_while_writing_a_file(tmp_path, monkeypatch, step):
    target = tmp_path / "x"
    target.write_text("old")
    monkeypatch.setattr(os, step, full)
    with (
        pytest.raises(UserError, match="x: the disk is full; free some space") as caught,
        whole_file(target) as stream,
    ):
        stream.write("new")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert target.read_text() == "old"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_disk_that_is_really_full():
    from pathlib import Path

    with (
        pytest.raises(UserError, match="the disk is full"),
        disk_errors(Path("out")),
        open("/dev/full", "w") as stream,
    ):
        stream.write("x" * 100_000)


@pytest.mark.parametrize("writer", [whole_file, whole_folder])
def test_a_file_in_the_way_of_a_folder(tmp_path, writer):
    (tmp_path / "x").write_text("")
    for target in (tmp_path / "x" / "y", tmp_path / "x" / "y" / "z"):
        with pytest.raises(UserError, match="a file is where a folder should be"), writer(target):
            pass
    assert (tmp_path / "x").is_file()


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "no permission to write"),
        (errno.EROFS, "read-only"),
    ],
)
def test_other_disk_errors_are_named(tmp_path, number, what):
    with pytest.raises(UserError, match=what), disk_errors(tmp_path):
        raise OSError(number, "x")


def test_an_error_that_is_no_condition_of_the_disk_stays_itself(tmp_path):
    with pytest.raises(OSError, match="Bad file"), disk_errors(tmp_path):
        raise OSError(errno.EBADF, "Bad file descriptor")


@pytest.mark.parametrize("writer", [whole_file, whole_folder])
def test_what_a_killed_process_left_is_removed(tmp_path, writer):
    here, alive = storage._here(), os.getpid()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = tmp_path / f".x.partial-{here}-{process.pid}-a"
    kept = [
        tmp_path / f".x.partial-{here}-{alive}-other-thread",
        tmp_path / f".x.partial-00000000-{process.pid}-a",  # of another machine
        tmp_path / f".y.partial-{here}-{process.pid}-a",  # of another target
        tmp_path / f".x.partial-{here}-odd",
    ]
    for path in (dead, *kept):
        path.mkdir()
    dead_file = tmp_path / f".x.partial-{here}-{process.pid}-"
    dead_file.write_text("half")
    with writer(tmp_path / "x"):
        pass
    assert not dead.exists()
    assert not dead_file.exists()
    assert all(path.exists() for path in kept)
    assert (tmp_path / "x").exists()


# ------------------------------------------------------------------ folders that are gone on with


class Stop(Exception):  # noqa: N818
    pass


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_resumable_folder_stays_until_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with contextlib.suppress(Stop), resumable_folder(target) as folder:
        assert folder is not None
        (folder / "first").touch()
        raise Stop
    assert names_in(tmp_path) == [".target.unfinished"]
    with resumable_folder(target) as folder:
        assert folder is not None
        assert names_in(folder) == ["first"]
        (folder / "second").touch()
    assert names_in(tmp_path) == ["target"]
    assert names_in(target) == ["first", "second"]


def test_a_block_may_leave_nothing(tmp_path: Path) -> None:
    with contextlib.suppress(Stop), resumable_folder(tmp_path / "target") as folder:
        assert folder is not None
        folder.rmdir()
        raise Stop
    assert names_in(tmp_path) == []


def test_one_at_a_time_has_a_resumable_folder(tmp_path: Path) -> None:
    """Others wait, and then find it done."""
    order: list[str] = []

    def second() -> None:
        with resumable_folder(tmp_path / "target") as folder:
            order.append("work again" if folder else "there")

    with resumable_folder(tmp_path / "target") as folder:
        assert folder is not None
        other = threading.Thread(target=second)
        other.start()
        other.join(0.2)
        order.append("done")
    other.join()
    assert order == ["done", "there"]
    assert names_in(tmp_path) == ["target"]


def test_who_waits_for_a_folder_that_is_removed_has_a_new_one(tmp_path: Path) -> None:
    had, go = threading.Event(), threading.Event()

    def hold_and_remove() -> None:
        with exclusive(tmp_path / "f"):
            had.set()
            go.wait(30)
            shutil.rmtree(tmp_path / "f")

    other = threading.Thread(target=hold_and_remove)
    other.start()
    assert had.wait(30)
    threading.Timer(0.3, go.set).start()  # by then we wait for the lock
    with exclusive(tmp_path / "f"):
        (tmp_path / "f" / "ours").touch()
    other.join()
    assert (tmp_path / "f" / "ours").exists()
