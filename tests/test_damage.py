"""Nothing damaged is used: each file of each kind that a cache keeps, damaged in several ways."""

from __future__ import annotations

import random

import pytest

from tests.fixtures.damage import Kept, damages, kept, outcome

KINDS = (
    "task", "trained model", "stopped training", "retrained outputs", "estimated moments",
    "index of words", "embeddings", "sparse embeddings", "EK-FAC factors", "gradient shards",
    "tail-patch results", "judgements",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Kept]]:
    """All kinds of two runs, of other passages and other models."""
    folders = [tmp_path_factory.mktemp(name) for name in ("ours", "theirs")]
    return [kept(folder, version) for version, folder in enumerate(folders)]


@pytest.mark.parametrize("kind", KINDS)
def test_no_damaged_file_is_used(runs: list[dict[str, Kept]], kind: str) -> None:
    ours, theirs = (run[kind] for run in runs)
    expected = ours.read()
    assert expected != theirs.read() or kind in ("tail-patch results", "judgements")
    found = {
        name: outcome(ours, expected, damage)
        for name, damage in damages(ours.folder, theirs.folder, 2, random.Random(0))
    }
    assert {n: end for n, end in found.items() if end not in ("refused", "as written")} == {}
    assert ours.read() == expected, "and what was damaged is whole again"


def test_every_kind_is_tried(runs: list[dict[str, Kept]]) -> None:
    assert tuple(runs[0]) == KINDS
