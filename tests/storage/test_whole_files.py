"""Files whole or not at all: what a failure half way leaves behind, and how it reads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.core.errors import UserError
from bench.storage import whole_files
from bench.storage.whole_files import whole_file
from bench.storage.whole_folders import whole_folder
from tests.fixtures.helpers import full_disk


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
    monkeypatch.setattr(os, step, full_disk)
    with (
        pytest.raises(UserError, match="x: the disk is full; free some space") as caught,
        whole_file(target) as stream,
    ):
        stream.write("new")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert target.read_text() == "old"


@pytest.mark.parametrize("writer", [whole_file, whole_folder])
def test_a_file_in_the_way_of_a_folder(tmp_path, writer):
    (tmp_path / "x").write_text("")
    for target in (tmp_path / "x" / "y", tmp_path / "x" / "y" / "z"):
        with pytest.raises(UserError, match="a file is where a folder should be"), writer(target):
            pass
    assert (tmp_path / "x").is_file()


@pytest.mark.parametrize("writer", [whole_file, whole_folder])
def test_what_a_killed_process_left_is_removed(tmp_path, writer):
    here, alive = whole_files._here(), os.getpid()
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
