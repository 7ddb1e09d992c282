"""Folders whole or not at all, and those that are gone on with."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from bench.core.errors import UserError
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
