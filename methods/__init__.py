"""How a ranking is made. Listing the methods imports none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.registry import Entry, Registry

if TYPE_CHECKING:
    from methods.base import Method

PAPER = "arXiv 2410.17413"
METHODS: Registry[Method] = Registry("method", "methods.base:Method")


def _add(name: str, target: str, summary: str, **description: object) -> None:
    METHODS.add(name, Entry(target=target, summary=summary, **description))  # type: ignore[arg-type]


_add("random", "methods.controls:Random", "a seeded random ranking", family="control")
_add("gold", "methods.controls:Gold", "the annotated passages themselves", family="control")
_add(
    "bm25",
    "methods.bm25:BM25",
    "lexical match by BM25",
    family="retrieval",
    cost="one pass over the text",
    source="Robertson & Zaragoza 2009; rank_bm25, bm25s",
)
_add(
    "dense",
    "methods.dense:Dense",
    "cosine of sentence-transformers embeddings",
    family="retrieval",
    cost="one encoder pass over the text",
    source="Reimers & Gurevych 2019; stands in for the paper's Gecko",
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
