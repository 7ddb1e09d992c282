"""Tasks made of facts in the release's format, for tests."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bench.errors import UserError
from bench.tasks.base import load_task
from bench.tasks.trex import TRex

REPO = Path(__file__).parent.parent
DATA = Path(os.environ.get("TDABENCH_DATA", REPO / "../shared/data"))
REAL = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not (DATA / name).is_dir(), reason=f"no {name} data; set TDABENCH_DATA to its folder"
        ),
    )
    for name in ("trex", "redocred")
]


def fact(i, relation="r", sentences=(), **more):
    prompts = {f"prompt{k}": f"E{i} {k}" for k in range(3)}
    entities = {"entity0": f"E{i}", "relation": relation, "entity1": f"T{i}"}
    return {"fact_id": f"f{i}", **entities, "trex_sentences": list(sentences), **prompts, **more}


def sentence(i, facts=(), text=None):
    return {"sentence_id": f"s{i}", "text": text or f"text {i}", "fact_triples": list(facts)}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class FactFiles:
    """A folder of files, and the task made of them. Subclasses write the files and name the task.

    Attributes:
        name: of the task and its YAML.
        builder: its class.
        files: setting → file or glob, below the folder.
        defaults: settings that tests change.
    """

    name: str
    builder: type
    files: dict[str, str]
    defaults: dict = {"seed": 0}  # noqa: RUF012 - never changed

    def __init__(self, folder, facts):
        self.folder = folder
        write(folder / "facts.jsonl", facts)

    def config(self, **changes):
        """The shipped settings with ``changes``, made as the harness makes them."""
        shipped = OmegaConf.load(REPO / f"conf/task/{self.name}.yaml")
        assert shipped.pop("name") == self.name
        files = {key: f"{self.folder}/{file}" for key, file in self.files.items()}
        schema = OmegaConf.structured(self.builder.Config)
        return OmegaConf.to_object(OmegaConf.merge(schema, shipped, self.defaults, files, changes))

    def task(self, **changes):
        cache = self.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        return load_task(self.name, self.builder(self.config(**changes)), cache)

    def refusal(self, **changes):
        with pytest.raises(UserError) as caught:
            self.task(**changes)
        left = [path.name for path in (self.folder / "cache").rglob("*") if path.is_file()]
        assert left == [], "a task that failed leaves nothing behind"
        return str(caught.value)


class TRexFiles(FactFiles):
    """Facts and sentences."""

    name, builder = "trex", TRex
    files = {"facts": "facts.jsonl", "sentences": "sentences.jsonl"}  # noqa: RUF012

    def __init__(self, folder, facts, sentences):
        super().__init__(folder, facts)
        write(folder / "sentences.jsonl", sentences)
