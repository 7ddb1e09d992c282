"""Which output of a sequence classifier means entailment, told from the names of its labels."""

from __future__ import annotations

from collections.abc import Mapping

from bench.core.errors import UserError

_ENTAILMENT = frozenset({"entailment", "entailed", "entails", "entail"})


def entailment_index(id2label: Mapping[int, str], chosen: str | None, where: str) -> int:
    """The index of the entailment label.

    Args:
        chosen: the label that the user names, or its index; None = by name.
        where: the model, for the error message.

    Returns:
        the index; 0 for a model with one output, whose sigmoid is the score.

    Raises:
        UserError: no label or several are called entailment, or ``chosen`` is no label.
    """
    labels = {int(index): str(label) for index, label in id2label.items()}
    known = ", ".join(f"{index}={label}" for index, label in sorted(labels.items()))
    if chosen is not None:
        named = [i for i, label in labels.items() if chosen.strip().lower() == label.lower()]
        named = named or [i for i in labels if chosen.strip() == str(i)]
        if len(named) != 1:
            raise UserError(
                f"{chosen!r} names {'no label' if not named else 'several labels'} of {where} "
                f"({known})",
                where="metric.judge.label",
                fix="set a label's name or its index",
            )
        return named[0]
    if len(labels) == 1:
        return next(iter(labels))
    fitting = [index for index, label in labels.items() if label.strip().lower() in _ENTAILMENT]
    if len(fitting) != 1:
        raise UserError(
            f"cannot tell which of the labels means entailment ({known})",
            where=where,
            fix="set metric.judge.label to its name or index",
        )
    return fitting[0]
