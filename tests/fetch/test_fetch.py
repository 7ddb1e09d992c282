"""``tdabench fetch`` against a server that drops, shortens, garbles and changes what it serves."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cli import main as cli
from bench.fetch import remote
from bench.fetch.releases import BASE, RELEASES
from tests.fixtures.file_server import Served, serving

NAME = "trex_facts.jsonl"
CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def served() -> Served:
    return Served(CONTENT)


@pytest.fixture
def base(served: Served) -> Iterator[str]:
    with serving({NAME: served}) as address:
        yield address


def fetch(base: str, out: Path, *words: str, yes: bool = True) -> int:
    files = [word for word in words if not word.startswith("--")] or [NAME]
    agreed = ["--yes"] if yes else []
    return cli.main(["fetch", "trex", *files, "--out", str(out), "--base", base, *agreed])


def error(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def whole(folder: Path) -> bool:
    return files(folder) == [NAME] and (folder / NAME).read_bytes() == CONTENT


# ------------------------------------------------------------------ asked first


def test_it_says_what_it_will_do_and_then_that_it_is_done(base, tmp_path, capsys):
    assert fetch(base, tmp_path) == 0
    assert whole(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"0 of 1 files are in {tmp_path} already"
    assert lines[1] == f"from {base}:"
    assert lines[2] == f"  {NAME}  10,240 bytes"
    assert lines[3] == f"to download into {tmp_path}: 1 files, 10,240 bytes"
    assert lines[4] == f"{tmp_path / NAME}: size, crc32c, md5 verified"


def test_nothing_comes_unasked(base, served, tmp_path, capsys):
    assert fetch(base, tmp_path / "new", yes=False) == 2
    assert "nothing is downloaded unasked; add --yes" in error(capsys)
    assert served.asked == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("answer", "comes"), [("y", True), ("", False), ("n", False), (None, False)]
)
def test_on_a_terminal_it_asks(base, served, tmp_path, monkeypatch, answer, comes):
    asked = []

    def reply(question: str) -> str:
        asked.append(question)
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(builtins, "input", reply)
    assert fetch(base, tmp_path, yes=False) == 0
    assert asked == ["Go on? [y/N] "]
    assert (tmp_path / NAME).exists() == comes
    assert bool(served.asked) == comes


def test_what_is_there_is_not_fetched_again(base, served, tmp_path, capsys):
    assert fetch(base, tmp_path) == fetch(base, tmp_path, yes=False) == 0
    assert len(served.asked) == 1
    assert "1 of 1 files are in" in capsys.readouterr().out


@pytest.mark.parametrize("old", [b"short", CONTENT[:-1] + b"x"])
def test_another_version_is_replaced(base, tmp_path, capsys, old):
    (tmp_path / NAME).write_bytes(old)
    assert fetch(base, tmp_path) == 0
    assert whole(tmp_path)
    assert f"{NAME}  10,240 bytes, replaces another version" in capsys.readouterr().out


def test_what_does_not_fit_is_not_begun(base, served, tmp_path, monkeypatch, capsys):
    usage = type("Usage", (), {"free": 10_239})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert fetch(base, tmp_path) == 2
    assert "10,240 bytes do not fit: 10,239 are free" in error(capsys)
    assert served.asked == []


# ------------------------------------------------------------------ a bad server


def test_a_dropped_connection_is_resumed(base, served, tmp_path):
    served.faults = ["drop 4000", "drop 3000"]
    assert fetch(base, tmp_path) == 0
    assert whole(tmp_path)
    assert served.asked == ["", "bytes=4000-", "bytes=7000-"]


def test_progress_renews_the_tries(base, served, tmp_path):
    served.faults = ["drop 100"] * 3 * remote.TRIES
    assert fetch(base, tmp_path) == 0
    assert whole(tmp_path)


def test_what_arrived_before_giving_up_is_used_by_the_next_call(base, served, tmp_path, capsys):
    served.faults = ["drop 4000", *[500] * remote.TRIES]
    assert fetch(base, tmp_path) == 2
    line = error(capsys)
    assert "answers 500, after 5 tries without progress; run the command again" in line
    assert not (tmp_path / NAME).exists()
    assert fetch(base, tmp_path) == 0
    assert whole(tmp_path)
    assert served.asked[-1] == "bytes=4000-"
    assert "4,000 of them are here" in capsys.readouterr().out


def test_a_server_that_ignores_ranges_is_read_from_the_start(base, served, tmp_path):
    served.ranges = False
    served.faults = ["drop 4000"]
    assert fetch(base, tmp_path) == 0
    assert whole(tmp_path)


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_passing_status_is_tried_again(base, served, tmp_path, status):
    served.head_faults, served.faults = [status], [status, status]
    assert fetch(base, tmp_path) == 0
    assert whole(tmp_path)


def test_a_short_file_is_never_taken_for_whole(base, served, tmp_path, capsys):
    served.ranges = False
    served.faults = ["short 7"] * 20
    assert fetch(base, tmp_path) == 2
    assert "broke off after 10,233 of 10,240 bytes" in error(capsys)
    assert not (tmp_path / NAME).exists()


def test_a_short_answer_is_completed(base, served, tmp_path):
    served.faults = ["short 7"]
    assert fetch(base, tmp_path) == 0
    assert whole(tmp_path)
    assert served.asked == ["", "bytes=10233-"]


def test_wrong_bytes_are_thrown_away(base, served, tmp_path, capsys):
    served.faults = ["wrong"]
    assert fetch(base, tmp_path) == 0
    assert whole(tmp_path)
    (tmp_path / NAME).unlink()
    served.faults = ["wrong"] * remote.TRIES
    capsys.readouterr()
    assert fetch(base, tmp_path) == 2
    assert "of what arrived is not what the server says, after 5 tries" in error(capsys)
    assert files(tmp_path) == []


def test_drops_and_wrong_bytes_in_turn_come_to_an_end(base, served, tmp_path, capsys):
    served.faults = ["drop 4000", "wrong"] * 20
    assert fetch(base, tmp_path) == 2
    assert "after 5 tries without progress" in error(capsys)
    assert len(served.asked) < 10


@pytest.mark.parametrize("kind", ["md5", "crc32c"])
def test_one_checksum_is_enough(base, served, tmp_path, capsys, kind):
    parts = served.usual_headers()["x-goog-hash"].split(",")
    served.headers = {"x-goog-hash": next(part for part in parts if part.startswith(kind))}
    served.faults = ["wrong"]
    assert fetch(base, tmp_path) == 0
    assert whole(tmp_path)
    assert f"size, {kind} verified" in capsys.readouterr().out


@pytest.mark.parametrize("header", ["md5=!!!,crc32c=AAAA", "sha1=AAAA", ""])
def test_a_checksum_that_is_none_is_passed_over(base, served, tmp_path, capsys, header):
    served.headers = {"x-goog-hash": header}
    assert fetch(base, tmp_path) == 0
    assert f"{NAME}: size verified" in capsys.readouterr().out


def test_checksums_of_packed_bytes_are_not_asked_of_unpacked_ones(base, served, tmp_path):
    served.headers = {"x-goog-hash": "md5=AAAAAAAAAAAAAAAAAAAAAA==",
                      "x-goog-stored-content-encoding": "gzip"}  # fmt: skip
    assert fetch(base, tmp_path) == 0
    assert whole(tmp_path)


def test_a_server_that_says_nothing(base, served, tmp_path, capsys):
    served.headers = {"x-goog-hash": None, "ETag": None}
    served.faults = ["drop 4000"]
    assert fetch(base, tmp_path) == 0
    assert whole(tmp_path)
    assert served.asked == ["", ""], "without a version, two tries may be of two files"
    assert f"{NAME}: size verified" in capsys.readouterr().out


# ------------------------------------------------------------------ a changing file


def test_a_file_that_changes_between_tries_is_not_glued(base, served, tmp_path):
    def change() -> None:
        served.content = CONTENT[::-1]

    served.faults = ["drop 4000", change]
    assert fetch(base, tmp_path) == 0
    assert files(tmp_path) == [NAME]
    assert (tmp_path / NAME).read_bytes() == CONTENT[::-1]


def test_a_file_that_changes_between_calls_is_not_glued(base, served, tmp_path):
    served.faults = ["drop 4000", *[500] * remote.TRIES]
    assert fetch(base, tmp_path) == 2
    served.content = CONTENT[::-1]
    assert fetch(base, tmp_path) == 0
    assert files(tmp_path) == [NAME], "what was left of the old version is gone"
    assert (tmp_path / NAME).read_bytes() == CONTENT[::-1]


def test_a_file_that_shrinks_unseen_starts_anew(base, served, tmp_path):
    served.headers = {"ETag": '"same"', "x-goog-hash": None}
    served.faults = ["drop 4000", *[500] * remote.TRIES]
    assert fetch(base, tmp_path) == 2
    served.content = b"new"
    assert fetch(base, tmp_path) == 0
    assert (tmp_path / NAME).read_bytes() == b"new"


# ------------------------------------------------------------------ words


@pytest.mark.parametrize("status", [404, 403])
def test_a_file_that_is_not_there_is_not_asked_for_twice(base, served, tmp_path, capsys, status):
    served.head_faults = [status]
    assert fetch(base, tmp_path) == 2
    assert f"/{NAME}: the server answers {status}; is the file there?" in error(capsys)
    assert served.head_faults == []


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "..", ".x", "a\\b", "", "a?b=c", "%2e%2e", "nope*"]
)
def test_names_cannot_leave_the_folder(base, tmp_path, capsys, name):
    assert fetch(base, tmp_path, name) == 2
    assert "no such file in the release" in error(capsys)


def test_a_mirror_may_have_more_and_the_release_may_not(tmp_path, capsys):
    with serving({"c4-train.00000-of-01024.json.gz": Served(b"x")}) as base:
        assert fetch(base, tmp_path, "c4-train.00000-of-01024.json.gz") == 0
    assert files(tmp_path) == ["c4-train.00000-of-01024.json.gz"]
    capsys.readouterr()
    assert cli.main(["fetch", "trex", "trex_fact.jsonl"]) == 2
    assert "trex_fact.jsonl: no such file in the release; did you mean trex_facts.jsonl" in error(
        capsys
    )


def test_globs_and_defaults():
    from bench.fetch.releases import chosen_files

    trex = RELEASES["trex"]
    assert len(chosen_files(trex, [], False)) == 30
    assert "trex_facts_sample.jsonl" not in chosen_files(trex, [], False)
    shards = chosen_files(trex, ["trex_sentences*", "trex_sentences.jsonl-00019-of-00020"], False)
    assert len(shards) == 20
    assert chosen_files(trex, ["trex_facts*"], False)[-1] == "trex_facts_sample.jsonl"
    assert len(chosen_files(RELEASES["c4"], [], False)) == 11
    assert BASE.startswith("https://")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trx"], "unknown release 'trx'; did you mean trex?"),
        (["trex", "--base", "ftp://x"], "--base ftp://x: is no address of a server"),
        (["trex", "--base", "http://"], "cannot ask for it"),
        (["trex", "--base", "http://[::1"], "cannot ask for it"),
        (["trex", "--base", "http://127.0.0.1:1"], "no connection (Connection refused), after 5"),
        (["c4", "--documents", "9", "--yes"], "--documents: says what to take of a data set"),
        ([], "the following arguments are required: trex|c4|results; see"),
    ],
)
def test_wrong_words(words, message, capsys):
    assert cli.main(["fetch", *words]) == 2
    assert message in error(capsys)


def test_a_folder_that_is_none(base, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert fetch(base, tmp_path / "file" / "x") == 2
    assert f"{tmp_path / 'file'}: is no folder" in error(capsys)
    (tmp_path / NAME).mkdir()
    assert fetch(base, tmp_path) == 2
    assert f"{tmp_path / NAME}: a folder is where a file should be" in error(capsys)
