"""What the disk refuses, as one line."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE

from bench.core.errors import UserError
from bench.storage.arrays import new_array
from bench.storage.disk import disk_errors
from tests.fixtures.helpers import files_below


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_disk_that_is_really_full():
    with (
        pytest.raises(UserError, match="the disk is full"),
        disk_errors(Path("out")),
        open("/dev/full", "w") as stream,
    ):
        stream.write("x" * 100_000)


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "no permission to write"),
        (errno.EROFS, "read-only"),
        (errno.EFBIG, "larger than the disk or the limit"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.EPERM, "no permission to write"),
        (errno.EIO, "fault"),
    ],
)
def test_other_disk_errors_are_named(tmp_path, number, what):
    with pytest.raises(UserError, match=what), disk_errors(tmp_path):
        raise OSError(number, "x")


def test_an_error_that_is_no_condition_of_the_disk_stays_itself(tmp_path):
    with pytest.raises(OSError, match="Bad file"), disk_errors(tmp_path):
        raise OSError(errno.EBADF, "Bad file descriptor")


# ------------------------------------------------------------------ as libraries say it


def write_safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(200_000)}, path)


def write_numpy(path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.zeros(200_000))


def write_map(path: Path) -> None:
    new_array(path, np.float32, (200_000,))


def write_parquet(path: Path) -> None:
    pd.DataFrame({"a": np.random.default_rng(0).random(200_000)}).to_parquet(path)


def write_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(BPE())
    tokenizer.add_tokens([f"token{i}" for i in range(10_000)])
    tokenizer.save(str(path))


def write_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE a (b)")
        database.executemany("INSERT INTO a VALUES (?)", [("x" * 1000,)] * 1000)
        database.commit()


def write_figure(path: Path) -> None:
    figure = Figure(figsize=(20, 20))
    figure.add_subplot().imshow(np.random.default_rng(0).random((1000, 1000)))
    figure.savefig(path, format="png")


@pytest.mark.parametrize(
    "write",
    [
        write_safetensors, write_numpy, write_map, write_parquet, write_tokenizer, write_database,
        write_figure,
    ],
)  # fmt: skip
def test_what_the_disk_refuses_a_library_is_one_line(tmp_path: Path, write) -> None:
    with files_below(300_000), pytest.raises(UserError) as caught, disk_errors(tmp_path / "x"):
        write(tmp_path / "x")
    assert str(caught.value).startswith(f"{tmp_path / 'x'}: the ")
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_a_place_that_nobody_named_is_taken_from_the_error(tmp_path: Path) -> None:
    name = tmp_path / ("x" * 300)
    with pytest.raises(UserError, match="the name is too long") as caught, disk_errors():
        name.mkdir()
    assert caught.value.where == str(name)


def test_a_fault_of_the_code_is_no_error_of_the_disk(tmp_path: Path) -> None:
    for error in (KeyError("x"), ValueError("full"), sqlite3.OperationalError("no such table: a")):
        with pytest.raises(type(error)), disk_errors(tmp_path):
            raise error
