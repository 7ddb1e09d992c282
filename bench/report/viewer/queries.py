"""The queries of a group and the values of each method on them, by which the viewer filters."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.report import display
from bench.report.viewer.reading import Ranked
from bench.report.viewer.values import rounded
from bench.results.per_query import SUPPORT, cluster_columns, cluster_labels_of
from bench.tasks.buckets import groups_named_by
from metrics import measures
from metrics.measures import MRR


class Queries:
    """Every query of any method, in the order of the files, with the groups that it belongs to."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._prompts: list[str] = []
        self._targets: list[str] = []
        self._labels: list[dict[str, str]] = []

    def __len__(self) -> int:
        return len(self._places)

    def place(self, ranked: Ranked, labels: dict[str, str]) -> int:
        """The number of a query; a new one is taken in, with its groups by slice, ``labels``."""
        record = ranked.record
        place = self._places.setdefault(record.example_id, len(self._places))
        if place == len(self._prompts):
            self._prompts.append(record.inputs_plaintext)
            self._targets.append(record.targets_plaintext)
            self._labels.append({})
        for name, label in (*labels.items(), *groups_named_by(record).items()):
            self._labels[place].setdefault(name, label)
        return place

    def to_json(self) -> dict[str, Any]:
        """The queries as columns; a slice is sorted labels and an index a query, −1 for none."""
        slices = []
        for name in dict.fromkeys(name for labels in self._labels for name in labels):
            values = [labels.get(name) for labels in self._labels]
            order = sorted({value for value in values if value is not None}, key=display.natural)
            index = {label: i for i, label in enumerate(order)}
            places = [-1 if value is None else index[value] for value in values]
            slices.append({"name": name, "labels": order, "of": places})
        return {
            "id": list(self._places),
            "prompt": self._prompts,
            "target": self._targets,
            "slices": slices,
        }


class Measures:
    """The values of one method by query: those of its table, and the rank of its first hit."""

    def __init__(self, table: dict[str, np.ndarray]) -> None:
        ids = table.get("query_id", np.array([], dtype=str)).tolist()
        self._rows = {query_id: row for row, query_id in enumerate(ids)}
        self._texts = {
            name: values
            for name, values in table.items()
            if values.dtype.kind == "O" and name != "query_id"
        }
        numbers = {name: values for name, values in table.items() if values.dtype.kind == "f"}
        self._kinds = {n: v for n, v in numbers.items() if n.startswith(f"{SUPPORT}=")}
        hidden = (*self._kinds, *cluster_columns(cluster_labels_of(table)))
        names = measures.in_order(name for name in numbers if name not in hidden)
        first = [name for name in measures.HEADLINE if name in names]
        self._numbers = {name: numbers[name] for name in dict.fromkeys([*first, *names])}
        self._places: dict[int, tuple[int | None, int | None, float | None]] = {}

    def labels(self, query_id: str) -> dict[str, str]:
        """The groups of a query by slice."""
        row = self._rows.get(query_id)
        if row is None:
            return {}
        labels = {name: values[row] for name, values in self._texts.items()}
        return {name: label for name, label in labels.items() if isinstance(label, str)}

    def add(self, place: int, ranked: Ranked) -> None:
        """Take in one ranking of the file."""
        has_gold = ranked.record.has_trex_sentence is not False
        scored = ranked.first is not None and (has_gold or ranked.first > 0)
        reciprocal = (1 / ranked.first if ranked.first else 0.0) if scored else None
        row = self._rows.get(ranked.record.example_id)
        self._places[place] = (row, ranked.first, reciprocal)

    def reciprocals(self, n_queries: int) -> np.ndarray:
        """The reciprocal rank of each query, shape (queries,), not a number where it has none."""
        entries = [self._places.get(place) for place in range(n_queries)]
        values = [entry[2] if entry else None for entry in entries]
        return np.array([np.nan if one is None else one for one in values], dtype=float)

    def to_json(self, n_queries: int) -> dict[str, Any]:
        """The values as columns of one value a query, null where there is none."""
        entries = [self._places.get(place) for place in range(n_queries)]
        columns = {
            name: [_at(values, entry[0] if entry else None) for entry in entries]
            for name, values in self._numbers.items()
        }
        if MRR not in columns and any(entry and entry[2] is not None for entry in entries):
            columns = {MRR: [entry and rounded(entry[2]) for entry in entries], **columns}
        return {
            "ranked": "".join("01"[entry is not None] for entry in entries),
            "first": [entry and entry[1] for entry in entries],
            "columns": [
                {**_head(name), "values": values}
                for name, values in columns.items()
                if any(value is not None for value in values)
            ],
            "kinds": [
                {
                    "name": name.removeprefix(f"{SUPPORT}="),
                    "shares": [_at(values, entry[0] if entry else None) for entry in entries],
                }
                for name, values in self._kinds.items()
            ],
        }


def _at(values: np.ndarray, row: int | None) -> Any:
    return None if row is None else rounded(float(values[row]))


def _head(name: str) -> dict[str, Any]:
    """What the page must know of a metric; a single query has no mean, and so another title."""
    measure = measures.of(name)
    return {
        "name": name,
        "title": measure.of_one or measure.head,
        "scale": measure.scale,
        "signed": measure.signed,
    }
