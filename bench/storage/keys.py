"""Names that follow from content: keys of folders, and parts of paths that cannot climb."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def content_key(value: Any, length: int = 16) -> str:
    """A short hash of a JSON-serialisable value; the order of dictionary keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    # File names may hold bytes that are no UTF-8, which Python carries as lone surrogates.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def path_part(name: str) -> str:
    """A name as a folder: nothing in it may climb out of the results folder."""
    safe = "".join(c if c.isalnum() or c in "-_.@" else "_" for c in name)
    return safe.lstrip(".") or "_"
