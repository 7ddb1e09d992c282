"""What a plan says is read to check indexes, beside what runs of the same settings read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from bench.plan.measuring import TRAIN
from bench.plan.planning import plan_settings
from bench.plan.sweep import CellCost, _labels, costs
from bench.run.composing import sweep
from bench.storage import hashes
from methods.costs import CHECK_INDEX, ENCODE_CORPUS
from methods.gradient import index
from tests.fixtures.runs import SMALL, run

WORDS = ("metric=attribution", "quiet=true")
PROCESSES = ("engine=processes", "engine.workers=1")
SHARING = "method=grad_dot,grad_cos"
FORMATS = ("method=grad_cos", "method.storage=fp32,int8,fp32")


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes of features of each shard that this process reads to check it, in order."""
    found: list[int] = []
    original = hashes.stream_sha256

    def counted(stream: IO[bytes]) -> str:
        if Path(stream.name).match("shard-*.npy"):  # no file of a task or a model
            found.append(np.load(stream.name, mmap_mode="r").nbytes)
        return original(stream)

    monkeypatch.setattr(hashes, "stream_sha256", counted)
    monkeypatch.setattr(index, "SHARD_ROWS", 64)  # several; those of a plan are of any size
    hashes._known.clear()
    yield found
    hashes._known.clear()


def planned(*words: str) -> list[CellCost]:
    cells = sweep([*SMALL, *WORDS, *words, "plan.device_tflops=1"])
    return costs(_labels(cells), map(plan_settings, cells))


def to_check(cells: list[CellCost]) -> int:
    return sum(step.bytes_read for c in cells for step in c.passes if step.name == CHECK_INDEX)


def test_what_a_run_writes_itself_it_does_not_read_to_check(tmp_path: Path, checked) -> None:
    """Fault: each shard was hashed when it was written, and again by each cell."""
    for words in ((SHARING,), FORMATS):
        assert run(tmp_path / "runs", tmp_path / "cache", "-m", *WORDS, *words) == 0
        assert sum(checked) == to_check(planned(*words)) == 0


@pytest.mark.parametrize("words", [(SHARING,), FORMATS])
def test_what_others_wrote_is_read_once(tmp_path: Path, checked, words) -> None:
    words = (*PROCESSES, *words)
    assert run(tmp_path / "runs", tmp_path / "cache", "-m", *WORDS, *words) == 0
    cells = planned(*words)
    assert sum(checked) == to_check(cells) == sum(cell.index_bytes for cell in cells)
    assert len(checked) > len(cells)


def test_a_later_command_reads_it_once(tmp_path: Path, checked) -> None:
    """It does so as the plan's note says, whatever the number of its cells."""
    assert run(tmp_path / "a", tmp_path / "cache", *WORDS, "method=grad_dot") == 0
    hashes._known.clear()
    assert run(tmp_path / "b", tmp_path / "cache", "-m", *WORDS, SHARING) == 0
    (cell,) = planned("method=grad_dot")
    assert sum(checked) == cell.index_bytes > 0
    assert "A later command that opens the index reads all of it once" in cell.plan.notes[0]


def test_without_an_index_nothing_is_checked(tmp_path: Path, checked) -> None:
    words = ("method=grad_cos", "method.storage=none", *PROCESSES)
    assert run(tmp_path / "runs", tmp_path / "cache", *WORDS, *words) == 0
    (cell,) = planned(*words)
    assert sum(checked) == to_check([cell]) == 0
    assert "opens the index" not in cell.plan.notes[0]


def test_several_devices_write_apart() -> None:
    """They do so whatever the engine of the settings is."""
    one, two = planned("method=grad_cos"), planned("method=grad_cos", "plan.devices=2")
    assert to_check(one) == 0
    assert to_check(two) == two[0].index_bytes
    (check,) = [step for step in two[0].passes if step.name == CHECK_INDEX]
    hours = two[0].plan.disk_hours(check)
    assert hours == pytest.approx(two[0].index_bytes / 1e9 / 3600), "it is not shared out"


def test_another_format_is_read_from_the_exact_one() -> None:
    exact, coarse, _ = planned(*FORMATS)
    assert [step.name for step in exact.passes[:2]] == [TRAIN, ENCODE_CORPUS]
    step = coarse.passes[0]
    assert (step.name, step.flops) == ("translate the index from fp32", 0)
    assert step.bytes_read == exact.index_bytes
    assert step.bytes_written == coarse.index_bytes
    assert exact.index_bytes > coarse.index_bytes > 0


def test_shares_of_tokens_are_told_of_and_not_counted() -> None:
    (plain,), (apart,) = planned("method=grad_cos"), planned("method=grad_cos", "spans=true")
    assert apart.plan.passes == plain.plan.passes
    (note,) = set(apart.plan.notes) - set(plain.plan.notes)
    assert "spans=true" in note
