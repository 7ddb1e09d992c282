"""Invented worlds for tests, in memory."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bench.tasks.factworld import FactWorld, ReplacedWorld
from bench.tasks.factworld.relations import N_OBJECT_LAST, RELATIONS

CONF = Path(__file__).parent.parent / "conf" / "task"
WORLDS = {"factworld": FactWorld, "replaced": ReplacedWorld}
NEGATIONS = re.compile(
    "not true|is false|withdrawn|no record supports|deny|mistaken|wrongly|nothing confirms"
    "|an error|reject",
    re.IGNORECASE,
)


def build(name: str = "factworld", **changes: Any) -> FactWorld:
    """The builder with the settings of its YAML file and some changes, as the harness makes it."""
    values = OmegaConf.load(CONF / f"{name}.yaml")
    values.update({"seed": 0, **changes})
    del values["name"]
    kind = WORLDS[name]
    return kind(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind.Config), values)))


class Made:
    """A task in memory, with what tests look up in it."""

    def __init__(self, builder: FactWorld) -> None:
        self.builder = builder
        self.passages = list(builder.passages())
        self.queries = list(builder.queries())
        self.stated = defaultdict(list)  # triple -> rows that state it
        for p in self.passages:
            if p.statement and p.statement["manner"] in ("plain", "alias"):
                self.stated[triple(p.statement)].append(p.row)
        self.object_names = {q.statement["object"]: q.target for q in self.queries}
        self.subject_names = {q.statement["subject"]: subject_name(q) for q in self.queries}
        self.by_id = {q.query_id: q for q in self.queries}


def triple(statement: dict) -> tuple:
    return statement["subject"], statement["relation"], statement["object"]


def relation_of(name: str) -> Any:
    return next(relation for relation in RELATIONS if relation.name == name)


def prompt_phrasing(query: Any) -> tuple[int, str]:
    """Which phrasing a prompt is in, and the subject's name in it: read from the text alone."""
    for phrasing in range(N_OBJECT_LAST):
        template = relation_of(query.relation).phrasings[phrasing].removesuffix(" {o}")
        template = template[0].upper() + template[1:] if template[0] != "{" else template
        pattern = re.escape(template).replace(re.escape("{s}"), r"(\w+(?: of)?(?: \w+)?)")
        if found := re.fullmatch(pattern, query.prompt):
            return phrasing, found[1]
    raise AssertionError(f"{query.prompt!r} is in no phrasing of {query.relation}")


def subject_name(query: Any) -> str:
    return prompt_phrasing(query)[1]


def has(text: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(words)}\b", text, re.IGNORECASE) is not None
