"""Folders whole or not at all, and those that are gone on with."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.core.errors import UserError
from bench.storage.hashes import hashed_file
from bench.storage.scores import ScoreFile
from bench.storage.whole_files import whole_file
from bench.storage.whole_folders import resumable_folder, whole_folder
from tests.fixtures.helpers import full_disk


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
    monkeypatch.setattr(os, "rename", full_disk)
    with (
        pytest.raises(UserError, match="target: the disk is full; free some space"),
        whole_folder(tmp_path / "target") as partial,
    ):
        (partial / "a").write_text("1")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_writing_into_a_folder(tmp_path):
    with pytest.raises(UserError, match="the disk is full"), whole_folder(tmp_path / "target"):
        full_disk()
    assert list(tmp_path.iterdir()) == []


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


# ------------------------------------------------------------------ modes


@pytest.fixture(params=[0o022, 0o002, 0o077, 0o000])
def umask(request) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    paths = [folder, *folder.rglob("*")]
    return {path.relative_to(folder).as_posix(): path.stat().st_mode & 0o777 for path in paths}


@pytest.mark.parametrize("writer", [whole_folder, resumable_folder])
def test_modes_follow_the_umask(tmp_path: Path, umask: int, writer) -> None:
    """Fault: safetensors files were private, so that a shared cache was not shared."""
    with writer(tmp_path / "x") as folder:
        assert folder is not None
        (folder / "deep").mkdir()
        save_file({"a": torch.zeros(3)}, folder / "deep" / "a.safetensors")
        (folder / "b").touch()
    files = 0o666 & ~umask
    assert modes(tmp_path / "x") == {
        ".": 0o777 & ~umask, "deep": 0o777 & ~umask, "b": files, "deep/a.safetensors": files
    }  # fmt: skip


def test_modes_of_single_files_follow_the_umask(tmp_path: Path, umask: int) -> None:
    with whole_file(tmp_path / "a") as stream:
        stream.write("x")
    with hashed_file(tmp_path / "b") as stream:
        stream.write(b"x")
    ScoreFile(tmp_path / "c").add({(b"1" * 16, b"2" * 16): 1.0})
    assert {modes(tmp_path)[name] for name in "abc"} == {0o666 & ~umask}
