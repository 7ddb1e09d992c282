"""Files that would take all memory, all time or another file's place are refused in one line."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from bench.core.errors import UserError
from bench.storage import bounds, jsonlines
from bench.storage.bounds import check_inside, open_regular
from bench.storage.documents import read_json, read_yaml
from bench.storage.hashes import file_sha256
from bench.storage.tables import read_columns
from tests.fixtures.hostile import ALIASES


def refusal(read: Callable[[Path], Any], path: Path, most_mib: float = 64) -> str:
    """The one line that a reader refuses a file with, in bounded memory."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < most_mib * bounds.MIB
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return caught.value.what


def all_lines(path: Path) -> list[Any]:
    return list(jsonlines.read(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


READERS = [read_json, read_yaml, read_columns, all_lines, file_sha256]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "link to a device", "absent"])
def test_what_is_no_file(path: Path, read: Callable[[Path], Any], kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "device":
        path = Path("/dev/zero")
    if read is file_sha256 and kind in ("folder", "absent"):
        with pytest.raises((IsADirectoryError, FileNotFoundError)):
            read(path)
        return
    assert "cannot read it" in refusal(read, path)


@pytest.mark.parametrize(
    ("read", "most"),
    [
        (read_json, "MOST_JSON_BYTES"),
        (read_yaml, "MOST_YAML_BYTES"),
        (read_columns, "MOST_TABLE_BYTES"),
    ],
)
def test_a_file_of_gigabytes(path: Path, read: Callable[[Path], Any], most: str) -> None:
    with open(path, "wb") as stream:
        stream.truncate(1 << 33)  # holes alone: it takes no space
    assert f"{getattr(bounds, most):,} are the most" in refusal(read, path, 1)


def test_a_file_at_the_bound_is_read(path: Path) -> None:
    path.write_bytes(b"0123456789")
    with open_regular(path, 10) as stream:
        assert stream.read() == b"0123456789"
    assert "has 10 bytes, and 9 are the most" in refusal(lambda p: open_regular(p, 9), path)


# ------------------------------------------------------------------ YAML

MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIASES, "more than 100,000 values, with those that aliases stand for"),
        (MERGES, "a merge key in line 3"),
        ("metric: &r {extra: *r}", "nested too deeply"),
        ("metric: &r [*r, *r]", "nested too deeply"),
        ("[" * 100_000, "exceeded maximum nesting depth"),
        ("a: " * 100_000, "mapping values are not allowed"),
        ("a: " + "9" * 400, "more than 64 bits"),
        ("a: " + "1:" * 9000 + "1.5", "too large"),
        ("a: 2020-01-01", "holds a date"),
        ("a: 2020-13-41", "month must be in 1"),
        ("a: !!binary x", "base64"),
        ("a: !!set {x, y}", "holds a set"),
        ("1: a", "a key that is no text"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("\x00", "#x0000"),
    ],
)
def test_yaml_that_is_not_read(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    assert message in refusal(read_yaml, path)


def test_yaml_with_an_alias_that_stands_for_little(path: Path) -> None:
    shared = ["mrr"]
    path.write_text(yaml.safe_dump({"a": shared, "b": shared, "c": {"d": 1.5, "e": None}}))
    assert "*" in path.read_text()
    assert read_yaml(path) == {"a": ["mrr"], "b": ["mrr"], "c": {"d": 1.5, "e": None}}


# ------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 51 + "1" + "]" * 51, "nested too deeply"),
        ("9" * 5000, "Exceeds the limit"),
        ("[" + "[]," * 1_500_000 + "1]", "2,000,000 are the most"),
        ("{", "Expecting property name"),
    ],
)
def test_json_that_is_not_read(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    assert message in refusal(read_json, path)


def test_a_number_of_more_than_64_bits_is_infinite(path: Path) -> None:
    path.write_text(f"[{'9' * 400}, -{'9' * 400}, {2**64 - 1}, {'[' * 48}1{']' * 48}]")
    values = read_json(path)
    assert values[:3] == [float("inf"), -float("inf"), 2**64 - 1]


def test_a_json_line_of_gigabytes(path: Path) -> None:
    with open(path, "wb") as stream:
        stream.truncate(1 << 33)
    assert "has more than 33,554,432 bytes" in refusal(all_lines, path, 256)


def test_a_json_line_of_too_many_values(path: Path) -> None:
    path.write_text('{"a": 1}\n{"a": [' + "[]," * 1_500_000 + "1]}\n")
    assert "broken JSON: holds 3,0" in refusal(all_lines, path)


def test_a_json_line_nested_too_deeply(path: Path) -> None:
    path.write_text('{"a": ' + "[" * 60 + "]" * 60 + "}\n")
    assert "broken JSON: nested too deeply" in refusal(all_lines, path)


def test_a_gzip_that_expands_beyond_measure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bounds.EXPANDS_FREELY == 16 * bounds.MIB
    monkeypatch.setattr(jsonlines, "EXPANDS_FREELY", bounds.MIB)
    line = json.dumps({"text": "x" * 1000}).encode() + b"\n"
    path.write_bytes(gzip.compress(line * 10_000))
    assert "unpacks to more than 200 times its size" in refusal(all_lines_of_few, path)


def all_lines_of_few(path: Path) -> int:
    return sum(1 for _ in jsonlines.read(path))


def test_a_gzip_within_measure_is_read_as_it_is(path: Path) -> None:
    records = [{"n": i, "text": str(i) * 50} for i in range(20_000)]
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text[:1_000_000]) + gzip.compress(text[1_000_000:]))
    assert [record for _, record in jsonlines.read(path)] == records


# ------------------------------------------------------------------ Parquet


def write(path: Path, columns: dict[str, Any], **options: Any) -> None:
    parquet.write_table(pa.table(columns), path, **options)


def test_a_table_is_read_as_it_was_written(path: Path) -> None:
    columns = {
        "query_id": ["a", "b", "c"], "n": [1, None, 3], "x": [1.5, None, float("nan")],
        "t": [True, False, True], "label": ["u", None, "u"], "none": [None] * 3,
        "lists": [[1.0, 2.0], [3.0], []],
    }  # fmt: skip
    write(path, columns)
    read = read_columns(path, 3)
    assert list(read) == list(columns)
    assert read["query_id"].tolist() == ["a", "b", "c"]
    assert read["label"].tolist() == ["u", None, "u"]
    np.testing.assert_array_equal(read["n"], [1, np.nan, 3])
    np.testing.assert_array_equal(read["x"], [1.5, np.nan, np.nan])
    assert read["t"].dtype == np.float64
    assert read["none"].tolist() == [None] * 3
    assert [one.tolist() for one in read["lists"]] == columns["lists"]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": np.zeros(50_000_000, dtype=bool)}, {}, "has 50,000,000 rows, and 40 are the most"),
        ({"a": ["x" * 1000] * 41}, {}, "has 41 rows"),
        ({"a": [[0.0] * 1_000_000] * 40}, {}, "has 40,000,000 values"),
        ({f"c{i}": [1] for i in range(1001)}, {}, "has 1,001 columns"),
        ({"a": [str(i) * 10_000_000 for i in range(20)]}, {}, "bytes unpacked"),
        ({"a": [1]}, {"compression": "zstd"}, "is packed with ZSTD"),
        ({"a": [b"x"]}, {}, "holds binary"),
        ({"a": [{"x": 1}]}, {}, "holds struct"),
        ({"a": [["x"]]}, {}, "holds list<"),
        ({"a": pa.array([0], pa.timestamp("s"))}, {}, "holds timestamp"),
    ],
)
def test_a_table_that_is_not_read(
    path: Path, columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    write(path, columns, **options)
    assert path.stat().st_size < 16 * bounds.MIB
    assert message in refusal(lambda p: read_columns(p, 40), path)


def test_more_groups_of_rows_than_rows(path: Path) -> None:
    schema = pa.schema([("a", pa.int64())])
    with parquet.ParquetWriter(path, schema) as writer:
        for _ in range(5):
            writer.write_table(pa.table({"a": pa.array([], pa.int64())}))
    assert "has 5 groups of rows, and 1 are the most" in refusal(read_columns, path)


def test_a_text_that_is_repeated_is_made_once(path: Path) -> None:
    """A megabyte a hundred thousand times over is a hundred gigabytes if it is written out."""
    text = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["x" * bounds.MIB])
    write(path, {"a": text})
    assert path.stat().st_size < 4 * bounds.MIB
    values = read_columns(path)["a"]
    assert len(values) == 100_000
    assert values[0] is values[-1]


# ------------------------------------------------------------------ links


def test_links_stay_inside(tmp_path: Path) -> None:
    folder, other = tmp_path / "results", tmp_path / "results-of-others"
    for one in (folder, other):
        one.mkdir()
        (one / "file").write_text("x")
    (folder / "inside").symlink_to("file")
    (folder / "outside").symlink_to(other / "file")
    (folder / "climbs").symlink_to("..")
    (folder / "circle").symlink_to("circle")
    (tmp_path / "link").symlink_to(folder)
    for name in ("file", "inside", "absent", "circle", "absent/deeper"):
        check_inside(folder / name, folder)
        check_inside(tmp_path / "link" / name, tmp_path / "link")
    for name in ("outside", "climbs", "climbs/results-of-others/file"):
        assert "leads out of the folder" in refusal(
            lambda p: check_inside(p, folder), folder / name
        )
