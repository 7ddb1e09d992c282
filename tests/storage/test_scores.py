"""Score files: a damaged record is made again, a foreign one is not believed."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.storage.scores import ScoreFile
from tests.fixtures.helpers import files_below

KEYS = [(bytes([i]) * 16, bytes([i + 1]) * 16) for i in range(6)]
SCORES = dict(zip(KEYS, (0.0, -1.5, 1e300, 0.1, -0.0, math.inf), strict=True))


@pytest.fixture
def file(tmp_path: Path) -> ScoreFile:
    file = ScoreFile(tmp_path / "x.scores")
    file.add(SCORES)
    return file


def test_scores_come_back(file: ScoreFile) -> None:
    assert file.known(KEYS) == SCORES
    assert file.known([KEYS[1], (b"?" * 16, b"?" * 16)]) == {KEYS[1]: -1.5}
    file.add({KEYS[1]: 2.0})
    assert file.known(KEYS) == {**SCORES, KEYS[1]: 2.0}, "the last one counts"
    assert ScoreFile(file.path.with_name("none")).known(KEYS) == {}


def test_what_is_damaged_is_set_aside_and_what_is_sound_stays(file: ScoreFile, capsys) -> None:
    whole = file.path.read_bytes()
    rng = random.Random(0)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        file.path.write_bytes(flipped)
        lost = KEYS[place // 48]
        expected = {key: score for key, score in SCORES.items() if key != lost}
        assert file.known(KEYS) == expected
        assert file.damaged == 1
        (aside,) = file.path.parent.glob("x.scores.damaged-*")
        assert aside.read_bytes() == flipped
        assert "1 damaged records are made again" in capsys.readouterr().err
        aside.unlink()
        assert file.known(KEYS) == expected
        assert file.damaged == 0, "the file has been written anew"
        file.path.write_bytes(whole)


def test_a_file_that_was_exchanged_is_not_believed(file: ScoreFile) -> None:
    other = ScoreFile(file.path.with_name("y.scores"))
    other.path.write_bytes(file.path.read_bytes())
    assert other.known(KEYS) == {}
    assert other.damaged == len(KEYS)
    assert other.path.read_bytes() == b""
    other.add({KEYS[0]: 1.0})
    assert other.known(KEYS) == {KEYS[0]: 1.0}


@pytest.mark.parametrize("size", [0, 1, 47, 48, 100, 287])
def test_a_file_that_was_cut_keeps_its_whole_records(file: ScoreFile, size: int) -> None:
    file.path.write_bytes(file.path.read_bytes()[:size])
    assert file.known(KEYS) == dict(list(SCORES.items())[: size // 48])
    assert file.damaged == 0
    file.add({KEYS[5]: 3.0})
    assert file.known(KEYS[5:]) == {KEYS[5]: 3.0}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.scores")
    with pytest.raises(UserError, match="is no file"):
        ScoreFile(tmp_path / "x.scores").known(KEYS)


def test_a_full_disk_is_one_line_and_what_was_there_stays(file: ScoreFile) -> None:
    more = {(b"?" * 16, bytes([i]) * 16): 1.0 for i in range(6)}
    with files_below(300), pytest.raises(UserError, match=r"x\.scores: the file is larger than"):
        file.add(more)
    assert file.known(KEYS) == SCORES
    file.add(more)
    assert file.known(more) == more
    assert file.damaged == 0
