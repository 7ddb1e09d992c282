"""Counting passages that name both entities of a fact: against a search for each name by itself."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.names import any_stands_in, fold_passage
from bench.tasks.frequency import MentionCounter

Facts = list[tuple[list[str], list[str]]]


def counted(facts: Facts, passages: list[str]) -> list[int]:
    counter = MentionCounter()
    for number, (subjects, answers) in enumerate(facts):
        counter.add_fact(str(number), subjects, answers)
    for passage in passages:
        counter.add_passage(passage)
    found = counter.frequencies()
    return [found[str(number)] for number in range(len(facts))]


def one_by_one(facts: Facts, passages: list[str]) -> list[int]:
    folded = [fold_passage(passage) for passage in passages]
    return [
        sum(any_stands_in(subjects, text) and any_stands_in(answers, text) for text in folded)
        for subjects, answers in facts
    ]


# Few letters, so that names meet: overlapping, inside each other, with accents, cases that fold to
# several letters, scripts without spaces, underscores and stops at their edges.
TEXT = st.text(st.sampled_from("aAUSbßéÉ e\u0301øßﬁ  \n\t\u00a0.'’-_1東京ก"), max_size=14)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.lists(TEXT, max_size=3), st.lists(TEXT, max_size=3)), max_size=6),
    st.lists(TEXT, max_size=5),
)
def test_equals_a_search_for_each_name(facts: Facts, passages: list[str]) -> None:
    assert counted(facts, passages) == one_by_one(facts, passages)


@given(st.permutations(["A b.", "a B", "b", "a-b c", "ab"]))
def test_the_order_of_passages_does_not_matter(passages: list[str]) -> None:
    assert counted([(["a"], ["b"])], passages) == [3]


def test_what_counts() -> None:
    fact = (["Al Grey", "Albert Thornton Grey"], ["trombone", "bone"])
    passages = [
        "Al  Grey played the TROMBONE, Al Grey did.",  # once, however often
        "“Albert\nThornton Grey’s bone”: an alias of each",
        "Al Greyson played the trombone",  # no whole word
        "Al Grey played trombones",
        "Al Grey",
        "trombone",
        "",
    ]
    assert counted([fact], passages) == [2]


def test_names_are_shared_by_facts_and_sides() -> None:
    facts = [(["Oslo"], ["Norway"]), (["Norway"], ["Oslo"]), (["Oslo"], ["Oslo"])]
    assert counted(facts, ["Oslo, Norway", "Oslo"]) == [1, 1, 2]


def test_a_fact_without_a_name_is_never_counted() -> None:
    facts = [([], ["b"]), (["a"], []), (["\u0301"], ["b"]), ([" "], [""])]
    assert counted(facts, ["a b \u0301"]) == [0, 0, 0, 0]


def test_no_fact_and_no_passage() -> None:
    assert counted([], ["text"]) == []
    assert counted([(["a"], ["b"])], []) == [0]
