"""Tasks, which queries and candidate passages come from; each is a class and a YAML."""

from bench.core.registry import Registry
from bench.tasks.base import Query, Task, TaskBuilder, load_task, prepared_task

TASKS: Registry[TaskBuilder] = Registry("task", "bench.tasks.base:TaskBuilder", package="conf")

__all__ = ["TASKS", "Query", "Task", "TaskBuilder", "load_task", "prepared_task"]
