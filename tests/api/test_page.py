"""The examples of docs/api.md run, in their order, and the page names every function."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import tdabench
from bench.core import progress
from tests.fixtures.sources import ROOT

PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FUNCTIONS = ("run", "load", "attribute", "evaluate")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TDABENCH_CACHE", str(tmp_path / "cache"))
    progress.set_quiet(True)
    namespace: dict[str, object] = {}
    for text in EXAMPLES:
        exec(compile(text, "docs/api.md", "exec"), namespace)
    assert list(namespace["ranked"]) == ["0"]  # type: ignore[call-overload]
    assert len(namespace["results"]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_has_a_section_and_says_what_it_raises(name: str) -> None:
    assert f"\n## {name}\n" in PAGE
    documented = inspect.getdoc(getattr(tdabench, name)) or ""
    assert "Raises:\n    UserError: " in documented
    for argument in inspect.signature(getattr(tdabench, name)).parameters:
        assert f"{argument}:" in documented, argument


def test_all_names_are_listed() -> None:
    assert set(FUNCTIONS) <= set(tdabench.__all__)
    assert set(dir(tdabench)) == set(tdabench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = tdabench.runn
