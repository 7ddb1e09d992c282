"""The blinded sheet: pairs of passage and claim, without the methods that listed them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import UserError, at_least
from bench.results.schema import RETRIEVALS, Cell, read_cells
from bench.tasks.records import RetrievalRecord, read_retrievals
from metrics.judges.base import make_claim

COLUMNS = ("pair_id", "passage", "claim", "answer")


@dataclass(frozen=True)
class Item:
    """One pair to judge.

    Attributes:
        pair_id: hash of both texts, so that a sheet needs no key beside it.
        passage, claim: the two texts as they stand in the rankings.
    """

    pair_id: str
    passage: str
    claim: str


def claim_of(record: RetrievalRecord) -> str:
    """The claim of a stored query: prompt, a space, target."""
    return make_claim(record.inputs_plaintext, record.targets_plaintext).text


def pair_id(passage: str, claim: str) -> str:
    """The name of a pair: 16 hex digits."""
    return _hash("pair", passage, claim)[:16]


def make_sheet(results_dir: Path, n_queries: int, top: int, seed: int) -> list[Item]:
    """Sample queries and list the first ``top`` proponents of every cell, each pair once.

    The sample and the order depend on the texts and the seed alone: cells that are added later
    change neither the claims that were drawn from the same queries nor the ids of their pairs.

    Args:
        n_queries: number of distinct claims to draw from those of all cells.
        top: number of proponents of each cell and query.
        seed: the seed of the sample and of the order.

    Raises:
        UserError: there is no cell or nothing to judge, a ranking is damaged, or a number is below
            1.
    """
    for option, value in (("--queries", n_queries), ("--top", top)):
        at_least(1, option, value)
    cells = read_cells(results_dir)
    claims = {claim_of(record) for _, record in all_records(cells)}
    chosen = set(sorted(claims, key=lambda claim: _hash(seed, claim))[:n_queries])
    items: dict[str, Item] = {}
    for _, record in all_records(cells):
        claim = claim_of(record)
        if claim in chosen:
            for passage in record.proponents[:top]:
                name = pair_id(passage, claim)
                items.setdefault(name, Item(name, passage, claim))
    if not items:
        raise UserError("its rankings list no passage", where=str(results_dir))
    return sorted(items.values(), key=lambda item: _hash(seed, "order", item.pair_id))


def all_records(cells: Sequence[Cell]) -> Iterator[tuple[Cell, RetrievalRecord]]:
    """The lists of every cell that has kept its rankings, read one at a time."""
    for cell in cells:
        if (cell.folder / RETRIEVALS).exists():
            for record in read_retrievals(cell.folder / RETRIEVALS):
                yield cell, record


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()
