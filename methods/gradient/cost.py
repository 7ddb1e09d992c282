"""What a gradient run costs, as formulas: operations, bytes, memory. No model is needed for them.

A multiplication and an addition are two FLOPs. Symbols: T tokens of a passage, N parameters of the
matrices that each token meets (layers, of their experts those that it is sent to, and output head),
L layers, a attention width, m × n a matrix as ``[out, in]``, p projection dimensions a side, b
dimensions of a block, d those of all blocks, q queries. Element-wise work (norms, softmax,
activations) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from methods.gradient.batching import token_budget

# Steps that cells with the same features share.
ENCODE_CORPUS, CHECK_INDEX = "encode the corpus into the index", "check the index"
STORES_NO_FEATURES = ("none", "sign")  # of a sign index, R could not be estimated
# As in methods/gradient: directions of the low-rank form beyond its components, and the most rows
# and numbers of a shard.
_OVERSAMPLING, _SHARD_ROWS, _SHARD_VALUES = 8, 2048, 2**27


@dataclass(frozen=True)
class Architecture:
    """A decoder, in numbers.

    Attributes:
        parameters: all of them, tied ones once.
        multiplied: N, those of matrices that each token is multiplied by; no embeddings, and of a
            layer's experts as many as a token is sent to.
        matrices: (out, in, block) of each matrix that carries the gradient.
        attention_width: a, all heads of a layer together.
        unwatched_layers: layers below the lowest matrix, which no gradient reaches.
        unwatched: those of N that are in them.
    """

    parameters: int
    multiplied: int
    matrices: tuple[tuple[int, int, int], ...]
    n_layers: int
    hidden_size: int
    attention_width: int
    vocab_size: int
    context_length: int
    unwatched_layers: int = 0
    unwatched: int = 0


@dataclass(frozen=True)
class Workload:
    """What is to be done.

    Attributes:
        tokens: mean of a passage; it stands in for a query's, which is shorter.
        together: queries that are searched together, since memory holds no more.
        candidates: passages a query, of both ends, that are scored a second time.
    """

    passages: int
    tokens: float
    queries: int
    together: int
    candidates: int

    @property
    def groups(self) -> int:
        """How often the search goes over the passages."""
        return -(-self.queries // self.together)


@dataclass(frozen=True)
class Choices:
    """What of the method's configuration decides over cost; some methods lack the later keys."""

    projection_dim: int | None
    hessian: str
    auto_mixing: bool
    batch_size: int
    batch_tokens: int
    storage: str = "fp32"
    rerank: int | None = None
    hessian_sample: int | None = None
    hessian_form: str = "full"
    components: int = 0
    checkpoints: int = 1
    weighted: bool = False

    @staticmethod
    def of(method: Mapping[str, Any], device: torch.device) -> Choices:
        """From the plain values of ``method``, on a device."""
        return Choices(
            projection_dim=method["projection_dim"],
            hessian=str(method["hessian"]),
            auto_mixing=method["mixing"] == "auto",
            batch_size=method["batch_size"],
            batch_tokens=token_budget(method["batch_tokens"], device),
            storage=str(method["storage"]),
            rerank=method["rerank"],
            hessian_sample=method["hessian_sample"],
            hessian_form=str(method["hessian_form"]),
            components=method["hessian_components"],
            checkpoints=method["checkpoints"],
            weighted=method["passage_weight"],
        )

    def blocks(self, architecture: Architecture) -> list[int]:
        """Sizes of all blocks of a feature row: those of each checkpoint, side by side."""
        return block_sizes(architecture, self.projection_dim) * self.checkpoints

    def dim(self, architecture: Architecture) -> int:
        """Numbers of a feature row, the passage's weight included."""
        return sum(self.blocks(architecture)) + self.weighted


@dataclass(frozen=True)
class Pass:
    """One step of a run.

    Attributes:
        rows: how many it takes.
        flops: what it computes.
        bytes_read, bytes_written: of the index.
        spread: whether an engine shares it out among devices; all else runs on one.
    """

    name: str
    rows: int
    flops: float
    bytes_read: int = 0
    bytes_written: int = 0
    spread: bool = False


# ------------------------------------------------------------------ operations


def forward_flops(architecture: Architecture, tokens: float) -> float:
    """2·N·T for the products with weights, and 4·a·T²·L for attention.

    Attention has two products a layer, queries by keys and weights by values, of 2·a·T² each: a
    causal mask saves nothing in the common implementations.
    """
    attention = 4 * architecture.attention_width * tokens**2 * architecture.n_layers
    return 2 * architecture.multiplied * tokens + attention


def backward_flops(architecture: Architecture, tokens: float) -> float:
    """2·N·T to the activations, and 8·a·T²·L for attention: each of its products has two factors.

    N and L are without the layers below the lowest matrix that carries the gradient. No weight
    gradient is formed. The encoder also spares the input gradient of the lowest matrices, some of
    one layer's, which is not subtracted here.
    """
    n_layers = architecture.n_layers - architecture.unwatched_layers
    attention = 8 * architecture.attention_width * tokens**2 * n_layers
    return 2 * (architecture.multiplied - architecture.unwatched) * tokens + attention


def projection_flops(
    architecture: Architecture, tokens: float, projection_dim: int | None
) -> float:
    """Σ over matrices of T·(2·p·(m + n) + 2·p²); without projection T·2·m·n.

    Holds for second moments of rank one (Adafactor), which are folded into the projections. With
    full ones (Adam) the gradient is formed first: see ``methods/gradient/collectors.py``.
    """
    if projection_dim is None:
        return tokens * sum(2 * m * n for m, n, _ in architecture.matrices)
    p = projection_dim
    return tokens * sum(2 * p * (m + n) + 2 * p * p for m, n, _ in architecture.matrices)


def encode_flops(architecture: Architecture, tokens: float, projection_dim: int | None) -> float:
    """Forward, backward to the activations, and projections, of one passage."""
    return (
        forward_flops(architecture, tokens)
        + backward_flops(architecture, tokens)
        + projection_flops(architecture, tokens, projection_dim)
    )


def block_sizes(architecture: Architecture, projection_dim: int | None) -> list[int]:
    """p² for each block; without projection the elements of its matrices, Σ m·n."""
    sizes: dict[int, int] = {}
    for m, n, block in sorted(architecture.matrices, key=lambda matrix: matrix[2]):
        sizes[block] = sizes.get(block, 0) + m * n if projection_dim is None else projection_dim**2
    return list(sizes.values())


def hessian_flops(blocks: Sequence[int], form: str = "full", components: int = 0) -> float:
    """One row's part in R: Σ 2·b² (full); 2·d (diagonal); 2·d + 3·4·d·c (low rank).

    Low rank multiplies R by c directions three times, each time by g (gᵀ Ω), 4·b·c a block.
    """
    dim = sum(blocks)
    if form == "full":
        return 2.0 * sum(b * b for b in blocks)
    directions = components + _OVERSAMPLING if form == "low_rank" else 0
    return 2.0 * dim + 12.0 * dim * directions


def decomposition_flops(
    blocks: Sequence[int], form: str = "full", components: int = 0, *, spectra: int = 0
) -> float:
    """From R to R^(-1/2), once: Σ 11·b³ (full); Σ 12·b·c² + 11·c³ (low rank); 0 (diagonal).

    9·b³ for a symmetric eigendecomposition with vectors (Golub & Van Loan, section 8.3) and 2·b³ to
    put the root together. ``mixing=auto`` needs ``spectra`` more without vectors, 4/3·b³ each. The
    low-rank form has a QR and an SVD of ``[b, c]`` and a small eigendecomposition.
    """
    if form == "diagonal":
        return 0.0
    if form == "low_rank":
        c = components + _OVERSAMPLING
        return float(sum(12 * b * c**2 + 11 * c**3 for b in blocks))
    return sum((11 + 4 / 3 * spectra) * b**3 for b in blocks)


def whitening_flops(blocks: Sequence[int], form: str = "full", components: int = 0) -> float:
    """R^(-1/2) times one row: Σ 2·b² (full); d (diagonal); d + 4·d·c (low rank)."""
    dim = sum(blocks)
    if form == "full":
        return 2.0 * sum(b * b for b in blocks)
    return float(dim + 4 * dim * (components if form == "low_rank" else 0))


def search_flops(queries: int, dim: int) -> float:
    """Inner products of one passage with all queries: 2·q·d."""
    return 2.0 * queries * dim


def tokens_per_word(vocab_size: int) -> float:
    """Tokens a word of English where the tokenizer is not at hand: 1.4 + 0.22·log2(32,000 / V).

    Fitted to byte-level BPE on sentences of T-REx and documents of C4 that it was not trained on:
    2.62 and 2.36 at V = 1,024, 1.91 and 1.76 at 4,096, 1.44 and 1.38 at 32,000. Texts from
    templates take less: 1.78 at 1,024 on ``factworld``.
    """
    return max(1.2, 1.4 + 0.22 * math.log2(32_000 / max(1, vocab_size)))


# ------------------------------------------------------------------ passes


def passes(
    architecture: Architecture,
    workload: Workload,
    choices: Choices,
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
        bytes_per_row: of the chosen storage format, 0 if nothing is stored.
        apart: whether other processes write the index.
    """
    encode = encode_flops(architecture, workload.tokens, choices.projection_dim)
    encode *= choices.checkpoints
    blocks, dim = choices.blocks(architecture), choices.dim(architecture)
    n, q, groups = workload.passages, workload.queries, workload.groups
    stored, whitening, uses = choices.storage != "none", 0.0, 1
    hessian: list[Pass] = []
    if choices.hessian != "none":
        hessian = _hessian_passes(choices, workload, blocks, encode, bytes_per_row)
        whitening = whitening_flops(blocks, choices.hessian_form, choices.components)
        uses += _readings(choices) if choices.hessian == "mixed" else 0
    encoded_queries = q if groups == 1 else q * uses
    times = f" ({groups} times)" if groups > 1 else ""
    found = []
    if stored:
        size = n * bytes_per_row
        found.append(Pass(ENCODE_CORPUS, n, n * encode, bytes_written=size, spread=True))
        if apart:
            found.append(Pass(CHECK_INDEX, n, 0.0, bytes_read=size))
    found.append(Pass("encode the queries", encoded_queries, encoded_queries * encode))
    found += hessian
    if not stored:
        found.append(
            Pass(f"encode the corpus while searching{times}", groups * n, groups * n * encode)
        )
    score = n * (search_flops(q, dim) + groups * whitening) + q * whitening
    found.append(Pass(f"search{times}", groups * n, score, groups * n * bytes_per_row))
    pairs = q * workload.candidates
    rows = min(groups * n, pairs)  # of a group, candidates that queries share are fetched once
    again = rows * whitening + pairs * 2.0 * dim
    if choices.rerank:
        found.append(Pass("re-encode candidates (rerank)", rows, again + rows * encode))
    elif stored:
        found.append(Pass("score candidates in float64", rows, again, rows * bytes_per_row))
    return found


def _readings(choices: Choices) -> int:
    """How often R's features are gone through: low rank takes a diagonal and three products."""
    return 4 if choices.hessian_form == "low_rank" else 1


def _hessian_passes(
    choices: Choices,
    workload: Workload,
    blocks: Sequence[int],
    encode: float,
    bytes_per_row: int,
) -> list[Pass]:
    """R from passages that are read from the index or, if it is too coarse, encoded."""
    n, form, components = workload.passages, choices.hessian_form, choices.components
    rows = min(n, choices.hessian_sample or n)
    read = rows * _readings(choices)
    encoded = choices.storage in STORES_NO_FEATURES
    found = [Pass("encode passages for the Hessian", read, read * encode)] if encoded else []
    mixed = choices.hessian == "mixed"
    both = rows + workload.queries if mixed else rows
    accumulated = both * hessian_flops(blocks, form, components)
    found.append(
        Pass("accumulate the Hessian", both, accumulated, 0 if encoded else read * bytes_per_row)
    )
    spectra = 2 if mixed and choices.auto_mixing else 0
    flops = decomposition_flops(blocks, form, components, spectra=spectra)
    return [*found, Pass("eigendecompositions", len(blocks), flops)] if flops else found


# ------------------------------------------------------------------ memory


def memory(
    architecture: Architecture,
    workload: Workload,
    choices: Choices,
    *,
    weight_bytes: int,
    gradient_bytes: int,
    block_rows: int,
) -> dict[str, int]:
    """Bytes by purpose; w is the bytes of a number in the search, 4 or those of the gradients.

    - weights: parameters · their bytes, and a copy in the gradients' dtype if that is another, of
      each checkpoint;
    - projections: Σ p·(m + n) numbers, of each checkpoint;
    - a batch: each token keeps the output of every matrix and four vectors a layer (an estimate),
      logits and their gradient, and each passage its features;
    - a shard: its features in float32;
    - Hessian: float64 matrices Σ b²: R and its root, and R of the queries if mixed; 4·d·c numbers
      for the low-rank form and d each for the diagonal one;
    - queries: d·(4 + w + 8) each: as encoded, finished, and finished in float64;
    - a block of passages: d·(8 + 3·w) each, and two scores for each query.

    Args:
        weight_bytes: of a number of the loaded weights.
        gradient_bytes: of a number of activations and gradients.
        block_rows: passages in a block of the search.
    """
    p = choices.projection_dim
    blocks, dim = choices.blocks(architecture), choices.dim(architecture)
    wide, together = max(4, gradient_bytes), workload.together
    copies = weight_bytes + (gradient_bytes if gradient_bytes != weight_bytes else 0)
    rows = min(choices.batch_size, max(1, workload.passages))
    rows = max(1, min(rows, int(choices.batch_tokens // max(1.0, workload.tokens))))
    outputs = sum(m for m, _, _ in architecture.matrices)
    outputs += 4 * architecture.hidden_size * architecture.n_layers
    a_token = (outputs + 2 * architecture.vocab_size) * gradient_bytes
    sides = sum(m + n for m, n, _ in architecture.matrices)
    found = {
        "weights": choices.checkpoints * architecture.parameters * copies,
        "projections": choices.checkpoints * (p or 0) * sides * gradient_bytes,
        "a batch": int(rows * workload.tokens * a_token) + rows * dim * wide,
    }
    if choices.storage != "none":
        shard = min(_SHARD_ROWS, max(1, _SHARD_VALUES // dim), workload.passages)
        found["a shard of the index"] = 4 * dim * shard
    if choices.hessian != "none":
        matrices = 3 if choices.hessian == "mixed" else 2
        found["Hessian"] = {
            "full": matrices * 8 * sum(b * b for b in blocks),
            "low_rank": 4 * 8 * dim * (choices.components + _OVERSAMPLING),
        }.get(choices.hessian_form, matrices * 8 * dim)
    found["resident queries"] = together * dim * (12 + wide)
    a_row = dim * (8 + 3 * wide) + 2 * wide * together
    found["passages while searching"] = min(block_rows, workload.passages) * a_row
    return found
