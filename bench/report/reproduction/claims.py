"""The claims file: what is in it, and that it is well formed."""

# No postponed annotations: OmegaConf reads the types of the fields.
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.typed import typed
from bench.storage.documents import read_yaml
from metrics import measures
from metrics.attribution import parse_metric


class ClaimKind(str, Enum):
    """How a claim is checked; names are the values of the field."""

    order = "order"
    value = "value"
    rises = "rises"


class Status(str, Enum):
    """Whether the claim could be confirmed from stored copies of the paper."""

    confirmed = "confirmed"
    unverified = "unverified"


@dataclass
class PaperClaim:
    """One thing that the paper reports; ``claims.yaml`` says what the fields mean."""

    id: str
    claim: str
    kind: ClaimKind
    metrics: list[str]
    source: str
    status: Status
    command: str
    above: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)
    times: float = 1.0
    method: str = ""
    value: float = float("nan")
    tolerance: float = 0.0
    scale: dict[str, list[str]] = field(default_factory=dict)
    least_passages: int = 0


_NEEDS = {
    ClaimKind.order: ("above", "below"),
    ClaimKind.value: ("method", "value", "tolerance"),
    ClaimKind.rises: ("method",),
}


def read_claims(path: Path | None = None) -> list[PaperClaim]:
    """The claims of a file, of the project's own if ``path`` is None.

    Raises:
        UserError: no such file, no YAML, or a claim with an unknown, missing or wrong field.
    """
    with ExitStack() as stack:
        if path is None:
            ours = resources.files("bench.report.reproduction") / "claims.yaml"
            path = stack.enter_context(resources.as_file(ours))
        records = read_yaml(path)
    if not isinstance(records, list) or not records:
        raise UserError("expected a list of claims", where=str(path))
    claims = [_claim(record, path, i) for i, record in enumerate(records, start=1)]
    ids = [claim.id for claim in claims]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise UserError(f"claim {twice[0]!r} is there twice", where=str(path))
    return claims


def _claim(record: Any, path: Any, number: int) -> PaperClaim:
    where = f"{path}, claim {number}"
    if not isinstance(record, dict):
        raise UserError("expected a claim with its fields", where=where)
    try:
        claim: PaperClaim = typed(
            PaperClaim, {str(key): value for key, value in record.items()}, ""
        )
    except UserError as error:
        raise UserError(
            f"{error.where} {error.what}".strip(), where=where, fix=error.fix
        ) from error
    if unknown := sorted(set(claim.scale) - {"task", "model"}):
        raise UserError(f"scale has no {unknown[0]!r}: it is of task and model", where=where)
    if missing := [name for name in _NEEDS[claim.kind] if name not in record]:
        raise UserError(f"a claim of kind {claim.kind.value} needs {missing[0]}", where=where)
    for metric in claim.metrics:
        if not (isinstance(metric, str) and measures.of(metric).needs_model):
            parse_metric(metric)
    return claim
