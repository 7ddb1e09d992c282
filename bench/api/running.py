"""``tdabench run`` for Python programs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bench.api.lending import composing, working
from bench.api.results import Results
from bench.api.words import words_of
from bench.core import progress
from bench.run.composing import composed, sweep
from bench.run.settings import settings_from


def run(**settings: Any) -> Results:
    """Run cells as ``tdabench run -m`` does, or find them finished.

    Settings are those of the command, as keywords or, for keys with dots, in a mapping:

        run(task="factworld", model="tiny", method=["bm25", "trackstar"], results_dir="runs",
            **{"task.n_passages": 2000})
        run(task={"name": "factworld", "n_passages": 2000}, method="bm25", metric="attribution")

    Args:
        **settings: values by key. A list sweeps over its items, and a tuple is one value that is a
            list; in a mapping of a group, ``name`` chooses it. ``experiment="NAME"`` sweeps as the
            experiment says. ``quiet=True`` silences progress.

    Returns:
        the cells that were run or found, in the order of the sweep.

    Raises:
        UserError: an unknown key or value, and everything else that the caller can mend. The
            settings of all cells are read before the first of them runs; cells that were finished
            before one failed are in place, and are found when it is called again.
    """
    with composing():
        cells = [
            (words, settings_from(composed(words, "run"))) for words in sweep(words_of(settings))
        ]
        sweep_name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}" if len(cells) > 1 else "single"
        group = settings.get("experiment") or sweep_name
        with working():
            from bench.run.cell import run_cell  # imports torch: not needed for a wrong word

            outcomes = []
            for words, own in cells:
                with progress.silenced(own.quiet):
                    outcomes.append(run_cell(own, words, group))
    return Results([outcome.cell for outcome in outcomes])
