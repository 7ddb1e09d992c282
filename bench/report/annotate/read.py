"""Reading an answered sheet: every fault names file, line and field."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from bench.core.errors import UserError, did_you_mean
from bench.storage.bounds import MOST_LINE_BYTES, MOST_SHEET_BYTES, open_regular
from bench.storage.jsonlines import Place

_MEANINGS = {
    **dict.fromkeys(("y", "yes", "true", "1"), "y"),
    **dict.fromkeys(("n", "no", "false", "0"), "n"),
    **dict.fromkeys(("unsure", "u", "?"), "unsure"),
    "": "",
}
_NEEDED = ("pair_id", "answer")


def read_answers(path: Path) -> dict[str, tuple[Place, str]]:
    """The answers of a sheet: ``y``, ``n``, ``unsure`` or empty, with their places, by pair id.

    Columns may be separated by commas, semicolons or tabs, as spreadsheets of different countries
    write them, and others than ``pair_id`` and ``answer`` are not read. A pair may stand in several
    lines if they do not contradict each other.

    Raises:
        UserError: the file cannot be read or lacks a column, an answer is unknown, or two answers
            contradict each other.
    """
    answers: dict[str, tuple[Place, str]] = {}
    for place, row in _rows(path):
        name = row["pair_id"].strip().lower()
        if not name:
            raise place.error("pair_id", "is empty", "restore the id, or delete the line")
        given = row["answer"].strip()
        answer = _MEANINGS.get(given.lower())
        if answer is None:
            raise place.error(
                "answer", f"expected y, n or unsure, found {given!r:.40}", "or leave it empty"
            )
        first, before = answers.setdefault(name, (place, answer))
        if before and answer and before != answer:
            raise place.error(
                "answer", f"{answer!r} contradicts {before!r} at {first}", "keep one of them"
            )
        if answer and not before:
            answers[name] = (place, answer)
    if not answers:
        raise UserError("holds no line of a sheet", where=str(path))
    return answers


def _rows(path: Path) -> Iterator[tuple[Place, dict[str, str]]]:
    limit = csv.field_size_limit(MOST_LINE_BYTES)  # of itself, csv stops at 128 KiB
    line = 1
    try:
        sheet = open_regular(path, MOST_SHEET_BYTES)
        with io.TextIOWrapper(sheet, encoding="utf-8-sig", newline="") as stream:
            head = stream.readline(MOST_LINE_BYTES)
            stream.seek(0)
            reader = csv.reader(stream, delimiter=max(",;\t", key=head.count), strict=True)
            columns = [column.strip() for column in next(reader, [])]
            for needed in _NEEDED:
                if columns.count(needed) != 1:
                    what = "no such column" if needed not in columns else "stands there twice"
                    raise Place(path, 1).error(needed, what, did_you_mean(needed, columns))
            line = reader.line_num + 1  # where the record starts: fields may hold line breaks
            for values in reader:
                place, line = Place(path, line), reader.line_num + 1
                if not any(map(str.strip, values)):
                    continue
                if len(values) < len(columns):
                    lacking = columns[len(values)]
                    raise place.error(lacking, f"missing: {len(values)} of {len(columns)} columns")
                yield place, dict(zip(columns, values, strict=False))
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8 at byte {error.start}", where=f"{path}:{line}", fix="save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise UserError(f"broken CSV ({error})", where=f"{path}:{line}", fix="mend it") from error
    except OSError as error:
        raise UserError(f"cannot read it ({error.strerror})", where=str(path)) from error
    finally:
        csv.field_size_limit(limit)
