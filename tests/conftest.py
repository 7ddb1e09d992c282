"""One thread a test process: on small tensors threads only get in each other's way."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch starts, here and in child processes
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may reach for a network
os.environ["WANDB_MODE"] = "offline"

import pytest

from bench.core import progress
from tests.fixtures.forks import Forks


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """The process that commands are forks of which tests kill, or whose process is the point."""
    with Forks() as process:
        yield process


@pytest.fixture(autouse=True)
def _heard():
    """A command with quiet=true silences the process that it is called in, and so later tests."""
    progress.set_quiet(False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty folder that machines copy to, and take from."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"
