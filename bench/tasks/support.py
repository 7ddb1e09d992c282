"""Kinds of support that a passage gives to a fact, as the paper discusses proponents.

A passage's ``statement`` is ``{"subject", "relation", "object", "manner"}`` with entity ids and
``manner`` one of ``plain``, ``alias`` (an entity is called by another of its names) or ``denied``
(the statement is negated or corrected). A query's ``statement`` holds the same ids, plus ``hops``
(``[[subject, relation, object], ...]`` from which the fact follows) and ``near`` (ids of entities
whose name nearly equals the subject's).
"""

from __future__ import annotations

from enum import Enum
from typing import Any


class Support(str, Enum):
    """The kinds of support, strongest first; a passage has the first that applies."""

    ENTAILS = "entails"
    ENTAILS_ALIAS = "entails_alias"
    DENIED = "denied"
    ONE_HOP = "one_hop"
    SAME_SUBJECT = "same_subject"
    NEAR_NAME = "near_name"
    PRIOR = "prior"
    UNRELATED = "unrelated"
    UNANNOTATED = "unannotated"


def support(query: dict[str, Any] | None, passage: dict[str, Any] | None) -> Support:
    """The kind of support that a passage's statement gives to a query's fact.

    A passage without statement is ``unrelated`` when the query has one (the task annotates what
    its passages say), and ``unannotated`` when the task has no such annotation.
    """
    if query is None:
        return Support.UNANNOTATED
    if passage is None:
        return Support.UNRELATED
    triple = [passage["subject"], passage["relation"], passage["object"]]
    denied = passage["manner"] == "denied"
    if triple == [query["subject"], query["relation"], query["object"]]:
        if denied:
            return Support.DENIED
        return Support.ENTAILS_ALIAS if passage["manner"] == "alias" else Support.ENTAILS
    if triple in query["hops"] and not denied:
        return Support.ONE_HOP
    if triple[0] == query["subject"]:
        return Support.DENIED if denied and triple[1] == query["relation"] else Support.SAME_SUBJECT
    if triple[0] in query["near"]:
        return Support.NEAR_NAME
    if triple[1:] == [query["relation"], query["object"]] and not denied:
        return Support.PRIOR
    return Support.UNRELATED
