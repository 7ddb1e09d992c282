"""The harness: tasks, models, cells, results and reports of tdabench."""
