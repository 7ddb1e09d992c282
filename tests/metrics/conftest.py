"""The model that tests of tail-patch step."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.models.language_model import LanguageModel
from tests.fixtures.models import load, make_model, with_moments


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    """A tiny GPT-NeoX with Adafactor's second moments."""
    return with_moments(load(make_model(tmp_path / "model")), tmp_path, "adafactor")
