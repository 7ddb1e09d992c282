"""What a judge is: it scores how surely a passage states a claim, from 0 to 1.

A claim is the query as one string: prompt, separator and target. A passage is correct where the
score is above the threshold; the release calls that score ``proponent_ais_scores`` and its
threshold is 0.5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from bench.core.errors import UserError
from bench.storage.keys import content_key

THRESHOLD = 0.5  # of the release: a passage is correct above it


@dataclass(frozen=True)
class Claim:
    """A statement that a passage is asked to make.

    Attributes:
        text: prompt, separator, target.
        subjects: names of what the claim is about; empty where the task knows none.
        answers: names of the target, at least the target itself.
    """

    text: str
    subjects: tuple[str, ...]
    answers: tuple[str, ...]


def make_claim(
    prompt: str,
    target: str,
    subjects: Sequence[str] = (),
    answers: Sequence[str] = (),
    separator: str = " ",
) -> Claim:
    """The claim ``prompt + separator + target``, with the names that the task knows."""
    names = tuple(dict.fromkeys([target, *answers]))
    return Claim(f"{prompt}{separator}{target}", tuple(dict.fromkeys(subjects)), names)


@dataclass(frozen=True)
class Pair:
    """The text of a passage, and the claim that it may state."""

    passage: str
    claim: Claim


class Judge(ABC):
    """One way to score pairs; a subclass is one entry of ``JUDGES``.

    Subclasses set ``Config`` (a dataclass, whose ``threshold`` is read here), ``name`` and
    ``version`` (raised whenever a change of code moves a score).

    Attributes:
        counts: anything counted on the way, such as passages that were cut.
    """

    Config: ClassVar[type]
    name: ClassVar[str]
    version: ClassVar[int] = 1

    def __init__(self, config: Any, device: str = "cpu") -> None:
        self.config = config
        self.device = device
        self.counts: Counter[str] = Counter()
        if not 0 <= self.threshold < 1:
            raise UserError(
                f"expected a number from 0 to below 1, found {self.threshold}",
                where="metric.judge.threshold",
            )

    @property
    def threshold(self) -> float:
        """The score above which a passage is correct."""
        return float(getattr(self.config, "threshold", THRESHOLD))

    def check(self, claims: Sequence[Claim]) -> None:  # noqa: B027 - some have nothing to check
        """Raise UserError, before any work starts, if these claims cannot be judged here."""

    @abstractmethod
    def identity(self) -> str:
        """Hash of everything that a score depends on besides passage and claim, 64 hex digits."""

    @abstractmethod
    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Score pairs.

        Returns:
            float64 ``[len(pairs)]`` in ``[0, 1]``, in the order given; NaN = could not be judged.
        """


def identity_of(judge: Judge, *parts: Any, without: Sequence[str] = ()) -> str:
    """The hash for ``Judge.identity``: name, version, settings and ``parts``.

    Args:
        judge: whose identity it is.
        parts: JSON values, such as the hash of a model's files.
        without: settings that move no score. ``threshold`` is always one.
    """
    left_out = {"threshold", *without}
    settings = {
        field.name: getattr(judge.config, field.name)
        for field in fields(judge.config)
        if field.name not in left_out
    }
    return content_key([judge.name, judge.version, settings, *parts], length=64)
