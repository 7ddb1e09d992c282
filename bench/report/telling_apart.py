"""What tells the cells of a board apart: their settings, and how their values were measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.results.schema import Cell
from methods.base import GRADIENT_PARAMETERS
from metrics import measures
from metrics.measures import MetricKind

Settings = dict[str, Any]

METHOD_SEED = "method.seed"  # the method's own seed, a setting where it is not the seed of all
MODEL_SEED = "model.seed"  # the seed that the model was trained with, where the settings say it
# What a tail-patch depends on; all but ``top`` as the step was made, defaults resolved.
_PATCH = "metric.tail_patch."
_STEP = ("optimizer", "second_moments", "learning_rate", "clip")
_ABSENT = object()


def settings(cell: Cell) -> Settings:
    """Everything that may tell a cell from others of its task: method, metrics, model, seed."""
    result = cell.result
    own = dict(flatten(result.method.get("config")))
    seed = own.pop("seed", result.seed)
    return {
        **own,
        **({} if seed == result.seed else {METHOD_SEED: seed}),
        **dict(flatten({"metric": cell.measured_by})),
        **_step_of(cell),
        "method": name_of(cell, "method"),
        "model": hash_of(result.model)[:8],
        **_model_seed(cell),
        "seed": result.seed,
        "top_k": result.top_k,
        "imported": result.imported,
    }


def _model_seed(cell: Cell) -> Settings:
    model = cell.config.get("model")
    if not isinstance(model, dict) or "seed" not in model:
        return {}
    seed = model["seed"]
    return {MODEL_SEED: seed if isinstance(seed, int) else str(seed)}  # strangers write anything


def _step_of(cell: Cell) -> Settings:
    """The settings that tail-patch's step was made with; empty where none was made."""
    step = dict(cell.result.method.get("facts") or {}).get("tail_patch_step")
    if not isinstance(step, dict):
        return {}
    model = cell.config.get("model")
    # Of a model that was trained or published here, V is the training's: the model's name says it.
    own = isinstance(model, dict) and model.get("source") in ("scratch", "published")
    names = [name for name in _STEP if name in step and not (own and name == "second_moments")]
    return {f"{_PATCH}{name}": step[name] for name in names}


def flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested dictionaries as ``("outer.inner", value)``, in their order."""
    if not isinstance(value, dict):
        return [(prefix, value)] if prefix else []
    return [
        leaf
        for key, inner in value.items()
        for leaf in flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    ]


def differing(own: Settings, peers: Iterable[Settings]) -> Settings:
    """The settings of a cell in which any of its peers is different, by name."""
    peers = list(peers)
    names = [
        key for key in sorted(own) if any(peer.get(key, _ABSENT) != own[key] for peer in peers)
    ]
    # Another seed trains another model, and a method without one knows of none: the hash is news
    # only where all seeds are equal and both hashes are known; the model's seed, where that of the
    # cell is equal and does not tell the cells apart already.
    alike = [peer for peer in peers if peer.get("seed") == own.get("seed")]
    seed, model = own.get(MODEL_SEED), own.get("model")
    seeds = {peer.get(MODEL_SEED, seed) for peer in alike}
    models = {peer.get("model") for peer in alike if peer.get(MODEL_SEED, seed) == seed}
    dull = {"model"} if not model or models <= {model, "", None} else set()
    dull |= {MODEL_SEED} if seeds <= {seed} else set()
    return {key: own[key] for key in names if key not in dull}


def spelled(apart: Settings) -> str:
    """Settings as a label has them, long values cut: ``"b=0.4, k1=1.5"``."""
    return ", ".join(f"{key}={_short(value)}" for key, value in sorted(apart.items()))


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:18]}…{text[-18:]}"


def name_of(cell: Cell, part: str) -> str:
    """The name of a cell's task, model or method; its folder says it if the result does not."""
    level = {"task": 2, "model": 1, "method": 0}[part]
    return str(getattr(cell.result, part).get("name") or cell.folder.parents[level].name)


def hash_of(part: dict[str, Any]) -> str:
    """The hash that a result gives of its task or model; empty where it gives none."""
    return str(part.get("sha256") or "")


def labels_of(cells: Sequence[Cell]) -> list[str]:
    """A label for each cell of a board that no other has.

    It is the method and, in parentheses, who handed it in, whether it was imported, whether it
    rests on estimated second moments or on a part of the model's matrices, and the settings that
    tell it from its neighbours.
    """
    board = [settings(cell) for cell in cells]
    labels = []
    for cell, own in zip(cells, board, strict=True):
        # An imported ranking and a run of the same name have no setting in common to compare.
        kin = (own["method"], own["imported"])
        peers = [other for other in board if (other["method"], other["imported"]) == kin]
        parts = [f"by {cell.source.by}"] if cell.source else []
        parts += ["imported"] if cell.result.imported else []
        parts += ["moments estimated"] if rests_on_estimate(cell) else []
        share = share_of_matrices(cell)
        parts += [f"{100 * share:.3g}% of the matrices"] if share < 1 else []
        # How it was measured is to be told from every row, not from those of its method alone.
        apart = spelled({**differing(own, peers), **_measured_apart(own, board)})
        parts += [apart] if apart else []
        labels.append(f"{own['method']} ({', '.join(parts)})" if parts else own["method"])
    return [
        # Equal settings and yet two cells: only the key tells them apart.
        f"{label} [{cell.folder.name[:8]}]" if labels.count(label) > 1 else label
        for cell, label in zip(cells, labels, strict=True)
    ]


def share_of_matrices(cell: Cell) -> float:
    """The share of the attention and MLP matrices that a gradient method looked at; 1 is all."""
    facts = cell.result.method.get("facts")
    records = [
        value
        for key, value in (facts.items() if isinstance(facts, dict) else ())
        if key.endswith(GRADIENT_PARAMETERS) and isinstance(value, dict)
    ]
    shares = [share for one in records if isinstance(share := one.get("share"), int | float)]
    return min(shares, default=1.0)


def rests_on_estimate(cell: Cell) -> bool:
    """Whether a ranking or its tail-patch divides by second moments that nobody's optimizer kept.

    See ``bench.models.moments_estimate``.
    """
    training = cell.result.model.get("training")
    if not isinstance(training, dict) or training.get("second_moments") != "estimated":
        return False
    config = flatten(cell.result.method.get("config"))
    corrected = any(key.endswith("optimizer_correction") and value for key, value in config)
    patch = cell.measured_by.get("tail_patch")
    stepped = isinstance(patch, dict) and patch.get("optimizer") == "saved"
    kinds = {measures.of(metric).kind for metric in cell.result.metrics}
    return corrected or (stepped and MetricKind.influence in kinds)


def measured_alike(metric: str, cell: Cell) -> str:
    """A text that is equal for cells whose values of a metric may be compared, query by query."""
    own, kind = settings(cell), measures.of(metric).kind
    if kind is MetricKind.retraining:
        # Who trains other models may never have seen the one that they stand for.
        own["model"] = cell.config.get("model")
    return repr([(key, str(own.get(key))) for key in sorted(_measuring(kind, own))])


def _measuring(kind: MetricKind, own: Settings) -> set[str]:
    """The settings that the values of a kind of metric depend on."""
    if kind is MetricKind.influence:
        return {"model", f"{_PATCH}top", *(f"{_PATCH}{name}" for name in _STEP)}
    if kind is MetricKind.retraining:
        return {"model", *(key for key in own if key.startswith("metric.retraining."))}
    return {"metric.no_gold"}  # the length of the lists has a column of its own


def _measured_apart(own: Settings, board: Sequence[Settings]) -> Settings:
    """Settings by which a cell's values are measured, and others of the board in another way."""
    measured = _all_measuring(own)
    # A cell that measured less, or with another seed, is no reason to name one.
    others = [{**measured, **_all_measuring(one), "seed": one["seed"]} for one in board]
    apart = differing({**measured, "seed": own["seed"]}, others)
    return {key: value for key, value in apart.items() if key != "seed"}


def _all_measuring(own: Settings) -> Settings:
    kinds = [MetricKind.attribution, MetricKind.retraining]
    kinds += [MetricKind.influence] if own.get("metric.tail_patch.enabled") else []
    names = set().union(*(_measuring(kind, own) for kind in kinds))
    names |= {MODEL_SEED} if "model" in names else set()
    return {key: value for key, value in own.items() if key in names}
