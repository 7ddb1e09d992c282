"""bergson's score folder, as written by numpy in the layout of its ``info.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.importing import bergson
from bench.results.verify import verify
from tests.fixtures.imports import N_PASSAGES, N_QUERIES, World, imported, ranked

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def layout(num_scores: int, kind: str = "float32") -> dict[str, Any]:
    """The structured dtype of bergson's writer: pairs at the next power of two."""
    size = np.dtype(kind).itemsize
    stride = 1 << size.bit_length()
    names = [f"{part}_{i}" for i in range(num_scores) for part in ("score", "written")]
    offsets = [at for i in range(num_scores) for at in (i * stride, i * stride + size)]
    itemsize = (num_scores * stride + 7) // 8 * 8
    formats = [kind, "bool"] * num_scores
    return {"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize}


def write_folder(
    folder: Path,
    scores: np.ndarray,
    kind: str = "float32",
    higher_is_better: Any = True,
    change: Callable[[dict[str, Any]], object] = lambda info: None,
    spoil: Callable[[np.ndarray], object] = lambda records: None,
) -> Path:
    """Scores ``[queries, passages]`` as bergson writes them."""
    folder.mkdir()
    dtype = layout(len(scores), kind)
    records = np.zeros(scores.shape[1], dtype=np.dtype(dtype))
    for i, row in enumerate(scores):
        records[f"score_{i}"] = row
        records[f"written_{i}"] = True
    spoil(records)
    records.tofile(folder / "scores.bin")
    info = {"num_items": scores.shape[1], "num_scores": len(scores), "dtype": dtype}
    change(info)
    (folder / "info.json").write_text(json.dumps(info))
    text = f"score_cfg:\n  higher_is_better: {json.dumps(higher_is_better)}\n  query_path: q\n"
    (folder / "config.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_same_numbers_as_a_trec_run(world: World, kind: str, higher_is_better: bool) -> None:
    scores = world.dense if higher_is_better else -world.dense
    folder = write_folder(world.folder / "scores", scores, kind, higher_is_better)
    found = imported(world, folder, "top_k=12")
    assert found["metrics"] == imported(world, world.trec())["metrics"]
    assert ranked(world.cells()[0]) == ranked(world.cells()[1])
    assert found["method"]["name"] == "scores"
    assert found["method"]["counts"]["passages_joined_by_order"] == N_PASSAGES
    assert verify(world.results) == []


def test_in_small_blocks_and_with_the_default_length(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bergson, "_BLOCK_BYTES", 3 * layout(N_QUERIES)["itemsize"])
    found = imported(world, write_folder(world.folder / "scores", world.dense))
    assert found["top_k"] == N_PASSAGES  # the corpus is shorter than top_k
    listed = ranked(world.cells()[0])[2]["proponent_ids"]
    order = np.lexsort((np.arange(N_PASSAGES), -world.dense[2]))
    assert listed == [f"p{row}" for row in order]


def put(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda info: info.__setitem__(name, value)


def spoiled(field: str, row: int, value: Any) -> Callable[[np.ndarray], object]:
    return lambda records: records[field].__setitem__(row, value)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"spoil": spoiled("written_2", 7, False)}, ["scores.bin, row 7", "query 2 ('q2')"]),
        ({"spoil": spoiled("score_5", 39, np.nan)}, ["scores.bin, row 39", "not finite"]),
        ({"spoil": spoiled("score_0", 0, np.inf)}, ["scores.bin, row 0", "not finite"]),
        ({"change": put("num_items", 41)}, ["scores.bin", "bytes where info.json says"]),
        ({"change": put("num_items", "x")}, ["'num_items'", "expected a count"]),
        ({"change": put("num_scores", True)}, ["'num_scores'", "expected a count"]),
        ({"change": put("num_scores", 5)}, ["'dtype'", "at equal distances"]),
        ({"change": put("dtype", None)}, ["'dtype'", "no structured dtype"]),
        ({"change": put("dtype", layout(6, "float64"))}, ["scores.bin", "bytes where"]),
        ({"change": put("attribute_tokens", True)}, ["a score for each token"]),
        (
            {"change": lambda info: info["dtype"]["formats"].__setitem__(0, "bfloat16")},
            ["'bfloat16'", "score with float32"],
        ),
        (
            {"change": lambda info: info["dtype"]["offsets"].__setitem__(2, 9)},
            ["at equal distances"],
        ),
        (
            {"change": lambda info: info["dtype"].__setitem__("offsets", [0.5] * 12)},
            ["at equal distances"],
        ),
        ({"higher_is_better": None}, ["config.yaml", "'higher_is_better'"]),
        ({"higher_is_better": "yes please"}, ["config.yaml", "'higher_is_better'"]),
    ],
)
def test_a_faulty_folder_is_one_line(
    world: World, capsys: Capture, options: dict[str, Any], parts: list[str]
) -> None:
    folder = write_folder(world.folder / "scores", world.dense, **options)
    line = world.refusal(capsys, folder)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize("name", bergson.FILES)
def test_a_missing_file_is_one_line(world: World, capsys: Capture, name: str) -> None:
    folder = write_folder(world.folder / "scores", world.dense)
    (folder / name).unlink()
    assert name in world.refusal(capsys, folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("info.json", "[]"),
        ("info.json", "{"),
        ("info.json", "[" * 100_000),
        ("config.yaml", "a: [b"),
        ("config.yaml", "!!python/object/apply:os.system ['true']"),
        ("config.yaml", "a: &a {b: *a}"),
        ("config.yaml", "x: {higher_is_better: true}\ny: {higher_is_better: false}"),
        ("config.yaml", "plain"),
    ],
)
def test_a_damaged_description_is_one_line(
    world: World, capsys: Capture, name: str, text: str
) -> None:
    folder = write_folder(world.folder / "scores", world.dense)
    (folder / name).write_text(text)
    assert name in world.refusal(capsys, folder)


def test_another_number_of_queries_or_passages(world: World, capsys: Capture) -> None:
    few = write_folder(world.folder / "few", world.dense[:5])
    assert "num_scores is 5, but the task has 6 queries" in world.refusal(capsys, few)
    short = write_folder(world.folder / "short", world.dense[:, :39])
    assert "num_items is 39, but the task has 40 passages" in world.refusal(capsys, short)
    one = write_folder(world.folder / "one", world.dense[:1])
    assert "num_scores is 1" in world.refusal(capsys, one)
    assert "carries no judgement" in world.refusal(capsys, few, task="none")
