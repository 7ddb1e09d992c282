"""Cells whose rankings hold what a viewer has to cope with, and the data of a viewer read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.viewer.chunks import read_chunk
from tests.cells import edit_result, edit_retrievals, write_cell

# What would run, steer or break the page if it were anything but text.
HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>"
    "<svg onload=window.hacked=3>\" onmouseover='window.hacked=4' javascript:window.hacked=5 "
    "{{7*7}} ${window.hacked=6} \u202egnp.exe \u2028 \x00\x07 &amp; \ud800"
)
LONG = "begin " + "x1 trombone " * 90_000 + "end"


def edited(results: Path, method: str, changes: dict[str, Any], **options: Any) -> Path:
    """A cell whose first query has other fields."""
    folder = write_cell(results, method, **options)
    edit_retrievals(folder, lambda records: records[0].update(changes))
    return folder


def hostile_cell(results: Path) -> Path:
    """A cell of which every text and name is hostile, and one passage a megabyte long."""
    folder = write_cell(results, "bm25", names={"task": HOSTILE[:-2], "method": HOSTILE[:-2]})

    def spoil(records: list[dict[str, Any]]) -> None:
        for record in records:
            n = len(record["proponents"])
            record.update(
                inputs_plaintext=HOSTILE,
                targets_plaintext=HOSTILE,
                relation=HOSTILE,
                proponents=[LONG, *[f"{HOSTILE} {i}" for i in range(1, n)]],
                proponent_ids=[f"{HOSTILE} {i}" for i in range(n)],
                opponents=[HOSTILE], opponent_ids=[HOSTILE], opponent_scores=[-1.0],
            )  # fmt: skip
            record[f"proponent_{HOSTILE}"] = [HOSTILE] * n
            record[HOSTILE] = HOSTILE
        records[0]["example_id"] = HOSTILE

    edit_retrievals(folder, spoil)
    edit_result(folder, lambda result: result["method"]["config"].update({HOSTILE[:9]: HOSTILE}))
    return folder


class Data:
    """A viewer's data, as the page reads it."""

    def __init__(self, viewer: Path) -> None:
        self.folder = viewer / "data"
        self.groups = self.chunk("catalog")["groups"]

    def chunk(self, name: str) -> Any:
        return read_chunk(self.folder / f"{name}.js")

    def queries(self, group: int = 0) -> dict[str, Any]:
        return self.chunk(f"g{group}-queries")

    def measures(self, method: int = 0, group: int = 0) -> dict[str, Any]:
        return self.chunk(f"g{group}-m{method}-measures")

    def ranking(self, query: int, method: int = 0, group: int = 0) -> dict[str, Any] | None:
        if self.measures(method, group)["ranked"][query] == "0":
            return None
        chunk = query // self.groups[group]["step"]
        return self.chunk(f"g{group}-m{method}-ranks-{chunk:05}")[str(query)]

    def passages(self, group: int = 0) -> list[tuple[str, str]]:
        """Id and text of all, in the order of their numbers."""
        found: list[tuple[str, str]] = []
        for path in sorted(self.folder.glob(f"g{group}-passages-*.js")):
            chunk = read_chunk(path)
            assert self.groups[group]["passages"][int(path.stem[-5:])] == len(found)
            found += zip(chunk["id"], chunk["text"], strict=True)
        assert self.groups[group]["passages"][-1] == len(found)
        return found


def records_of(cell: Path) -> list[dict[str, Any]]:
    """The rankings of a cell as they are on disk."""
    text = (cell / "retrievals.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
