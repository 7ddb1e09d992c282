"""The files of each public release, and the choice of those to fetch.

Source: the public data release of Chang et al. (2410.17413).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bench.core.errors import UserError, did_you_mean

BASE = "https://storage.googleapis.com/tda-resources/2410.17413/public/"
# One plain name, which cannot leave a folder, hide in it, or be taken for an option or a glob.
_PLAIN = re.compile(r"\w[\w.+-]*", re.ASCII)


@dataclass(frozen=True)
class Release:
    """File names of a release.

    Attributes:
        files: the files that are fetched if none is named.
        on_request: the files that are fetched only if they are named.
    """

    files: tuple[str, ...]
    on_request: tuple[str, ...] = ()


_T_REX_METHODS = ("bm25", "gecko", "trak", "exp1", "exp2", "exp3", "exp4", "exp5", "trackstar")
_C4_METHODS = ("bm25", "gecko", "grad_dot", "grad_cosine", "trackstar")
_C4_SETS = ("copa", "piqa", "arithmeticwordproblem", "arithmetic", "storygeneration")

RELEASES = {
    "trex": Release(
        files=(
            "trex_facts.jsonl",
            *(f"trex_sentences.jsonl-{shard:05}-of-00020" for shard in range(20)),
            *(f"trex_retrievals_{method}.jsonl" for method in _T_REX_METHODS),
        ),
        # Others report that this file is broken; `task.queries_from` finds the same queries.
        on_request=("trex_facts_sample.jsonl",),
    ),
    # The rankings of C4's passages. C4 itself is no part of the release.
    "c4": Release(
        files=(
            *(f"c4_trex_retrievals_{method}.jsonl" for method in _C4_METHODS),
            *(f"c4_{name}_retrievals_trackstar_nontaskspecific.jsonl" for name in _C4_SETS),
            "c4_trex_incorrectpred_retrievals_trackstar.jsonl",
        ),
    ),
}


def chosen_files(release: Release, wanted: Sequence[str], any_name: bool) -> list[str]:
    """The names of the files to fetch, each once.

    Args:
        release: the release that names are looked up in.
        wanted: names, or globs over the release's names; none means its files.
        any_name: whether to take a plain name that the release lacks, for mirrors that have more.

    Raises:
        UserError: no such file in the release, or a name that is no plain one.
    """
    if not wanted:
        return list(release.files)
    known = (*release.files, *release.on_request)
    chosen: dict[str, None] = {}
    for pattern in wanted:
        matches = [name for name in known if fnmatchcase(name, pattern)]
        if not matches and any_name and _PLAIN.fullmatch(pattern):
            matches = [pattern]
        if not matches:
            raise UserError(
                "no such file in the release", where=pattern, fix=did_you_mean(pattern, known)
            )
        chosen |= dict.fromkeys(matches)
    return list(chosen)
