"""Wrong values are answered before a model library is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.core.registry import Registry
from bench.models import SOURCES
from bench.tasks import TASKS
from methods import METHODS

CODE = """
import sys
from bench.cli.main import main
status = main(sys.argv[1:])
print(status, *(name for name in ("torch", "transformers") if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["method.mixing=3"], "method.mixing: expected 0 to 1 or 'auto', found 3.0"),
        (["method.hessian=trian"], "method.hessian"),
        (["model=hf", "model.path=/nope"], "/nope: no such directory"),
        (["model=hf", "model.path=.", "model.optimizer_state=/nope"], "model.optimizer_state"),
        (["model=hf", "model.path=.", "model.dtype=float23"], "did you mean float32"),
        (["model.hidden_size=7"], "model.num_heads: hidden_size 7 is not a multiple"),
        (["model.gradient_dtype=no"], "model.gradient_dtype: unknown dtype 'no'"),
        (["method=repsim", "method.batch_size=0"], "method.batch_size: expected at least 1"),
        (["method=ekfac", "method.labels=own"], "method.labels"),
        (["method=dense", "method.max_length=0"], "method.max_length: expected at least 1"),
        (["task.n_facts=0"], "task.n_facts"),
        (["model.source=nowhere"], "unknown model source 'nowhere'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_no_model_library_is_imported(tmp_path: Path, words: list[str], expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, "run", *words, f"results_dir={tmp_path / 'runs'}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["2"]
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("registry", [TASKS, METHODS, SOURCES], ids=lambda one: one.kind)
def test_settings_that_are_named_apart_are_those_of_the_class(registry: Registry) -> None:
    for name in registry:
        assert registry.settings_of(name) is registry.get(name).Config, name
