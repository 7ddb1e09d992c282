"""General text that is mixed into a training, so that a model forgets less of what it knew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.fields import identifying
from bench.models.tuning_settings import TrainConfig
from bench.storage import jsonlines
from bench.storage.files import expand, fingerprints
from bench.storage.hashes import file_sha256

_SETTING = "model.train.mix"
_RECORDS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")  # endings of files of records


def general_texts(pattern: str) -> Iterator[str]:
    """The texts of files: field ``text`` of each record, or each line of any other file.

    Raises:
        UserError: a file that cannot be read, or a record without a text.
    """
    for file in expand(pattern, _SETTING):
        if file.name.endswith(_RECORDS):
            for place, record in jsonlines.read_texts(file):
                text = record.get("text")
                if not isinstance(text, str) or not text.strip():
                    raise place.error("text", "is no text, or an empty one")
                yield text
        else:
            for place, line in jsonlines.lines(file):
                try:
                    text = line.decode("utf-8").strip()
                except UnicodeDecodeError as error:
                    raise UserError("is not UTF-8", where=str(place)) from error
                jsonlines.check_characters(text, "line", place)
                yield text


def train_identity(train: TrainConfig) -> dict[str, Any]:
    """All that a training depends on of its settings, as JSON values, less what changes nothing."""
    settings = identifying(train)
    if train.lora.rank is None:
        del settings["lora"]
    if train.mix is None:
        del settings["mix_share"]
    else:
        settings["mix"] = _texts_identity(train.mix)
    return settings


def _texts_identity(pattern: str) -> list[Any]:
    """What the texts depend on: the hash of each file, or what a store says of one elsewhere."""
    return [
        file_sha256(file) if isinstance(file, Path) else fingerprints([file])
        for file in expand(pattern, _SETTING)
    ]
