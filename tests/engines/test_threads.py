"""Other numbers of threads add up in another order.

The models that are trained are the same. Rankings stay, and scores move in last digits.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MODEL = (
    "task.n_passages=600", "task.n_facts=60", "model.hidden_size=64", "model.num_layers=2",
    "model.num_heads=2", "model.epochs=2", "model.vocab_size=600", "model.projection_dim=8",
)  # fmt: skip
TOLERANCE = 1e-6  # of the largest score of a query, as docs/engines.md says


def tdabench(threads: int, *words: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "bench", *words, *MODEL, "quiet=true"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)


def rankings(results: Path, method: str) -> list[tuple[list[str], np.ndarray]]:
    (path,) = results.glob(f"*/*/{method}/*/retrievals.jsonl")
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(r["proponent_ids"], np.array(r["proponent_scores"])) for r in records]


@pytest.mark.slow
def test_rankings_do_not_depend_on_threads(tmp_path: Path) -> None:
    methods = ("trackstar", "ekfac")
    tdabench(1, "train", f"cache_dir={tmp_path}/1")
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    for threads in (1, 2):
        places = [f"results_dir={tmp_path}/r{threads}", f"cache_dir={tmp_path}/{threads}"]
        sweep = ["-m", f"method={','.join(methods)}", "metric=attribution"]
        tdabench(threads, "run", *sweep, *places)
    for method in methods:
        one, two = (rankings(tmp_path / f"r{threads}", method) for threads in (1, 2))
        assert len(one) == len(two) > 0
        for (ids, scores), (other_ids, other_scores) in zip(one, two, strict=True):
            slack = TOLERANCE * np.abs(scores).max()
            np.testing.assert_allclose(scores, other_scores, rtol=0, atol=slack)
            moved = [i for i, (a, b) in enumerate(zip(ids, other_ids, strict=True)) if a != b]
            # Only neighbours that the tolerance cannot tell apart may change places, and the last
            # one with a passage that is not in the list.
            apart = np.diff(scores, prepend=np.inf, append=scores[-1:])
            assert all(min(-apart[i], -apart[i + 1]) <= slack for i in moved), method


@pytest.mark.slow
def test_a_trained_model_does_not_depend_on_threads(tmp_path: Path) -> None:
    """Weights, moments, checkpoints and log are equal bit for bit, and so is the key."""
    for threads in (1, 2):
        tdabench(threads, "train", f"cache_dir={tmp_path}/{threads}")
    one, two = (files(tmp_path / str(threads) / "models") for threads in (1, 2))
    assert {Path(name).name for name in one} >= {"model.safetensors", "second_moments.safetensors"}
    assert one == two


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
