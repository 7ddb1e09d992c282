"""Data files that a page opened from disk can load: scripts that hand over compressed JSON."""

from __future__ import annotations

import base64
import re
import zlib
from pathlib import Path

from bench.report.viewer.values import valid_unicode

REGISTER = "tdabench"  # the one global function of the page
_NAME = re.compile(r"[a-z0-9-]+")
# Of 9 levels. For texts, the highest is 2% smaller than this and takes three times as long.
TEXTS = 7
# Digits repeat little: with level 7 lists of scores are 8% smaller, and take five times as long.
NUMBERS = 1


def write_chunk(folder: Path, name: str, text: str, level: int = TEXTS) -> None:
    """Write JSON as ``NAME.js``: a call of ``REGISTER`` with the name and raw deflate, base64.

    Whatever ``text`` holds, the file is ASCII of a fixed form: no text of a corpus can end the
    string, nor the script.
    """
    assert _NAME.fullmatch(name), "names are made here, never from data"
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(valid_unicode(text).encode()) + packer.flush()
    payload = base64.b64encode(packed).decode()
    (folder / f"{name}.js").write_text(f'{REGISTER}("{name}","{payload}");\n', encoding="ascii")
