"""Data files that a page opened from disk can load: scripts that hand over compressed JSON."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

from bench.report.viewer.reading import valid_unicode

REGISTER = "tdabench"  # the one global function of the page
_NAME = re.compile(r"[a-z0-9-]+")
_LEVEL = 7  # of 9 levels: the highest is 2% smaller and takes three times as long


def write_chunk(folder: Path, name: str, value: Any) -> None:
    """Write ``value`` as ``NAME.js``: a call of ``REGISTER`` with the name and raw deflate, base64.

    Whatever ``value`` holds, the file is ASCII of a fixed form: no text of a corpus can end the
    string, nor the script.
    """
    assert _NAME.fullmatch(name), "names are made here, never from data"
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(valid_unicode(text).encode()) + packer.flush()
    payload = base64.b64encode(packed).decode()
    (folder / f"{name}.js").write_text(f'{REGISTER}("{name}","{payload}");\n', encoding="ascii")
