"""How far a judge can be trusted: its verdicts against sentences that people marked as evidence.

    python benchmarks/judges.py --facts redocred/trex_facts.jsonl \
        --sentences redocred/trex_sentences.jsonl [--nli-model DIR]

Positives are facts with their marked sentence. Each has one negative: a sentence that is not marked
for the fact, drawn in turn from four kinds (what it names: subject and answer, subject only, answer
only, neither), as far as the corpus has one. "Both" is the hardest and the least certain: a
sentence without a mark may still state the fact. Intervals resample facts.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.core.names import any_stands_in, fold
from bench.tasks.records import Fact, Sentence, read_facts, read_sentences
from metrics.judges.base import Judge, Pair, make_claim
from metrics.judges.lexical import Lexical, LexicalConfig
from metrics.stats.agreement import compare

KINDS = ("names both", "names subject", "names answer", "names neither")


@dataclass(frozen=True)
class Example:
    """One pair with the truth; ``kind`` of the negatives is what the sentence names."""

    pair: Pair
    fact_id: str
    truth: bool
    kind: str


class Names:
    """Which sentences name an entity, remembered by name."""

    def __init__(self, sentences: Sequence[Sentence]) -> None:
        self._folded = [fold(sentence.text) for sentence in sentences]
        self._found: dict[tuple[str, ...], frozenset[int]] = {}

    def rows(self, names: tuple[str, ...]) -> frozenset[int]:
        if names not in self._found:
            self._found[names] = frozenset(
                row for row, text in enumerate(self._folded) if any_stands_in(names, text)
            )
        return self._found[names]


def examples(facts: Sequence[Fact], sentences: Sequence[Sentence], seed: int) -> Iterator[Example]:
    draw = random.Random(seed)
    names = Names(sentences)
    rows = {sentence.sentence_id: row for row, sentence in enumerate(sentences)}
    everything = frozenset(range(len(sentences)))
    drawn: Counter[str] = Counter()
    for fact in facts:
        subjects = (fact.entity0, *fact.entity0_alias)
        answers = (fact.entity1, *fact.entity1_alias)
        claim = make_claim(fact.prompts[0], fact.entity1, subjects, answers)
        marked = {rows[name] for name in fact.trex_sentences if name in rows}
        marked |= set(marked_by_sentence(fact, sentences))
        if not marked:
            continue
        gold = draw.choice(sorted(marked))
        yield Example(Pair(sentences[gold].text, claim), fact.fact_id, True, "positive")
        subject, answer = names.rows(subjects) - marked, names.rows(answers) - marked
        neither = everything - subject - answer - marked
        groups = (subject & answer, subject - answer, answer - subject, neither)
        of_kind = dict(zip(KINDS, groups, strict=True))
        kind = min((k for k in KINDS if of_kind[k]), key=lambda k: drawn[k])
        drawn[kind] += 1
        row = draw.choice(sorted(of_kind[kind]))
        yield Example(Pair(sentences[row].text, claim), fact.fact_id, False, kind)


_stated: dict[int, dict[str, list[int]]] = {}


def marked_by_sentence(fact: Fact, sentences: Sequence[Sentence]) -> list[int]:
    by_fact = _stated.get(id(sentences))
    if by_fact is None:
        by_fact = _stated[id(sentences)] = defaultdict(list)
        for row, sentence in enumerate(sentences):
            for name in sentence.fact_triples:
                by_fact[name].append(row)
    return by_fact.get(fact.fact_id, [])


def without_aliases(pair: Pair) -> Pair:
    claim = pair.claim
    return Pair(
        pair.passage, replace(claim, subjects=claim.subjects[:1], answers=claim.answers[:1])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=Path, required=True, nargs="+")
    parser.add_argument("--sentences", type=Path, required=True, nargs="+")
    parser.add_argument("--nli-model", action="append", default=[], metavar="DIR")
    parser.add_argument("--nli-label", default=None)
    parser.add_argument("--limit", type=int, default=None, help="facts, a seeded sample")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    facts = [fact for _, fact in read_facts(options.facts)]
    sentences = [sentence for _, sentence in read_sentences(options.sentences)]
    random.Random(options.seed).shuffle(facts)
    built = list(examples(facts[: options.limit], sentences, options.seed))
    kinds = Counter(example.kind for example in built)
    print(f"{len(built):,} pairs: " + ", ".join(f"{n:,} {kind}" for kind, n in kinds.items()))
    same: Callable[[Pair], Pair] = lambda pair: pair  # noqa: E731
    judges: list[tuple[str, Judge, Callable[[Pair], Pair]]] = [
        ("lexical", Lexical(LexicalConfig()), same),
        ("lexical, no aliases", Lexical(LexicalConfig()), without_aliases),
        ("lexical, answer alone", Lexical(LexicalConfig(require_subject=False)), same),
    ]
    for folder in options.nli_model:
        from metrics.judges.nli import Nli, NliConfig

        name = f"nli {Path(folder).name}"
        judges.append((name, Nli(NliConfig(model=folder, label=options.nli_label)), same))
    columns = ("precision", "recall", "f1", "kappa")
    print(f"\n| judge | {' | '.join(columns)} | pairs/s |\n| :-- |{' --: |' * (len(columns) + 1)}")
    wrong: list[str] = []
    for name, judge, view in judges:
        start = time.perf_counter()
        scores = judge.score([view(example.pair) for example in built])
        seconds = time.perf_counter() - start
        known = ~np.isnan(scores)
        said = scores > judge.threshold
        kept = [(e, s) for e, s, k in zip(built, said, known, strict=True) if k]
        found = compare([e.truth for e, _ in kept], [s for _, s in kept],
                        [e.fact_id for e, _ in kept], seed=options.seed)  # fmt: skip
        cells = [
            f"{m.value:.3f} [{m.ci95[0]:.3f}, {m.ci95[1]:.3f}]"
            for m in (found.measures[column] for column in columns)
        ]
        print(f"| {name} | {' | '.join(cells)} | {len(built) / seconds:,.0f} |")
        shares = [np.mean([s for e, s in kept if e.kind == kind] or [np.nan]) for kind in KINDS]
        note = f" ({int((~known).sum())} not judged)" if not known.all() else ""
        wrong.append(f"| {name}{note} | {' | '.join(f'{share:.3f}' for share in shares)} |")
    print("\nShare of the negatives that are called correct:\n")
    print(f"| judge | {' | '.join(KINDS)} |\n| :-- |{' --: |' * len(KINDS)}")
    print("\n".join(wrong))


if __name__ == "__main__":
    main()
