"""Tasks, which queries and candidate passages come from."""

from bench.core.registry import Entry, Registry
from bench.tasks.base import Query, Task, TaskBuilder, load_task, prepared_task

TASKS: Registry[TaskBuilder] = Registry("task", "bench.tasks.base:TaskBuilder")

TASKS.add(
    "factworld",
    Entry(
        target="bench.tasks.factworld:FactWorld",
        summary="invented entities and facts, annotated by kind of support; needs no download",
    ),
)
TASKS.add(
    "replaced",
    Entry(
        target="bench.tasks.factworld:ReplacedWorld",
        summary="factworld with entities consistently replaced: matching the answer's words fails",
        source="after DATE-LM, arXiv 2507.09424",
    ),
)
TASKS.add(
    "trex",
    Entry(
        target="bench.tasks.trex:TRex",
        summary="T-REx facts and sentences in the release's format, from local files",
        source="arXiv 2410.17413",
    ),
)
TASKS.add(
    "c4",
    Entry(
        target="bench.tasks.c4:C4",
        summary="facts in the release's format, passages cut from local C4 shards; needs a judge",
        source="arXiv 2410.17413",
    ),
)
TASKS.add(
    "jsonl",
    Entry(
        target="bench.tasks.jsonl:JsonLines",
        summary="your own queries and passages from JSON-lines files",
    ),
)

__all__ = ["TASKS", "Query", "Task", "TaskBuilder", "load_task", "prepared_task"]
