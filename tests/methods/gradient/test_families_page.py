"""The page of families says what is so: each is built, read, and held against autograd."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.families import FAMILIES, PAGE, found, row_of


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_as_the_page_says(tmp_path: Path, name: str) -> None:
    one = found(name, tmp_path)
    assert one.error < 1e-6
    assert one.moments_error < 1e-6  # moments are kept in float32
    assert row_of(name, one) in PAGE.read_text(encoding="utf-8")


def test_every_family_has_a_row() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    names = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert names == ["family", ":--", *FAMILIES]
