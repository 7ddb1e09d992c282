"""Outcomes of jobs come in the jobs' order, whoever made them, and damaged ones are made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.engines.base import Job
from bench.engines.outcomes import outcomes, unless_single
from bench.engines.serial import Serial
from bench.storage.sealed import read_record, write_record
from tests.fixtures.engine_jobs import engine

KIND = "square"


def square(path: Path, number: int) -> None:
    write_record(path, KIND, {"square": number**2})


def read(path: Path) -> int:
    return read_record(path, KIND)["square"]


def jobs(folder: Path, numbers: list[int]) -> list[Job]:
    return [Job(square, (folder / f"{n}.json", n), folder / f"{n}.json") for n in numbers]


@pytest.mark.parametrize("name", ["serial", pytest.param("processes", marks=pytest.mark.slow)])
def test_outcomes_come_in_the_order_of_jobs(tmp_path: Path, name: str) -> None:
    asked = jobs(tmp_path, [3, 1, 2, 3])
    assert list(outcomes(asked, read, engine(name), "square", "numbers")) == [9, 1, 4, 9]


def test_what_is_there_is_read_and_what_is_damaged_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_record(tmp_path / "2.json", KIND, {"square": 100})  # an earlier run's word is believed
    (tmp_path / "1.json").write_text("{}")
    asked = jobs(tmp_path, [1, 2])
    assert list(outcomes(asked, read, engine("serial"), "square", "numbers")) == [1, 100]
    assert (tmp_path / "1.json.damaged-1").read_text() == "{}"
    assert "damaged square" in capsys.readouterr().err


def test_a_single_job_is_no_reason_to_start_a_worker() -> None:
    many = engine("processes")
    assert unless_single(many, 2) is many
    assert isinstance(unless_single(many, 1), Serial)
    assert isinstance(unless_single(many, 0), Serial)
