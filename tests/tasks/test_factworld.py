"""The invented worlds: what they claim about their sentences is checked against the texts."""

from __future__ import annotations

import re
import tracemalloc
from collections import Counter, defaultdict
from dataclasses import asdict
from itertools import chain, islice, product
from pathlib import Path

import numpy as np
import pytest

from bench.tasks.base import load_task
from bench.tasks.factworld.kinds import GIVEN_NAMES, KINDS
from bench.tasks.factworld.names import Namer, Near
from bench.tasks.factworld.relations import N_OBJECT_LAST, N_PHRASINGS, PROFILES, RELATIONS
from bench.tasks.factworld.sentences import _CLOSERS, _FRAMES, _OPENERS
from bench.tasks.factworld.unrelated import Unrelated
from bench.tasks.support import Support, support
from tests.fixtures.factworlds import (
    NEGATIONS,
    WORLDS,
    Made,
    build,
    has,
    prompt_phrasing,
    relation_of,
    subject_name,
    triple,
)


@pytest.fixture(scope="module")
def world() -> Made:
    return Made(build())


@pytest.fixture(scope="module")
def replaced() -> Made:
    return Made(build("replaced"))


# ------------------------------------------------------------------ size and seed


@pytest.mark.parametrize("name", WORLDS)
def test_same_settings_same_task_other_seed_other_task(name: str) -> None:
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, again, other = (Made(build(name, n_passages=2000, seed=s)) for s in (3, 3, 4))
    assert (first.passages, first.queries) == (again.passages, again.queries)
    texts = {p.text for p in first.passages if p.fact_ids}
    assert not texts & {p.text for p in other.passages}
    assert state == np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("n_passages", [900, 1001, 4096])
def test_passages_are_as_many_as_asked_and_rows_count_up(n_passages: int) -> None:
    passages = list(build(n_passages=n_passages).passages())
    assert [p.row for p in passages] == list(range(n_passages))
    assert len({p.passage_id for p in passages}) == n_passages


def test_default_size(world: Made) -> None:
    assert len(world.passages) == 10_000
    assert 950 <= len(world.queries) <= 1050
    counts = world.builder.counts
    assert sum(n for kind, n in counts.items() if kind.startswith("passages_")) == 10_000
    assert counts["facts"] == len(world.queries)
    assert counts["passages_alias"] > 500
    assert counts["passages_unrelated"] > 500


def test_facts_grow_with_the_passages() -> None:
    assert 9_500 <= build(n_passages=100_000)._world.n_facts <= 10_500


def test_memory_does_not_grow_with_the_corpus_but_for_small_arrays() -> None:
    def peak(n_passages: int) -> tuple[int, int]:
        """Bytes at most while building, and what streaming 8,000 rows adds."""
        tracemalloc.start()
        try:
            builder = build(n_passages=n_passages)
            built = tracemalloc.get_traced_memory()[1]
            rows = builder.passages()
            for _ in islice(rows, 1000):
                pass
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            for _ in islice(rows, 8000):
                pass
            return built, tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()

    small, large = peak(20_000), peak(200_000)
    assert (large[0] - small[0]) / 180_000 < 40  # bytes a passage; a Python string has more
    assert large[1] < 50_000


# ------------------------------------------------------------------ names and phrasings


def test_names_are_unique_over_kinds_near_duplicates_and_second_names() -> None:
    namer = Namer(0)
    names: list[str] = []
    for kind, number in product(KINDS, range(1500)):
        near = list(Near) if KINDS[kind].usual.near_endings else [Near.NONE]
        names += [namer.name(kind, number, n) for n in near]
        # An entity has one near-duplicate, whichever it is, with a second name of its own.
        names += [namer.name(kind, number, n, second=True) for n in near[:2]]
    assert len({name.lower() for name in names}) == len(names)


def test_no_ending_is_a_suffix_of_another() -> None:
    forms = [GIVEN_NAMES, *chain(*((k.usual, k.second) for k in KINDS.values()))]
    endings = [e for form in forms for e in (*form.endings, *form.near_endings)]
    clashes = [(a, b) for a, b in product(endings, endings) if a != b and b.endswith(a)]
    assert not clashes
    assert len(set(endings)) == len(endings)


def test_a_prompt_occurs_in_no_other_phrasing() -> None:
    assert len(RELATIONS) >= 8
    for relation in RELATIONS:
        assert len(relation.phrasings) == N_PHRASINGS
        assert len(set(relation.phrasings)) == N_PHRASINGS
        for asked in range(N_OBJECT_LAST):
            assert relation.phrasings[asked].endswith("{o}")
            prompt = relation.prompt(asked, "Xa Yb").lower()
            for other in range(N_PHRASINGS):
                clause = relation.clause(other, "Xa Yb", "Zc").lower()
                assert (prompt in clause) == (other == asked), (prompt, clause)
    assert all(closer.startswith(",") for closer in _CLOSERS)
    assert all(opener.endswith((", ", " that ")) for opener in _OPENERS)
    assert len(set(_FRAMES)) == len(_FRAMES)


def test_composed_relations_follow_what_they_are_composed_from() -> None:
    for names in PROFILES:
        for place, name in enumerate(names):
            composed = relation_of(name).composed
            assert not composed or names[place - 1] == composed


def test_sentences_are_short_and_nearly_all_distinct(world: Made) -> None:
    lengths = [len(p.text.split()) for p in world.passages]
    assert min(lengths) >= 6
    assert max(lengths) <= 20
    assert np.mean([8 <= n <= 16 for n in lengths]) > 0.95
    assert len({p.text for p in world.passages}) > 0.999 * len(world.passages)
    for q in world.queries:  # statements of one fact: all of them
        assert len({world.passages[row].text for row in q.gold_rows}) == q.frequency


def test_unrelated_sentences_do_not_repeat() -> None:
    texts = Unrelated(0)
    assert len({texts.text(i) for i in range(20_000)}) == 20_000


# ------------------------------------------------------------------ annotations


def test_gold_rows_are_those_a_scan_finds(world: Made, replaced: Made) -> None:
    for made in (world, replaced):
        by_id = defaultdict(list)
        for p in made.passages:
            for fact_id in p.fact_ids:
                by_id[fact_id].append(p.row)
        for q in made.queries:
            assert list(q.gold_rows) == made.stated[triple(q.statement)] == by_id[q.query_id]
            assert q.frequency == len(q.gold_rows) >= 1


def test_all_kinds_of_support_occur(world: Made, replaced: Made) -> None:
    for made, absent in ((world, set()), (replaced, {Support.ENTAILS})):
        seen: set[Support] = set()
        for q in made.queries[::20]:
            seen |= {support(q.statement, p.statement) for p in made.passages}
        assert seen == set(Support) - {Support.UNANNOTATED} - absent


def test_plain_statements_name_both_entities_and_alias_statements_do_not(world: Made) -> None:
    manners: Counter[str] = Counter()
    for q in world.queries:
        for row in q.gold_rows:
            text, manner = world.passages[row].text, world.passages[row].statement["manner"]
            named = has(text, subject_name(q)) and has(text, q.target)
            assert named == (manner == "plain"), text
            assert not NEGATIONS.search(text)
            manners[manner] += 1
    assert manners["alias"] > 500
    assert manners["plain"] > manners["alias"]


def test_second_names_are_introduced(world: Made) -> None:
    """Each entity that a statement calls by a second name is equated with it elsewhere."""
    introductions = defaultdict(list)
    for p in world.passages:
        if p.statement and p.statement["relation"] == "also_known_as":
            assert p.statement["subject"] == p.statement["object"]
            introductions[p.statement["subject"]].append(p.text)
    assert {len(texts) for texts in introductions.values()} == {2}
    checked = 0
    for q in world.queries:
        fact = world.builder._world.fact(int(q.query_id.rpartition(":")[2]))
        texts = [world.passages[row].text for row in q.gold_rows]
        for entity, usual in ((fact.subject, subject_name(q)), (fact.object, q.target)):
            second = world.builder._writer.name(entity, second=True)
            unnamed = [text for text in texts if not has(text, usual)]
            assert all(has(text, second) for text in unnamed)
            for text in introductions[entity.id] if unnamed else ():
                assert has(text, usual)
                assert has(text, second)
                checked += 1
    assert checked > 200


def test_denials_are_negated_and_about_true_and_false_objects(world: Made) -> None:
    true = false = 0
    for p in world.passages:
        if p.statement is None or p.statement["manner"] != "denied":
            continue
        assert NEGATIONS.search(p.text), p.text
        assert p.fact_ids == ()
        assert has(p.text, world.subject_names[p.statement["subject"]])
        if p.statement["object"] in world.object_names:  # not every object is some fact's
            assert has(p.text, world.object_names[p.statement["object"]])
        is_true = bool(world.stated[triple(p.statement)])
        true, false = true + is_true, false + (not is_true)
    assert true + false == 400
    assert 150 < true < 250


def test_unrelated_sentences_name_no_entity(world: Made) -> None:
    names = " ".join([*world.subject_names.values(), *world.object_names.values()])
    forms = [form for kind in KINDS.values() for form in (kind.usual, kind.second)]
    common = {word.lower() for form in forms for word in form.companions or ()}
    invented = set(names.lower().split()) - common
    assert len(invented) > 400
    for p in world.passages:
        if p.statement is None:
            assert not invented & set(re.findall(r"\w+", p.text.lower())), p.text


def test_composed_facts_follow_from_two_stated_facts(world: Made) -> None:
    composed = [q for q in world.queries if q.statement["hops"]]
    assert len(composed) > 50
    for q in composed:
        (subject, first, middle), (city, second, region) = q.statement["hops"]
        assert (subject, region) == (q.statement["subject"], q.statement["object"])
        assert (city, second) == (middle, "location")
        assert relation_of(q.relation).composed == first
        assert world.stated[subject, first, middle]
        assert world.stated[city, second, region]


def test_near_duplicates_differ_by_a_letter_or_a_syllable_and_in_their_facts(world: Made) -> None:
    objects = defaultdict(dict)
    for q in world.queries:
        objects[q.statement["subject"]][q.relation] = q.statement["object"]
    lengths: Counter[int] = Counter()
    contrasts = 0
    for q in world.queries:
        for other in q.statement["near"]:
            a, b = sorted((subject_name(q), world.subject_names[other]), key=len)
            lengths[len(b) - len(a)] += 1
            if len(a) == len(b):
                assert sum(x != y for x, y in zip(a, b, strict=True)) == 1
            else:
                cut = len(b) - len(a)
                assert any(b[:i] + b[i + cut :] == a for i in range(len(b)))
            contrasts += (
                objects[other].get(q.relation, q.statement["object"]) != (q.statement["object"])
            )
    assert set(lengths) == {0, 2, 3}
    n_near = sum(bool(q.statement["near"]) for q in world.queries)
    assert 0.1 < n_near / len(world.queries) < 0.3
    assert contrasts > 0.8 * n_near  # composed facts may agree


# ------------------------------------------------------------------ prompts


@pytest.mark.parametrize("name", WORLDS)
def test_a_fact_is_asked_in_phrasings_that_only_others_are_stated_in(name: str) -> None:
    worlds = [Made(build(name, prompt=prompt)) for prompt in range(3)]
    texts = [p.text for p in worlds[0].passages]
    for same_fact in zip(*(made.queries for made in worlds), strict=True):
        assert len({q.prompt for q in same_fact}) == 3
        for q in same_fact:
            for row in q.gold_rows:
                assert q.prompt.lower() not in texts[row].lower()
    stated_in: Counter[tuple[str, int]] = Counter()
    for p in worlds[0].passages:
        if p.fact_ids:
            relation = relation_of(p.statement["relation"])
            for i, template in enumerate(relation.phrasings):
                pattern = re.escape(template).replace(r"\{s\}", ".+").replace(r"\{o\}", ".+")
                stated_in[relation.name, i] += bool(re.search(pattern, p.text, re.IGNORECASE))
    for q in worlds[0].queries:
        assert stated_in[q.relation, prompt_phrasing(q)[0]] >= 5


def test_targets_come_from_limited_skewed_pools(world: Made) -> None:
    for relation in RELATIONS:
        targets = Counter(q.target for q in world.queries if q.relation == relation.name)
        assert len(targets) <= 40
        most = targets.most_common(1)[0][1]
        assert most > 2 * np.mean(list(targets.values()))
    assert all(q.target.lower() not in q.prompt.lower() for q in world.queries)


# ------------------------------------------------------------------ frequency and sampling


def test_frequencies_run_from_1_to_32_by_zipfs_law(world: Made) -> None:
    counts = Counter(q.frequency for q in world.queries)
    assert (min(counts), max(counts)) == (1, 32)
    harmonic = sum(1 / f for f in range(1, 33))
    for f in range(1, 33):
        assert counts[f] == pytest.approx(len(world.queries) / (harmonic * f), abs=2)
    buckets = Counter(q.slices["frequency"] for q in world.queries)
    assert set(buckets) == {"1", "2-3", "4-7", "8-15", "16-32"}
    for q in world.queries:
        low, _, high = q.slices["frequency"].partition("-")
        assert int(low) <= q.frequency <= int(high or low)
        assert q.slices["relation"] == q.relation == q.query_id.split(":")[1]


def test_sampled_queries_are_balanced_over_frequencies_and_belong_to_the_same_task(
    world: Made,
) -> None:
    sample = Made(build(n_queries=52))
    assert sample.passages == world.passages
    assert all(q == world.by_id[q.query_id] for q in sample.queries)
    sizes = Counter(q.slices["frequency"] for q in sample.queries)
    assert sum(sizes.values()) == 52
    assert set(sizes.values()) == {10, 11}


def test_rows_carry_no_information(world: Made) -> None:
    """Statements of a fact lie anywhere: the mean over facts is the middle of the corpus."""
    means = [np.mean(q.gold_rows) for q in world.queries if q.frequency >= 8]
    assert np.mean(means) == pytest.approx(5000, abs=250)
    numbers = [int(q.query_id[-6:]) for q in world.queries if q.frequency >= 8]
    assert abs(np.corrcoef(numbers, means)[0, 1]) < 0.2


# ------------------------------------------------------------------ replaced


def test_gold_never_holds_the_target_but_the_corpus_equates_it_with_what_gold_says(
    replaced: Made,
) -> None:
    introduced = defaultdict(list)
    for p in replaced.passages:
        if p.statement and p.statement["relation"] == "also_known_as":
            introduced[p.statement["subject"]].append(p)
    for q in replaced.queries:
        fact = replaced.builder._world.fact(int(q.query_id.rpartition(":")[2]))
        second = replaced.builder._writer.name(fact.object, second=True)
        for row in q.gold_rows:
            text = replaced.passages[row].text
            assert not any(has(text, word) for word in q.target.split()), (q.target, text)
            assert has(text, second)
            assert support(q.statement, replaced.passages[row].statement) is Support.ENTAILS_ALIAS
        equations = introduced[q.statement["object"]]
        assert len(equations) == 2
        for p in equations:
            assert has(p.text, q.target)
            assert has(p.text, second)
            assert support(q.statement, p.statement) is Support.ONE_HOP


def test_targets_words_occur_in_statements_about_others(replaced: Made) -> None:
    """Matching the answer leads astray: most targets are stated of other subjects."""
    plain = defaultdict(set)
    for p in replaced.passages:
        if p.fact_ids and p.statement["manner"] == "plain":
            plain[p.statement["relation"], p.statement["object"]].add(p.statement["subject"])
    misleading = 0
    for q in replaced.queries:
        others = plain[q.relation, q.statement["object"]]
        assert q.statement["subject"] not in others
        misleading += bool(others)
    assert misleading > 0.7 * len(replaced.queries)


def test_bridging_facts_are_stated_with_both_names_and_not_asked(replaced: Made) -> None:
    asked = {q.query_id for q in replaced.queries}
    assert 0.4 < len(asked) / replaced.builder.counts["facts"] < 0.6
    manners = defaultdict(set)
    for p in replaced.passages:
        for fact_id in p.fact_ids:
            manners[fact_id].add(p.statement["manner"])
    assert all(manners[fact_id] == {"alias"} for fact_id in asked)
    bridging = [kinds for fact_id, kinds in manners.items() if fact_id not in asked]
    assert sum(kinds == {"plain", "alias"} for kinds in bridging) > 0.6 * len(bridging)


# ------------------------------------------------------------------ as the harness uses it


@pytest.mark.parametrize("name", WORLDS)
def test_task_on_disk_is_what_the_builder_streams(name: str, tmp_path: Path) -> None:
    settings = {"n_passages": 1000, "n_queries": 10}
    task = load_task(name, build(name, **settings), tmp_path)
    made = Made(build(name, **settings))
    assert list(task.passages) == made.passages
    assert [asdict(q) for q in task.queries] == [asdict(q) for q in made.queries]
    assert task.counts["passages"] == 1000
    q = task.queries[0]
    assert task.correct(q, q.gold_rows).all()
    assert build(name, **settings).fingerprint() != build(name, n_passages=1000).fingerprint()
