"""The steps of a gradient run, and all that it costs before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from bench.core.fields import identifying
from methods.costs import CHECK_INDEX, ENCODE_CORPUS, Costs, Pass, PlannedRun
from methods.gradient.batching import token_budget
from methods.gradient.codecs import make_codec
from methods.gradient.cost import (
    Architecture,
    Workload,
    decomposition_flops,
    encode_flops,
    feature_blocks,
    feature_dim,
    hessian_flops,
    memory,
    search_flops,
    whitening_flops,
)
from methods.gradient.estimate import readings
from methods.gradient.hessian import check_blocks, refuse_too_few
from methods.gradient.search import MemoryPlan, depths, refuse_second_pass, search_dtype
from methods.gradient.settings import FeatureSettings, GradientConfig, Hessian, HessianForm, Storage


def gradient_costs(config: GradientConfig, architecture: Architecture, run: PlannedRun) -> Costs:
    """What a run takes; no model is needed for it.

    Raises:
        UserError: a run would refuse these settings for this model or this number of queries.
    """
    blocks, dim = feature_blocks(architecture, config), feature_dim(architecture, config)
    if config.has_matrices:
        check_blocks(blocks)
    if config.compares_spectra:
        refuse_too_few(blocks, run.queries)
    searched = search_dtype(run.gradients)
    if config.storage is Storage.none:
        refuse_second_pass(config.memory_mib, run.queries, dim, searched)
    held = MemoryPlan.of(config.memory_mib, run.queries, dim, searched)
    workload = Workload(
        passages=run.passages,
        tokens=run.tokens,
        queries=run.queries,
        together=held.queries,
        candidates=sum(depths(run.top_k, config.opponents, config.rerank)),
    )
    storage = {
        kind.value: make_codec(kind, dim, weighted=config.passage_weight).bytes_per_row
        for kind in Storage
        if kind is not Storage.none
    }
    chosen = config.storage.value
    batch_tokens = token_budget(config.batch_tokens, run.device)
    return Costs(
        passes=passes(architecture, workload, config, storage.get(chosen, 0), apart=run.apart),
        blocks=blocks,
        storage=storage,
        chosen=chosen,
        memory=memory(
            architecture,
            workload,
            config,
            weights=run.weights,
            gradients=run.gradients,
            batch_tokens=batch_tokens,
            block_rows=held.rows,
        ),
        features=identifying(config, FeatureSettings),
        batch_tokens=batch_tokens,
        needs_moments=config.optimizer_correction,
    )


def passes(
    architecture: Architecture,
    workload: Workload,
    config: GradientConfig,
    bytes_per_row: int,
    *,
    apart: bool = False,
) -> list[Pass]:
    """The steps of a run, in order.

    - corpus: passages · encode (times checkpoints), once to be stored or, without an index, while
      searching;
    - check: the index once, where others wrote it; what a process writes it hashes on the way;
    - queries: q · encode; in several groups once more for each use, as none of them is kept;
    - Hessian: rows · its part of R, and encode again where the index cannot give it; R^(-1/2) once;
    - search: passages · (2·q·d + groups · R^(-1/2));
    - second scores: q · candidates · 2·d, and encode with ``rerank``.

    Args:
        bytes_per_row: bytes of a row in the chosen storage format, 0 if nothing is stored.
        apart: whether other processes write the index.
    """
    encode = encode_flops(architecture, workload.tokens, config.projection_dim)
    encode *= config.checkpoints
    blocks, dim = feature_blocks(architecture, config), feature_dim(architecture, config)
    n, q, groups = workload.passages, workload.queries, workload.groups
    stored, whitening, uses = config.storage is not Storage.none, 0.0, 1
    hessian: list[Pass] = []
    if config.hessian is not Hessian.none:
        hessian = _hessian_passes(config, workload, blocks, encode, bytes_per_row)
        whitening = whitening_flops(blocks, config.hessian_form, config.hessian_components)
        uses += readings(config.hessian_form) if config.hessian is Hessian.mixed else 0
    encoded_queries = q if groups == 1 else q * uses
    times = f" ({groups} times)" if groups > 1 else ""
    steps = []
    if stored:
        size = n * bytes_per_row
        steps.append(Pass(ENCODE_CORPUS, n, n * encode, bytes_written=size, spread=True))
        if apart:
            steps.append(Pass(CHECK_INDEX, n, 0.0, bytes_read=size))
    steps.append(Pass("encode the queries", encoded_queries, encoded_queries * encode))
    steps += hessian
    if not stored:
        searching = f"encode the corpus while searching{times}"
        steps.append(Pass(searching, groups * n, groups * n * encode, spread=True))
    score = n * (search_flops(q, dim) + groups * whitening) + q * whitening
    # Several searches go over a group of shards together where all of their queries are resident.
    shares = "search" if stored and groups == 1 else ""
    name, rows = f"search{times}", groups * n
    read = rows * bytes_per_row
    steps.append(Pass(name, rows, score, read, spread=True, shares=shares, own_rows=rows))
    pairs = q * workload.candidates
    rows = min(groups * n, pairs)  # of a group, candidates that queries share are fetched once
    again = rows * whitening + pairs * 2.0 * dim
    if config.rerank:
        name, flops = "re-encode candidates (rerank)", again + rows * encode
        steps.append(Pass(name, rows, flops, spread=True))
    elif stored:
        name, read = "score candidates in float64", rows * bytes_per_row
        steps.append(Pass(name, rows, again, read, spread=True))
    return steps


def _hessian_passes(
    config: GradientConfig,
    workload: Workload,
    blocks: Sequence[int],
    encode: float,
    bytes_per_row: int,
) -> list[Pass]:
    """R from passages that are read from the index or, if it is too coarse, encoded."""
    form, components = config.hessian_form, config.hessian_components
    rows = min(workload.passages, config.hessian_sample or workload.passages)
    read = rows * readings(form)
    encoded = not config.storage.gives_hessian
    mixed = config.hessian is Hessian.mixed
    # The low-rank form multiplies R by directions that follow from λ: its sums are a cell's own.
    drawn = config.hessian_sample and f"{config.hessian_sample} by {config.seed}"
    shares = "" if form is HessianForm.low_rank else f"R {form.value} {drawn}"
    steps = []
    if encoded:
        name = "encode passages for the Hessian"
        steps.append(Pass(name, read, read * encode, spread=True, shares=shares))
    both = rows + workload.queries if mixed else rows
    accumulated = both * hessian_flops(blocks, form, components)
    moved = 0 if encoded else read * bytes_per_row
    own = both - rows
    name = "accumulate the Hessian"
    steps.append(Pass(name, both, accumulated, moved, spread=True, shares=shares, own_rows=own))
    flops = decomposition_flops(blocks, form, components, mixed=mixed)
    return [*steps, Pass("eigendecompositions", len(blocks), flops)] if flops else steps
