"""An optimizer's ``state_dict`` taken apart into parameters, each with its name.

Names that the state records itself win: ``param_names`` of its groups, or ids that are names. Ids
that are numbers are the places of parameters in the optimizer (``bench.models.states.places``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bench.core.errors import UserError
from bench.models.moment_files import NAME_KEYED, STEP, Fields
from bench.models.states.kinds import (
    ADAFACTOR,
    ADAM,
    StateEntry,
    check_second_moments,
    kind_of,
    second_moments,
    unwrapped,
)
from bench.models.states.places import names_by_place

_STATE, _GROUPS = "state", "param_groups"
_WHOLE = "optimizer"  # the key that a state stands under in a trainer's checkpoint


@dataclass(frozen=True)
class State:
    """Second moments as a state has them.

    Attributes:
        moments: fields of each parameter, by the name that the state or its order has for it.
        optimizers: what keeps such states.
        without: parameters that the state has no second moments of, and what it keeps instead.
    """

    moments: dict[str, Fields]
    optimizers: list[str]
    without: dict[str, str] = field(default_factory=dict)


def state_of(checkpoint: Any, module: nn.Module, where: str) -> State:
    """The second moments of an optimizer's ``state_dict``, perhaps under the key ``optimizer``.

    Args:
        checkpoint: the state.
        module: the model whose parameters it is of.
        where: the place of the state, for messages.

    Raises:
        UserError: it is no such state, there are no second moments in it, or its parameters have no
            names and fit none or several of the known orders.
    """
    checkpoint = _unnested(checkpoint, where)
    try:
        entries = list(_entries(checkpoint, where))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "its 'state' and 'param_groups' are not as torch writes them",
            where=where,
            fix=NAME_KEYED,
        ) from error
    check_second_moments([entry.fields for entry in entries], where)
    names = [entry.name for entry in entries]
    known = [name for name in names if name is not None]
    if known and len(known) < len(names):
        raise UserError(
            f"it names {len(known)} of its {len(names)} parameters", where=where, fix=NAME_KEYED
        )
    if not known:
        known = names_by_place(entries, module, where)
    named = dict(zip(known, entries, strict=True))
    if len(named) < len(known):
        twice = next(name for name in known if known.count(name) > 1)
        raise UserError(f"it has parameter {twice} twice", where=where, fix=NAME_KEYED)
    kinds = {name: kind_of(entry.fields) for name, entry in named.items()}
    return State(
        moments={
            name: second_moments(entry, name, where)
            for name, entry in named.items()
            if kinds[name] is not None
        },
        optimizers=_optimizers(named),
        without={name: _kept(named[name]) for name, kind in kinds.items() if kind is None},
    )


def _optimizers(named: Mapping[str, StateEntry]) -> list[str]:
    """What keeps such states; of a vector Adafactor has the same field as Adam, and no betas."""
    kinds = {kind_of(entry.fields) for entry in named.values()}
    if ADAFACTOR in kinds and not any("betas" in entry.group for entry in named.values()):
        kinds.discard(ADAM)
    return sorted(kind for kind in kinds if kind is not None)


def _kept(entry: StateEntry) -> str:
    kept = sorted(str(key) for key in entry.fields if key != STEP)
    return f"the state keeps {', '.join(kept)} alone" if kept else "the state keeps nothing of it"


def _unnested(checkpoint: Any, where: str) -> dict[str, Any]:
    if isinstance(checkpoint, dict) and _WHOLE in checkpoint:
        checkpoint = checkpoint[_WHOLE]
    if isinstance(checkpoint, dict) and {_STATE, _GROUPS} <= set(checkpoint):
        return checkpoint
    flat = isinstance(checkpoint, dict) and _from_flat(checkpoint)
    if not flat:
        raise UserError(
            "no optimizer state_dict (keys 'state' and 'param_groups') in it",
            where=where,
            fix=NAME_KEYED,
        )
    return flat


def _from_flat(checkpoint: Mapping[Any, Any]) -> dict[str, Any]:
    """A state whose keys are ``state.NAME.FIELD``, as torch flattens it, in the usual form.

    Returns:
        the state, each parameter in a group of its own; empty if no key is of this form.
    """
    state: dict[str, dict[str, Any]] = {}
    groups: dict[str, dict[str, Any]] = {}
    for key, value in checkpoint.items():
        kind, _, rest = str(key).partition(".")
        name, _, own = rest.rpartition(".")
        if kind in (_STATE, _GROUPS) and name:
            (state if kind == _STATE else groups).setdefault(name, {})[own] = value
    if not state:
        return {}
    names = [*state, *(name for name in groups if name not in state)]
    return {
        _STATE: state,
        _GROUPS: [{**groups.get(name, {}), "params": [name]} for name in names],
    }


def _entries(checkpoint: Mapping[str, Any], where: str) -> Iterator[StateEntry]:
    """The parameters of all groups, in their order."""
    for group in checkpoint[_GROUPS]:
        identifiers = list(group["params"])
        names = list(group.get("param_names") or map(_if_name, identifiers))
        if len(names) != len(identifiers):
            raise UserError(
                f"a group has {len(identifiers)} parameters and {len(names)} param_names",
                where=where,
                fix=NAME_KEYED,
            )
        for identifier, name in zip(identifiers, names, strict=True):
            fields = unwrapped(checkpoint[_STATE].get(identifier) or {})
            yield StateEntry(identifier, name, fields, group)


def _if_name(identifier: Any) -> str | None:
    return identifier if isinstance(identifier, str) else None
