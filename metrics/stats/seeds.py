"""The mean of a metric over model seeds and queries, with an interval that knows of both.

Models trained from other seeds are draws, as queries are. The two are crossed: each model is asked
the same queries, and a hard one is hard for all. So seeds are drawn with replacement, queries (or
clusters of them) likewise and once for all seeds of a resample, and the mean is taken over the
models and queries drawn (Owen 2007). With queries drawn anew for each seed, their part in the
spread would shrink with the number of seeds, as if each model had been asked others.
"""

from __future__ import annotations

import numpy as np

from metrics.stats.bootstrap import Estimate, Interval, percentiles, unit_counts, widest_of
from metrics.stats.sampling import Sampling

SEEDS_AND = "seeds and "  # before what else was resampled for an interval


def estimate_over_seeds(values: np.ndarray, sampling: Sampling) -> Estimate | None:
    """The mean over seeds and queries with its hierarchical percentile interval.

    Args:
        values: float ``[n_seeds, n_queries]``, one row a trained model; NaN where a query was not
            scored. A query counts if every model was scored on it.
        sampling: resamples, seed, and the clusters of the queries.

    Returns:
        None if there is no such query. Of one seed, the interval is that over its queries: it knows
        nothing of others. Two or three seeds give an interval that is too narrow; ``units`` says
        how many queries or clusters there are, not how many seeds.
    """
    scored = ~np.isnan(values).any(axis=0)
    if not scored.any():
        return None
    values, own = values[:, scored], sampling.of(scored)
    n_seeds, n_queries = values.shape
    # Another stream than that of the queries, or as many seeds as queries would be drawn alike.
    blocks = unit_counts(n_seeds, sampling.samples, [sampling.seed, 2])
    drawn = np.concatenate(list(blocks)) / n_seeds  # [samples, seeds]
    intervals = {}
    for name, (means, units) in own.resampled("", values.T).items():
        # A resample's mean of each model over the queries drawn: [samples, seeds].
        low, high = percentiles((means * drawn).sum(axis=1))
        intervals[SEEDS_AND + name] = Interval((float(low), float(high)), units)
    usual = next(iter(intervals))
    return widest_of(float(values.mean()), n_queries, intervals, usual, sampling.always)
