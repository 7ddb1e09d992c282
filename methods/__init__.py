"""How a ranking is made. Listing the methods imports none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.registry import Entry, Registry

if TYPE_CHECKING:
    from methods.base import Method

PAPER = "arXiv 2410.17413"
METHODS: Registry[Method] = Registry("method", "methods.base:Method")


def _add(name: str, target: str, summary: str, **description: object) -> None:
    METHODS.add(name, Entry(target=target, summary=summary, **description))  # type: ignore[arg-type]


_add("random", "methods.controls:Random", "a seeded random ranking", family="control")
_add("gold", "methods.controls:Gold", "the annotated passages themselves", family="control")
_add(
    "length",
    "methods.controls:Length",
    "the longest passages, whatever the query",
    family="control",
    cost="one pass over the text",
)
_add(
    "popularity",
    "methods.controls:Popularity",
    "passages of the corpus's common words, whatever the query",
    family="control",
    cost="two passes over the text",
)
_add(
    "bm25",
    "methods.bm25:BM25",
    "lexical match by BM25",
    family="retrieval",
    cost="one pass over the text",
    source="Robertson & Zaragoza 2009; rank_bm25",
)
_add(
    "dense",
    "methods.dense:Dense",
    "cosine of sentence-transformers embeddings",
    family="retrieval",
    cost="one encoder pass over the text",
    source="Reimers & Gurevych 2019; stands in for the paper's Gecko",
)
_add(
    "sparse",
    "methods.sparse:Sparse",
    "dot product of sparse-neural embeddings (SPLADE)",
    family="retrieval",
    cost="one encoder pass over the text",
    source="SPLADE, 2107.05720",
)
_add(
    "verbatim",
    "methods.verbatim:Verbatim",
    "longest n-gram shared word for word",
    family="retrieval",
    cost="one pass over the text",
    source="after infini-gram, 2401.17377",
)
_add(
    "repsim",
    "methods.representation:RepresentationSimilarity",
    "cosine of pooled hidden states",
    family="representation",
    needs=("model",),
    cost="one forward pass over the corpus",
    source="Hanawa et al. 2021, 2006.04528",
)
_add(
    "output_embedding",
    "methods.representation:OutputEmbedding",
    "cosine of mean output embeddings, passage and target",
    family="representation",
    needs=("model",),
    cost="one pass over the tokens",
    source="a plain baseline",
)

_GRADIENT = {
    "family": "gradient",
    "cost": "one forward and backward pass over the corpus",
    "source": PAPER,
}
for _name, _summary, _optimizer in (
    ("grad_dot", "dot product of projected loss gradients", False),
    ("grad_cos", "cosine of projected loss gradients", False),
    ("cos_hessian", "cosine after the corpus autocorrelation R^(-1/2)", False),
    ("cos_optimizer", "cosine after the optimizer's second-moment correction", True),
    ("cos_optimizer_hessian", "cosine after both corrections", True),
    ("trackstar", "both corrections, R mixed from corpus and queries, unit norm", True),
):
    _add(
        _name,
        "methods.gradient.method:Gradient",
        _summary,
        needs=("model", "optimizer state") if _optimizer else ("model",),
        **_GRADIENT,
    )

for _name, _summary, _needs, _source in (
    (
        "trak",
        "margins in one projection, (ΦᵀΦ)^(-1), weighted by 1 - p, several checkpoints",
        ("model", "checkpoints"),
        "TRAK, arXiv 2303.14186",
    ),
    (
        "tracin",
        "dot products summed over checkpoints by learning rate",
        ("model", "checkpoints"),
        "TracInCP, arXiv 2002.08484",
    ),
    (
        "less",
        "cosine of the passage's optimizer update with the query's gradient, over checkpoints",
        ("model", "optimizer state", "checkpoints"),
        "LESS, arXiv 2402.04333",
    ),
    (
        "logra",
        "influence with a projection and an autocorrelation for each matrix",
        ("model",),
        "LoGra, arXiv 2405.13954",
    ),
):
    _add(
        _name,
        "methods.gradient.method:Gradient",
        _summary,
        family="gradient",
        needs=_needs,
        cost="one forward and backward pass over the corpus for each checkpoint",
        source=_source,
    )

_add(
    "ekfac",
    "methods.gradient.ekfac:Ekfac",
    "influence with Kronecker factors and corrected eigenvalues, exact gradients",
    family="gradient",
    needs=("model",),
    cost="three forward and backward passes over the corpus",
    source="EK-FAC, arXiv 2308.03296",
)
_add(
    "datainf",
    "methods.gradient.datainf:DataInf",
    "influence in closed form, exact gradients",
    family="gradient",
    needs=("model",),
    cost="three forward and backward passes over the corpus",
    source="DataInf, arXiv 2310.00902",
)

for _name, _target, _summary, _cost, _source in (
    (
        "hybrid",
        "Hybrid",
        "BM25's candidates in the order of exact gradients, or any two methods",
        "one forward and backward pass over the candidates",
        "",
    ),
    (
        "influence_rerank",
        "Hybrid",
        "TrackStar's best, those that match the query's words first",
        "as trackstar",
        "",
    ),
    (
        "fusion",
        "Fusion",
        "reciprocal-rank fusion of several methods",
        "that of its members",
        "Cormack et al. 2009",
    ),
):
    _add(
        _name,
        f"methods.combined:{_target}",
        _summary,
        family="combination",
        needs=("model", "optimizer state"),
        cost=_cost,
        source=_source,
    )
