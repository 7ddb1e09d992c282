"""What the disk refuses, as one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.storage.disk import disk_errors


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
    ],
)
def test_other_disk_errors_are_named(tmp_path, number, what):
    with pytest.raises(UserError, match=what), disk_errors(tmp_path):
        raise OSError(number, "x")


def test_an_error_that_is_no_condition_of_the_disk_stays_itself(tmp_path):
    with pytest.raises(OSError, match="Bad file"), disk_errors(tmp_path):
        raise OSError(errno.EBADF, "Bad file descriptor")
