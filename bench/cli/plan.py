"""``tdabench plan``: what a cell, or a sweep of cells, will cost before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from bench.cli.commands import LOADING, parser_of
from bench.core import progress
from bench.run.composing import sweep

_SWEEP = ("-m", "--multirun")  # what `run` would be told; a sweep is planned either way


def main(words: Sequence[str]) -> int:
    """Print the plan; returns 0.

    Raises:
        UserError: wrong words, or no method among them that is planned.
    """
    parser = parser_of("plan")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as of `tdabench run` (task=…, model=…, method=…, or an experiment or other sweep, "
        "whose cells are then summed), and plan.passages, "
        "plan.tokens_per_passage, plan.queries, plan.device_tflops and plan.devices, which stand "
        "in for what is not here; nothing is trained, encoded or written",
    )
    options = parser.parse_args([word for word in words if word not in _SWEEP])
    cells = sweep(options.overrides)
    with progress.counted(*LOADING):  # not needed for a wrong word
        from bench.plan.sweep import show_plan

    show_plan(cells)
    return 0
