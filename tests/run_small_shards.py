"""``tdabench`` with shards of a few passages: many jobs in little time, for tests that stop a run.

python -m tests.run_small_shards run ...
"""

import sys

from bench.cli import main
from methods.gradient import index

ROWS = 8

if __name__ == "__main__":
    index.SHARD_ROWS = ROWS
    sys.exit(main(sys.argv[1:]))
