"""Formulas of what a gradient run costs, in operations and memory; no model is needed for them.

A multiplication and an addition are two FLOPs. Symbols: T tokens of a passage, N parameters of the
matrices that each token meets (layers, of their experts those that it is sent to, and output head),
L layers, a attention width, m × n a matrix as ``[out, in]``, p projection dimensions a side, b
dimensions of a block, d those of all blocks, q queries. Element-wise work (norms, softmax,
activations) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from methods.gradient.batching import batch_rows
from methods.gradient.index import shard_rows
from methods.gradient.search import query_bytes, row_bytes, search_dtype
from methods.gradient.settings import GradientConfig, Hessian, HessianForm, Storage
from methods.gradient.whitening import LOW_RANK_PRODUCTS, OVERSAMPLING


@dataclass(frozen=True)
class Architecture:
    """The sizes of a decoder.

    Attributes:
        parameters: number of parameters, where tied ones count once.
        multiplied: N, the number of parameters in matrices that each token is multiplied by: no
            embeddings, and of a layer's experts as many as a token is sent to.
        matrices: (out, in, block) of each matrix that carries the gradient.
        met: the share of all tokens that is multiplied by each of these: 1, or of an expert's, if
            all are sent equally many, the experts a token is sent to over their number.
        n_layers: L.
        hidden_size: width of a layer.
        attention_width: a, all heads of a layer together.
        context_length: the longest text, in tokens.
        unwatched_layers: number of layers below the lowest matrix, which no gradient reaches.
        unwatched: the part of N that is in these layers.
    """

    parameters: int
    multiplied: int
    matrices: tuple[tuple[int, int, int], ...]
    met: tuple[float, ...]
    n_layers: int
    hidden_size: int
    attention_width: int
    vocab_size: int
    context_length: int
    unwatched_layers: int = 0
    unwatched: int = 0

    @property
    def products(self) -> list[tuple[int, int, float]]:
        """(out, in) of each matrix that carries the gradient, and the share of tokens it meets."""
        pairs = zip(self.matrices, self.met, strict=True)
        return [(m, n, met) for (m, n, _), met in pairs]


@dataclass(frozen=True)
class Workload:
    """The numbers that the steps of a run depend on.

    Attributes:
        tokens: mean length of a passage; it stands in for a query's, which is shorter.
        together: number of queries that are searched together, since memory holds no more.
        candidates: passages a query, of both ends, that are scored a second time.
    """

    passages: int
    tokens: float
    queries: int
    together: int
    candidates: int

    @property
    def groups(self) -> int:
        """Number of times that the search goes over the passages."""
        return -(-self.queries // self.together)


def feature_blocks(architecture: Architecture, config: GradientConfig) -> list[int]:
    """Sizes of all blocks of a feature row, one checkpoint's after the other's."""
    return block_sizes(architecture, config.projection_dim) * config.checkpoints


def feature_dim(architecture: Architecture, config: GradientConfig) -> int:
    """Number of dimensions of a feature row, the passage's weight included."""
    return sum(feature_blocks(architecture, config)) + config.passage_weight


def forward_flops(architecture: Architecture, tokens: float) -> float:
    """FLOPs of a forward pass: 2·N·T for the products with weights, 4·a·T²·L for attention.

    Attention has two products a layer, queries by keys and weights by values, of 2·a·T² each: a
    causal mask saves nothing in the common implementations.
    """
    attention = 4 * architecture.attention_width * tokens**2 * architecture.n_layers
    return 2 * architecture.multiplied * tokens + attention


def backward_flops(architecture: Architecture, tokens: float) -> float:
    """FLOPs of a backward pass: 2·N·T to the activations, 8·a·T²·L for attention's two factors.

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
    """FLOPs of the projections: Σ over matrices of T·(2·p·(m + n) + 2·p²); T·2·m·n without any.

    An expert's matrix has that of the tokens that it is sent, where no text has more than others.
    The formula holds for second moments of rank one (Adafactor), which are folded into the
    projections. With full ones (Adam) gradients are formed first: see ``collectors.py``.
    """
    if projection_dim is None:
        return tokens * sum(met * 2 * m * n for m, n, met in architecture.products)
    p = projection_dim
    return tokens * sum(met * (2 * p * (m + n) + 2 * p * p) for m, n, met in architecture.products)


def encode_flops(architecture: Architecture, tokens: float, projection_dim: int | None) -> float:
    """FLOPs of encoding one passage: forward, backward to the activations, and projections."""
    return (
        forward_flops(architecture, tokens)
        + backward_flops(architecture, tokens)
        + projection_flops(architecture, tokens, projection_dim)
    )


def block_sizes(architecture: Architecture, projection_dim: int | None) -> list[int]:
    """Sizes of the blocks: p² each, or without projection the elements of their matrices, Σ m·n."""
    sizes: dict[int, int] = {}
    for m, n, block in sorted(architecture.matrices, key=lambda matrix: matrix[2]):
        sizes[block] = sizes.get(block, 0) + m * n if projection_dim is None else projection_dim**2
    return list(sizes.values())


def hessian_flops(blocks: Sequence[int], form: HessianForm, components: int) -> float:
    """FLOPs of a row's part in R: Σ 2·b² (full); 2·d (diagonal); 2·d + 3·4·d·c (low rank).

    The low-rank form multiplies R by c directions three times, each time by g (gᵀ Ω), at 4·b·c a
    block.
    """
    dim = sum(blocks)
    if form is HessianForm.full:
        return 2.0 * sum(b * b for b in blocks)
    directions = components + OVERSAMPLING if form is HessianForm.low_rank else 0
    return 2.0 * dim + LOW_RANK_PRODUCTS * 4.0 * dim * directions


def decomposition_flops(
    blocks: Sequence[int], form: HessianForm, components: int, *, mixed: bool = False
) -> float:
    """From R to R^(-1/2), once: Σ 11·b³ (full); Σ 12·b·c² + 11·c³ (low rank); 0 (diagonal).

    9·b³ for a symmetric eigendecomposition with vectors (Golub & Van Loan, section 8.3) and 2·b³ to
    put the root together. A mixed R has two spectra without vectors, 4/3·b³ each, for the rank of
    its parts and the automatic λ, and 2·b³ for the leverage of the queries. The low-rank form has
    a QR and an SVD of ``[b, c]`` and a small eigendecomposition.
    """
    if form is HessianForm.diagonal:
        return 0.0
    if form is HessianForm.low_rank:
        c = components + OVERSAMPLING
        return float(sum(12 * b * c**2 + 11 * c**3 for b in blocks))
    return sum((11 + (8 / 3 + 2 if mixed else 0)) * b**3 for b in blocks)


def whitening_flops(blocks: Sequence[int], form: HessianForm, components: int) -> float:
    """FLOPs of R^(-1/2) times a row: Σ 2·b² (full); d (diagonal); d + 4·d·c (low rank)."""
    dim = sum(blocks)
    if form is HessianForm.full:
        return 2.0 * sum(b * b for b in blocks)
    return float(dim + 4 * dim * (components if form is HessianForm.low_rank else 0))


def search_flops(queries: int, dim: int) -> float:
    """FLOPs of the inner products of one passage with all queries: 2·q·d."""
    return 2.0 * queries * dim


def tokens_per_word(vocab_size: int) -> float:
    """Tokens a word of English where the tokenizer is not at hand: 1.4 + 0.22·log2(32,000 / V).

    The line is fitted to byte-level BPE on sentences of T-REx and documents of C4 that it was not
    trained on: 2.62 and 2.36 tokens at V = 1,024, 1.91 and 1.76 at 4,096, 1.44 and 1.38 at 32,000.
    Texts from templates take fewer: 1.78 at 1,024 on ``factworld``.
    """
    return max(1.2, 1.4 + 0.22 * math.log2(32_000 / max(1, vocab_size)))


def token_bytes(architecture: Architecture, gradients: torch.dtype) -> tuple[float, float]:
    """Bytes that encoding keeps of a token: in all layers, and of its logits and their gradient.

    A layer keeps the output of every matrix that the token meets, and four vectors (an estimate).
    """
    outputs = sum(met * m for m, _, met in architecture.products)
    outputs += 4 * architecture.hidden_size * architecture.n_layers
    return outputs * gradients.itemsize, 2 * architecture.vocab_size * gradients.itemsize


def memory(
    architecture: Architecture,
    workload: Workload,
    config: GradientConfig,
    *,
    weights: torch.dtype,
    gradients: torch.dtype,
    batch_tokens: int,
    block_rows: int,
) -> dict[str, int]:
    """Bytes of memory by purpose.

    - weights: parameters · their bytes, and a copy in the gradients' dtype if that is another, of
      each checkpoint;
    - projections: Σ p·(m + n) numbers, of each checkpoint;
    - a batch: what ``token_bytes`` says of each token, and the features of each passage;
    - a shard: its features in float32;
    - Hessian: float64 matrices Σ b²: R and its root, and R of the queries if mixed; 4·d·c numbers
      for the low-rank form and d each for the diagonal one;
    - queries and a block of passages: as ``search.MemoryPlan`` counts them.

    Args:
        weights: dtype of the model as it is loaded.
        gradients: dtype of activations and gradients.
        batch_tokens: padded tokens in a forward pass.
        block_rows: passages in a block of the search.
    """
    dim, blocks = feature_dim(architecture, config), feature_blocks(architecture, config)
    searched, size = search_dtype(gradients), gradients.itemsize
    copies = weights.itemsize + (size if size != weights.itemsize else 0)
    fitting = min(config.batch_size, max(1, workload.passages))
    rows = batch_rows(workload.tokens, fitting, batch_tokens)
    a_token = sum(token_bytes(architecture, gradients))
    sides = sum(m + n for m, n, _ in architecture.matrices)
    purposes = {
        "weights": config.checkpoints * architecture.parameters * copies,
        "projections": config.checkpoints * (config.projection_dim or 0) * sides * size,
        "a batch": int(rows * workload.tokens * a_token) + rows * dim * searched.itemsize,
    }
    if config.storage is not Storage.none:
        purposes["a shard of the index"] = 4 * dim * min(shard_rows(dim), workload.passages)
    if config.hessian is not Hessian.none:
        matrices = 3 if config.hessian is Hessian.mixed else 2
        purposes["Hessian"] = {
            HessianForm.full: matrices * 8 * sum(b * b for b in blocks),
            HessianForm.low_rank: 4 * 8 * dim * (config.hessian_components + OVERSAMPLING),
            HessianForm.diagonal: matrices * 8 * dim,
        }[config.hessian_form]
    purposes["resident queries"] = workload.together * query_bytes(dim, searched)
    a_row = row_bytes(dim, searched, workload.together)
    purposes["passages while searching"] = min(block_rows, workload.passages) * a_row
    return purposes
