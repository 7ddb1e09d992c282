"""What pyproject.toml asks for: bounds that keep known faults out, pins within them, the audit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.fixtures.sources import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The oldest version in which a file of somebody else's, or a page or address, does not run code or
# have a password: advisories as pyproject.toml names them.
SAFE = {
    "torch": "2.10.0",  # CVE-2026-24747, CVE-2025-32434: files read with weights_only=True
    "transformers": "5.3.0",  # CVE-2026-4372: config.json fetches and runs code
    "pyarrow": "14.0.1",  # CVE-2023-47248: a Parquet file runs code
    "requests": "2.32.4",  # CVE-2024-47081: passwords of ~/.netrc
    "datasets": "4.0.0",  # from it on, no code of data sets is run at all
    "ray": "2.54.0",  # CVE-2025-62593, CVE-2026-27482: a page in a browser reaches the dashboard
}


def asked() -> Iterator[Requirement]:
    """Every dependency, those of the extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for lines in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from map(Requirement, lines)


def pins() -> dict[str, list[Version]]:
    """Package → its versions in constraints.txt; some have one of their own for Python 3.10."""
    found: dict[str, list[Version]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            found.setdefault(canonicalize_name(requirement.name), []).append(Version(pin.version))
    return found


def lowest(requirement: Requirement) -> Version | None:
    """The least version that is allowed, None where there is no bound."""
    bounds = [s.version for s in requirement.specifier if s.operator in (">=", "==")]
    return Version(*bounds) if bounds else None


@pytest.mark.parametrize("requirement", asked(), ids=str)
def test_each_dependency_has_a_lower_bound_and_a_pin_within_its_bounds(
    requirement: Requirement,
) -> None:
    least, name = lowest(requirement), canonicalize_name(requirement.name)
    assert least is not None
    versions = pins().get(name, [])
    assert versions or name == "datasets", "an extra that `make` does not install"
    for version in versions:
        assert requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize("name", SAFE)
def test_no_version_with_a_known_way_to_run_code_is_allowed(name: str) -> None:
    (least,) = (lowest(one) for one in asked() if one.name == name)
    assert least is not None
    assert least >= Version(SAFE[name])


def test_a_bound_names_the_fault_that_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    here = re.findall(r"CVE-\d+-\d+", (ROOT / "tests/test_dependencies.py").read_text("utf-8"))
    assert set(re.findall(r"CVE-\d+-\d+", text)) == set(here)


AUDITS = {  # what pip-audit did → exit status, what is said, and where
    "finds nothing": ("exit 0", 0, "no known fault in any version"),
    "finds something": ('echo "x 1.0 CVE-1" > "$out"; exit 1', 1, "x 1.0 CVE-1"),
    "does not know a package": ("echo 'x: not found' >&2; exit 1", 2, "nothing was audited"),
    "reaches nothing": ("echo Traceback >&2; exit 1", 2, "nothing was audited"),
}


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("end", AUDITS)
def test_an_audit_that_asked_nobody_is_no_pass(tmp_path: Path, end: str) -> None:
    """Fault: pip-audit passes over what its database does not know, and says that all is well."""
    does, status, said = AUDITS[end]
    program = tmp_path / "bin" / "pip-audit"
    program.parent.mkdir()
    # The file after --output is the last word.
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *--strict*constraints.txt*) ;; *) exit 9;; esac\n'
        f"for out; do :; done\n{does}\n"
    )
    program.chmod(0o755)
    (tmp_path / "advisories.txt").write_text("of an earlier audit")
    done = subprocess.run(
        ["make", "--no-print-directory", "audit", f"AUDIT={tmp_path}"], cwd=ROOT,
        # Under `make test`, make would take this for a part of it and say so.
        env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line[:5] != "make:"]
    (line,) = lines
    assert said in line
    assert (done.returncode == 0) == (status == 0)
    assert f"Error {status}" in done.stderr or status == 0
