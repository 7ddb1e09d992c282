"""The table of one row per query that lies beside every result."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.results.schema import PER_QUERY


def read_per_query(folder: Path) -> dict[str, np.ndarray]:
    """The columns of a cell's ``per_query.parquet`` in the order of its rows.

    Returns:
        Column name → array: ``query_id`` as str, numbers as float64 with NaN where not scored,
        everything else as object.

    Raises:
        UserError: missing or damaged file, no ``query_id`` column, or a query that occurs twice.
    """
    import pyarrow as pa
    from pyarrow import parquet

    path = folder / PER_QUERY
    try:
        # Not read_table: that reads folder names like `b=0.4` as partition columns.
        with parquet.ParquetFile(path) as file:
            table = file.read()
        columns = {name: _array(table.column(name)) for name in table.column_names}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot read it ({error})", where=str(path)) from error
    if "query_id" not in columns:
        raise UserError("has no column query_id", where=str(path))
    columns["query_id"] = columns["query_id"].astype(str)
    if len(set(columns["query_id"])) != len(columns["query_id"]):
        raise UserError("lists a query twice", where=str(path))
    return columns


def _array(column: object) -> np.ndarray:
    values = column.to_numpy()  # type: ignore[attr-defined]
    return values.astype(np.float64) if values.dtype.kind in "fiub" else values.astype(object)
