"""Jobs that machines share through a store: none is lost or done twice, no damage is believed."""

from __future__ import annotations

import pickle
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.engines import Engine
from bench.engines.base import Job
from bench.engines.outcomes import outcomes
from bench.engines.serial import Serial, SerialConfig
from bench.storage.mirror import Mirror
from bench.storage.sealed import read_record, write_record
from bench.storage.sharing import MergedElsewhereError, Sharing, merged_file
from tests.fixtures.engine_jobs import engine
from tests.fixtures.stores import machine

KIND = "square"
SERIAL = Serial(SerialConfig())
done: list[tuple[str, int]] = []


def square(path: Path, number: int, seconds: float = 0.0) -> None:
    done.append((path.parent.parent.name, number))
    time.sleep(seconds)
    write_record(path, KIND, {"square": number**2})


def read(path: Path) -> int:
    return int(read_record(path, KIND)["square"])


def write(path: Path, value: int) -> None:
    write_record(path, KIND, {"square": value})


def jobs(folder: Path, numbers: Sequence[int], seconds: float = 0.0) -> list[Job]:
    paths = {number: folder / "parts" / f"{number}.json" for number in numbers}
    return [Job(square, (path, number, seconds), path) for number, path in paths.items()]


def squares(sharing: Sharing, numbers: Sequence[int], on: Engine = SERIAL) -> list[int]:
    asked = jobs(sharing.mirror.local, numbers)
    return list(outcomes(asked, read, on, "square", "numbers", sharing))


def summed(mirror: Mirror, numbers: Sequence[int], seconds: float = 0.0) -> int:
    """The sum of squares, whose parts are removed from the store once it is there."""
    folder = mirror.local

    def merge(whole: Path | None) -> int:
        asked = jobs(folder, numbers, seconds)
        return sum(outcomes(asked, read, SERIAL, "square", "numbers", Sharing(mirror, whole)))

    total, _ = merged_file(mirror, folder / "whole" / "sum.json", read, write, merge)
    mirror.drop(folder / "parts")
    return total


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    done.clear()


@pytest.mark.parametrize(
    "name", ["serial", "sent", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_what_a_machine_has_finished_no_other_does(store: Path, name: str) -> None:
    assert squares(Sharing(machine(store, "one")), [1, 2], engine(name)) == [1, 4]
    assert sorted(path.name for path in store.rglob("*.json")) == ["1.json", "2.json"]
    done.clear()
    assert squares(Sharing(machine(store, "two")), [3, 2, 1], engine("sent")) == [9, 4, 1]
    assert done == [("two", 3)]
    assert not [path for path in store.rglob("*") if ".partial-" in path.name]


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"kind": "square"}', None])
def test_a_damaged_copy_is_not_believed_and_is_replaced(
    store: Path, capsys: pytest.CaptureFixture, damage: bytes | None
) -> None:
    squares(Sharing(machine(store, "one")), [1, 2])
    (kept,) = store.rglob("2.json")
    # Of another number: the file says where it belongs.
    kept.write_bytes(next(store.rglob("1.json")).read_bytes() if damage is None else damage)
    done.clear()
    assert squares(Sharing(machine(store, "two")), [1, 2]) == [1, 4]
    assert done == [("two", 2)]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert line.endswith("and is made again")
    assert squares(Sharing(machine(store, "three")), [1, 2]) == [1, 4]
    assert len(done) == 1, "the copy is a sound one now"


def test_a_worker_looks_just_before_its_job(store: Path) -> None:
    """The other machine finishes its last job while this one is at its first."""
    one, two = machine(store, "one"), machine(store, "two")

    def both(path: Path, number: int) -> None:
        squares(Sharing(two), [1, 2, 3])
        square(path, number)

    asked = [Job(both, job.arguments[:2], job.target) for job in jobs(one.local, [1, 2, 3])]
    assert list(outcomes(asked, read, SERIAL, "square", "numbers", Sharing(one))) == [1, 4, 9]
    assert Counter(name for name, _ in done) == {"two": 3, "one": 1}


def test_what_was_made_without_a_store_is_kept_later(store: Path) -> None:
    squares(Sharing(Mirror(store.parent / "one")), [1])
    assert not list(store.rglob("*.json"))
    squares(Sharing(machine(store, "one")), [1, 2])
    assert len(list(store.rglob("*.json"))) == 2
    assert [number for _, number in done] == [1, 2]


def test_what_a_dead_worker_did_not_keep_is_kept(store: Path, monkeypatch) -> None:
    monkeypatch.setattr(Sharing, "do", lambda self, path, beside, work, **_: work())
    squares(Sharing(machine(store, "one")), [1, 2])
    assert len(list(store.rglob("*.json"))) == 2


def test_a_whole_takes_the_place_of_its_parts(store: Path) -> None:
    assert summed(machine(store, "one"), [1, 2, 3]) == 14
    assert [path.name for path in store.rglob("*") if path.is_file()] == ["sum.json"]
    assert summed(machine(store, "two"), [1, 2, 3]) == 14
    assert {name for name, _ in done} == {"one"}


def test_a_machine_that_is_at_work_takes_the_whole_that_another_has_merged(store: Path) -> None:
    """Parts are removed while the other machine needs them: it does none of them again."""
    one, two = machine(store, "one"), machine(store, "two")
    seen: list[int] = []

    def both(path: Path, number: int) -> None:
        seen.append(number)
        assert summed(two, [1, 2, 3]) == 14
        square(path, number)

    def merge(whole: Path | None) -> int:
        asked = [Job(both, job.arguments[:2], job.target) for job in jobs(one.local, [1, 2, 3])]
        return sum(outcomes(asked, read, SERIAL, "square", "numbers", Sharing(one, whole)))

    assert merged_file(one, one.local / "whole" / "sum.json", read, write, merge) == (14, False)
    assert len(seen) == 1
    assert Counter(name for name, _ in done) == {"two": 3, "one": 1}


def test_a_damaged_whole_is_merged_again(store: Path, capsys: pytest.CaptureFixture) -> None:
    summed(machine(store, "one"), [1, 2])
    (whole,) = store.rglob("sum.json")
    whole.write_bytes(whole.read_bytes()[:-1])
    assert summed(machine(store, "two"), [1, 2]) == 5
    assert "is made again" in capsys.readouterr().err
    assert summed(machine(store, "three"), [1, 2]) == 5
    assert Counter(name for name, _ in done) == {"one": 2, "two": 2}


def test_a_whole_that_is_damaged_while_a_machine_is_at_work(store: Path) -> None:
    one = machine(store, "one")
    whole = store / "tda" / "whole" / "sum.json"

    def spoil(path: Path, number: int) -> None:
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(b"{}")
        square(path, number)

    def merge(end: Path | None) -> int:
        asked = [Job(spoil, job.arguments[:2], job.target) for job in jobs(one.local, [1, 2])]
        return sum(outcomes(asked, read, SERIAL, "square", "numbers", Sharing(one, end)))

    assert merged_file(one, one.local / "whole" / "sum.json", read, write, merge) == (5, True)


def test_an_error_of_a_merged_phase_survives_the_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(MergedElsewhereError(Path("x"))))
    assert isinstance(error, MergedElsewhereError)
    assert (error.whole, str(error)) == (Path("x"), str(MergedElsewhereError(Path("x"))))


def test_a_part_for_one_run_alone_is_not_shared(store: Path) -> None:
    one = Sharing(machine(store, "one"), lasting=lambda path: read(path) != 4)
    assert squares(one, [1, 2, 3]) == [1, 4, 9]
    assert sorted(path.name for path in store.rglob("*.json")) == ["1.json", "3.json"]


def test_a_store_that_fails_ends_the_phase_and_loses_nothing(store: Path, monkeypatch) -> None:
    one = machine(store, "one")
    with monkeypatch.context() as patch:
        patch.setattr("fsspec.implementations.local.LocalFileSystem.put_file", None)
        with pytest.raises(UserError, match="cannot be reached"):
            squares(Sharing(one), [1, 2])
    assert squares(Sharing(one), [1, 2]) == [1, 4]
    assert len(done) == 2
    assert len(list(store.rglob("*.json"))) == 2


def test_a_store_that_removes_nothing_costs_a_line(
    store: Path, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.rm", None)
    assert summed(machine(store, "one"), [1, 2]) == 5
    assert "copies that nobody needs any more stay at" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("is_merged", [False, True])
def test_machines_at_work_at_once_share_the_jobs(store: Path, is_merged: bool) -> None:
    numbers, results = range(1, 41), dict[str, int]()

    def work(name: str) -> None:
        mirror = machine(store, name)
        if is_merged:
            results[name] = summed(mirror, numbers, 0.02)
            return
        asked = jobs(mirror.local, numbers, 0.02)
        sharing = Sharing(mirror)
        results[name] = sum(outcomes(asked, read, SERIAL, "square", "numbers", sharing))

    names = ("one", "two", "three")
    threads = [threading.Thread(target=partial(work, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(names, sum(number**2 for number in numbers))
    shares = Counter(name for name, _ in done)
    assert {number for _, number in done} == set(numbers)
    assert set(shares) == set(names), "each did its share"
    # Two may begin the same job at the same moment; what is finished is not done again.
    assert len(done) < 1.5 * len(numbers)
    left = sorted(path.name for path in store.rglob("*.json"))
    assert left == (["sum.json"] if is_merged else sorted(f"{n}.json" for n in numbers))
