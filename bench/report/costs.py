"""What a row cost by itself, and what it shares with others: the model, and an index made once.

The phases of a cell hold whatever happened first in it. The first row of a sweep trains the model
and encodes the passages, and its neighbours find both in the cache: charged by phases alone, the
first row would be the dearest, whatever its method.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.results.schema import Result

_BY_OTHERS, _FOR_OTHERS = "seconds_by_others", "seconds_for_others"  # facts of gradient methods
_MAKING = ("encoding_seconds", "indexing_seconds")  # facts of a method; a combination has several


def own_seconds(result: Result) -> float | None:
    """Wall time of a cell's own work: neither the model's training nor a shared index.

    Returns:
        None if no phase was timed.
    """
    phases = _phases(result)
    if not phases:
        return None
    rest = sum(seconds for name, seconds in phases.items() if name not in ("model", "index"))
    return rest + _own_index(result) + _search_by_others(result)


def shared_seconds(result: Result) -> float | None:
    """Wall time of making the index, once for all cells that use it, whichever came first.

    Returns:
        None if nothing is shared, or if who made it did not say how long it took.
    """
    making = list(_making(result))
    known = [seconds for seconds in making if seconds is not None]
    return sum(known) if making and len(known) == len(making) else None


def model_seconds(result: Result) -> float | None:
    """Wall time of training or loading the model in this cell; None where it was not needed."""
    return _phases(result).get("model")


def ranking_seconds(result: Result) -> float | None:
    """What the lists cost: making the index, by whomever, and searching it; not the metrics."""
    phases, making = _phases(result), list(_making(result))
    if ("index" not in phases and "search" not in phases) or None in making:
        return None
    made = max(_index_without_model(result), shared_seconds(result) or 0.0)
    return made + _phases(result).get("search", 0.0) + _search_by_others(result)


def _search_by_others(result: Result) -> float:
    """Seconds of search that others spent on this cell, less those that it spent on others.

    Cells of a sweep that share features are searched together, by the first of them. Where several
    processes did it, theirs are the seconds of all. Where nothing was shared, this is exactly 0, so
    that a cell costs what its phases sum to.
    """
    facts = result.method.get("facts")
    named = facts.items() if isinstance(facts, dict) else ()
    shared = dict.fromkeys((_BY_OTHERS, _FOR_OTHERS), 0.0)
    for key, seconds in named:
        name = key.rpartition(".")[2]
        if name in shared and isinstance(seconds, int | float):
            shared[name] += seconds
    return shared[_BY_OTHERS] - min(shared[_FOR_OTHERS], _phases(result).get("search", 0.0))


def _own_index(result: Result) -> float:
    """Seconds of the phase ``index`` without what was trained or made for others within it."""
    return _without(_index_without_model(result), shared_seconds(result) or 0.0)


def _index_without_model(result: Result) -> float:
    """Seconds of the phase ``index`` without the model that was trained or loaded within it.

    The phases do not say what lay within which: what ended before the index is taken to have been
    done within it where the phase is long enough to hold it.
    """
    names = [str(phase.get("name")) for phase in result.phases]
    phases = _phases(result)
    seconds = phases.get("index", 0.0)
    if "model" in names[: names.index("index") if "index" in names else 0]:
        seconds = _without(seconds, phases.get("model", 0.0))
    return seconds


def _without(whole: float, part: float) -> float:
    return whole - part if whole >= part else whole


def _phases(result: Result) -> dict[str, float]:
    """Seconds by phase, of those that were timed."""
    phases: dict[str, float] = {}
    for phase in result.phases:
        if phase.get("seconds") is not None:
            name = str(phase.get("name"))
            phases[name] = phases.get(name, 0.0) + phase["seconds"]
    return phases


def _making(result: Result) -> Iterator[float | None]:
    """The recorded seconds of every index that the method made or found."""
    facts = result.method.get("facts")
    for key, seconds in facts.items() if isinstance(facts, dict) else ():
        if key.rpartition(".")[2] in _MAKING:
            yield float(seconds) if isinstance(seconds, int | float) else None
