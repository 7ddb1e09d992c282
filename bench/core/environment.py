"""The environment that a number was made in: versions, device, and the state of the code."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def environment(device: str) -> dict[str, Any]:
    """Versions, device, number of threads and commit of this process, by the names of results."""
    import torch
    import transformers

    sha, dirty = _git_state()
    return {
        "tdabench": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "git_sha": sha,
        "dirty": dirty,
    }


@cache
def _git_state() -> tuple[str | None, bool | None]:
    """The commit of the code, and whether files differ from it; None twice outside a checkout."""
    folder = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(  # noqa: S603 - fixed arguments
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if not (folder / ".git").exists():
            return None, None
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.SubprocessError):
        return None, None
