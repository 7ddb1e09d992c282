"""Other numbers of threads add up in another order.

The models that are trained are the same. Rankings stay, and scores move in last digits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.forks import Forks
from tests.fixtures.trainings import files

MODEL = (
    "task.n_passages=600", "task.n_facts=60", "model.hidden_size=64", "model.num_layers=2",
    "model.num_heads=2", "model.epochs=2", "model.vocab_size=600", "model.projection_dim=8",
)  # fmt: skip
TOLERANCE = 1e-6  # of the largest score of a query, as docs/engines.md says


def places(folder: Path, threads: int) -> tuple[str, str]:
    return f"cache_dir={folder / str(threads)}", "quiet=true"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[int, Forks]]]:
    """A folder of caches by the number of threads that a model was trained in, and commands."""
    folder = tmp_path_factory.mktemp("trained")
    with Forks(OMP_NUM_THREADS="1") as one, Forks(OMP_NUM_THREADS="2") as two:
        commands = {1: one, 2: two}
        for threads, tdabench in commands.items():
            done = tdabench.run("train", *MODEL, *places(folder, threads))
            assert done.returncode == 0, done.stderr
        yield folder, commands


def rankings(results: Path, method: str) -> list[tuple[list[str], np.ndarray]]:
    (path,) = results.glob(f"*/*/{method}/*/retrievals.jsonl")
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(r["proponent_ids"], np.array(r["proponent_scores"])) for r in records]


@pytest.mark.slow
def test_rankings_do_not_depend_on_threads(
    tmp_path: Path, trained: tuple[Path, dict[int, Forks]]
) -> None:
    methods = ("trackstar", "ekfac")
    folder, commands = trained
    for threads, tdabench in commands.items():
        shutil.copytree(folder / "1", tmp_path / str(threads))
        sweep = ["-m", f"method={','.join(methods)}", "metric=attribution", *MODEL]
        results = f"results_dir={tmp_path}/r{threads}"
        done = tdabench.run("run", *sweep, results, *places(tmp_path, threads))
        assert done.returncode == 0, done.stderr
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
def test_a_trained_model_does_not_depend_on_threads(
    trained: tuple[Path, dict[int, Forks]],
) -> None:
    """Weights, moments, checkpoints and log are equal bit for bit, and so is the key."""
    one, two = (files(trained[0] / str(threads) / "models") for threads in (1, 2))
    assert {Path(name).name for name in one} >= {"model.safetensors", "second_moments.safetensors"}
    assert one == two
