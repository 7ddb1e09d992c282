"""The harness: tasks, models, cells, results and reports of tdabench."""

__version__ = "0.1.0"
