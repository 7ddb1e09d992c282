"""What judges said, kept across methods and runs: only new pairs cost anything.

One file holds one judge: ``<cache_dir>/judgements/<judge>-<identity>.scores``, of which
``bench.storage.scores`` tells the form. A score is kept under 16 bytes of the passage's SHA-256 and
16 of the claim's.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from bench.storage.scores import Key, ScoreFile
from metrics.judges.base import Claim, Judge, Pair


def pair_key(pair: Pair) -> Key:
    """What a score is kept under: hashes of the passage's text and of the claim with its names."""
    return _digest(pair.passage), claim_digest(pair.claim)


def claim_digest(claim: Claim) -> bytes:
    """The hash of a claim and of the names that a judge may look for: 16 bytes."""
    return _digest(json.dumps([claim.text, claim.subjects, claim.answers]))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


class JudgementCache(ScoreFile):
    """(passage, claim) → score of one judge, on disk."""

    def __init__(self, cache_dir: Path, judge: Judge) -> None:
        name = f"{judge.name}-{judge.identity()[:32]}.scores"
        super().__init__(cache_dir / "judgements" / name)
