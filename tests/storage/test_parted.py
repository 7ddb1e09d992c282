"""Folders made of parts, and scores that jobs leave in parts of a file."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from bench.storage.mirror import Mirror
from bench.storage.parted import open_or_merge, rows_part
from bench.storage.score_parts import (
    ScorePart,
    add_leftovers,
    add_parts,
    part_folder,
    part_path,
    read_part,
    whole_of,
    write_part,
)
from bench.storage.scores import ScoreFile
from bench.storage.sealed import DamagedError

KEYS = [(os.urandom(16), os.urandom(16)) for _ in range(4)]


def merged(folder: Path, fail: bool = False, parts: int = 1) -> dict[str, Any]:
    def make(unfinished: Path, folder_of_parts: Path) -> dict[str, Any]:
        for number in range(parts):
            rows_part(folder_of_parts, range(number, number + 1)).write_text("part")
        if fail:
            raise KeyboardInterrupt
        (unfinished / "whole").write_text("all")
        return {"parts": sorted(path.name for path in folder_of_parts.glob("rows-*"))}

    return open_or_merge(folder, "thing", {"made": "from this"}, make, Mirror(folder.parent))


def test_a_folder_is_made_of_parts_once_and_they_are_removed(tmp_path: Path) -> None:
    facts = merged(tmp_path / "key", parts=2)
    assert facts["parts"] == ["rows-0-1.safetensors", "rows-1-2.safetensors"]
    assert merged(tmp_path / "key", fail=True) == facts, "it is there"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_parts_stay_while_the_folder_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        merged(tmp_path / "key", fail=True, parts=2)
    assert len(list((tmp_path / "key.parts").glob("rows-*"))) == 2
    assert len(merged(tmp_path / "key", parts=1)["parts"]) == 2
    with pytest.raises(KeyboardInterrupt):
        merged(tmp_path / "other", fail=True, parts=0)
    assert [path.name for path in tmp_path.iterdir()] == ["key"], "there was no part to keep"


def test_parts_of_a_run_that_was_killed_before_it_removed_them(tmp_path: Path) -> None:
    facts = merged(tmp_path / "key")
    (tmp_path / "key.parts").mkdir()
    rows_part(tmp_path / "key.parts", range(1)).write_text("part")
    assert merged(tmp_path / "key", fail=True) == facts
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_part_of_scores_is_read_as_it_was_written(tmp_path: Path) -> None:
    scores = dict(zip(KEYS, [0.1, math.inf, -1e-300, math.nan], strict=True))
    write_part(part_path(tmp_path, "a"), ScorePart(scores, {KEYS[1]}, {"cut": 3}))
    part = read_part(part_path(tmp_path, "a"))
    assert list(part.scores) == KEYS
    assert list(part.scores.values())[:3] == [0.1, math.inf, -1e-300]
    assert math.isnan(part.scores[KEYS[3]])
    assert (set(part.passing), part.counts) == ({KEYS[1]}, {"cut": 3})
    part_path(tmp_path, "a").rename(part_path(tmp_path, "b"))
    with pytest.raises(DamagedError, match="damaged scores of a job"):
        read_part(part_path(tmp_path, "b"))


def test_scores_are_added_but_those_for_one_run_alone(tmp_path: Path) -> None:
    file = ScoreFile(tmp_path / "judge.scores")
    with part_folder(file) as folder:
        write_part(part_path(folder, "a"), ScorePart(dict.fromkeys(KEYS[:2], 0.5), [KEYS[1]]))
        parts = [read_part(part_path(folder, "a"))]
        add_parts(file, parts, Mirror(tmp_path), whole_of(file, ["a"]))
    assert file.known(KEYS) == {KEYS[0]: 0.5}
    assert not folder.exists()


def test_leftovers_of_killed_runs_are_added_and_those_of_others_stay(tmp_path: Path) -> None:
    file = ScoreFile(tmp_path / "judge.scores")
    dead = tmp_path / "judge.parts" / "of a run that is no more"
    write_part(part_path(dead, "a"), ScorePart({KEYS[0]: 0.5}))
    with part_folder(file) as alive:
        write_part(part_path(alive, "b"), ScorePart({KEYS[1]: 0.25}))
        add_leftovers(file, Mirror(tmp_path))
        assert file.known(KEYS) == {KEYS[0]: 0.5}
        assert part_path(alive, "b").exists()
        assert not dead.exists()
