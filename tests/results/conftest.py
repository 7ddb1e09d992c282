"""What the tests of finished cells share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.cells import write_cell


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """The folder of a finished cell, alone in its results folder."""
    return write_cell(tmp_path, "trackstar", strength=0.6, tail_patch=0.01)
