"""Parquet tables that may be anybody's: flat columns of texts and numbers, within bounds.

A few bytes of Parquet can stand for any number of rows: equal values pack to nothing, and a text is
stored once and repeated by its number. So sizes are taken from the footer before a column is read,
and texts stay in their dictionary until they are handed out, each made once.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.core.errors import UserError
from bench.storage.bounds import (
    MOST_TABLE_BYTES,
    MOST_TABLE_COLUMNS,
    MOST_TABLE_ROWS,
    MOST_TABLE_VALUES,
    open_regular,
)

_FIX = "copy the file again from where it was made"
# What pandas writes by default, and no packing: neither makes more than some tens of bytes of one.
_CODECS = ("SNAPPY", "UNCOMPRESSED")


def read_columns(path: Path, most_rows: int | None = None) -> dict[str, np.ndarray]:
    """The columns of a table in the order of its rows.

    Args:
        most_rows: rows that it may have; None for the most of any table.

    Returns:
        Column name → array: numbers as float64 with NaN for null, lists of numbers as objects that
        are arrays, texts as objects that are str, or None for null.

    Raises:
        UserError: missing or damaged, a column of another type, or beyond a bound of
            ``bench.storage.bounds``.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with open_regular(path, MOST_TABLE_BYTES) as stream:
            texts = _checked(parquet.ParquetFile(stream), path, most_rows)
            # Not read_table: that reads folder names like `b=0.4` as partition columns.
            table = parquet.ParquetFile(_rewound(stream), read_dictionary=texts).read()
        return {name: _array(table.column(name), name, path) for name in table.column_names}
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read it ({reason})", where=str(path), fix=_FIX) from error


def _rewound(stream: IO[bytes]) -> IO[bytes]:
    stream.seek(0)
    return stream


def _checked(file: Any, path: Path, most_rows: int | None) -> list[str]:
    """The names of the columns of texts, once it is sure that nothing in the table is too large."""
    meta = file.metadata
    groups = [meta.row_group(number) for number in range(min(meta.num_row_groups, MOST_TABLE_ROWS))]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    sizes = (
        ("rows", meta.num_rows, MOST_TABLE_ROWS if most_rows is None else most_rows),
        ("groups of rows", meta.num_row_groups, max(1, meta.num_rows)),
        ("columns", meta.num_columns, MOST_TABLE_COLUMNS),
        ("values", sum(column.num_values for column in columns), MOST_TABLE_VALUES),
        ("bytes unpacked", sum(c.total_uncompressed_size for c in columns), MOST_TABLE_BYTES),
    )
    for what, size, most in sizes:
        if not 0 <= size <= most:
            raise UserError(
                f"has {size:,} {what}, and {most:,} are the most that it may have",
                where=str(path),
                fix=_FIX,
            )
    if other := sorted({column.compression for column in columns} - {*_CODECS}):
        raise UserError(
            f"is packed with {other[0]}: only {' and '.join(_CODECS)} are read",
            where=str(path),
            fix="write it anew with snappy",
        )
    names = file.schema_arrow.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"has two columns {twice[0]!r:.60}", where=str(path), fix=_FIX)
    return [field.name for field in file.schema_arrow if _kind(field.type) == "text"]


def _kind(of: Any) -> str:
    """``text``, ``number``, ``list`` of numbers, ``null``, or empty for a type that is not read."""
    from pyarrow import types

    if types.is_dictionary(of):
        return "text" if _kind(of.value_type) == "text" else ""
    if types.is_string(of) or types.is_large_string(of):
        return "text"
    if types.is_boolean(of) or types.is_integer(of) or types.is_floating(of):
        return "number"
    if types.is_list(of) or types.is_large_list(of):
        return "list" if _kind(of.value_type) == "number" else ""
    return "null" if types.is_null(of) else ""


def _array(column: Any, name: str, path: Path) -> np.ndarray:
    kind = _kind(column.type)
    if not kind:
        raise UserError(
            f"holds {column.type}, and texts, numbers or lists of numbers are read",
            where=f"{path}, column {name!r:.60}",
            fix=_FIX,
        )
    if kind == "text":
        return _texts(column)
    values = column.to_numpy()
    if kind == "number":
        return values.astype(np.float64)
    return values.astype(object)


def _texts(column: Any) -> np.ndarray:
    """The texts of a column in its dictionary's form, each made once however often it occurs."""
    whole = column.dictionary_encode().combine_chunks()
    parts = whole.chunks if hasattr(whole, "chunks") else [whole]
    arrays = []
    for part in parts:
        words = np.array([*part.dictionary.to_pylist(), None], dtype=object)
        codes = part.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
        arrays.append(words[codes])
    return np.concatenate(arrays) if arrays else np.array([], dtype=object)
