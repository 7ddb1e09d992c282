"""The cells of a sweep that come after one, and differ from it in the method alone."""

from __future__ import annotations

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from bench.run.composing import later_cells

WORDS = (
    "quiet=true", "hydra.sweep.dir=somewhere", "seed=0,1",
    "method=grad_dot,bm25", "method.damping=0.1,0.01",
)  # fmt: skip
# As Hydra spells the overrides of a cell in its own sweep.
CELL = ["quiet=True", "seed=0", "method=grad_dot", "method.damping=0.1"]


def words_of_methods(cells: list[list[str]]) -> list[list[str]]:
    return [[word for word in cell if word.startswith("method")] for cell in cells]


def test_they_differ_in_the_method_alone_however_a_value_is_spelled() -> None:
    before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    later = later_cells(WORDS, CELL)
    assert all("seed=0" in one for one in later)
    assert words_of_methods(later) == [
        ["method=grad_dot", "method.damping=0.01"],
        ["method=bm25", "method.damping=0.1"],
        ["method=bm25", "method.damping=0.01"],
    ]
    assert all(not word.startswith("hydra") for one in later for word in one)
    last = [*CELL[:-2], "method=bm25", "method.damping=0.01"]
    assert later_cells(WORDS, last) == []
    assert later_cells(WORDS, ["seed=7"]) == [], "no cell of this sweep"
    assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg) == before
