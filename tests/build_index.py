"""Builds the index of a toy corpus: a process of its own, so that a test can kill it at any moment.

python -m tests.build_index MODEL_FOLDER TASK_FOLDER CACHE_FOLDER
"""

import sys
from pathlib import Path

import torch

from methods.gradient import index
from tests.gradient_methods import QUERIES, make, many_texts
from tests.helpers import make_task
from tests.models import load, with_moments

N_TEXTS = 400


def main() -> None:
    torch.set_num_threads(1)
    index.SHARD_ROWS = 8
    model_folder, task_folder, cache = map(Path, sys.argv[1:])
    model = with_moments(load(model_folder), task_folder, "adafactor")
    task = make_task(task_folder / "task", many_texts(N_TEXTS), QUERIES)
    make(task, model, cache, batch_size=1).index()


if __name__ == "__main__":
    main()
