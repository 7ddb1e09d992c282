"""Every reader on files that are broken at random: one line that says what is wrong, or content.

The fast run tries a few hundred files a reader, the slow one more than 10,000 in all.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from safetensors.numpy import save_file

from bench.core.errors import UserError
from bench.importing.bergson import read_layout, read_orientation
from bench.importing.release import read_release
from bench.importing.trec import read_trec
from bench.models.second_moments import load_moments
from bench.report.annotate.read import read_answers
from bench.report.publishing.bundle import opened, write_bundle
from bench.report.reproduction.claims import read_claims
from bench.results.per_query import read_per_query
from bench.results.schema import RETRIEVALS, read_result
from bench.results.text_free import PASSAGES, RANKINGS, read_text_free, write_text_free
from bench.run.settings import settings_from
from bench.tasks.passages import Passage, PassageStore, write_passages
from bench.tasks.records import read_facts, read_retrievals, read_sentences
from tests.fixtures.cells import write_cell
from tests.fixtures.composing import composed
from tests.fixtures.models import load, make_model

FEW, MANY = 60, 800  # files a reader; the slow run: 17 readers × 800
RETRIEVAL = {
    "example_id": "q0", "query_set": "trex", "inputs_plaintext": "Al Grey plays the",
    "targets_plaintext": "trombone", "proponents": ["a b", "c"], "proponent_ids": ["s1", "s2"],
    "proponent_scores": [2.5, 1e-3], "fact_id": "f0", "relation": "instrument",
    "c4_frequency": 12, "proponent_correct": [True, False],
}  # fmt: skip
FACT = {
    "fact_id": "f0", "kilt_id": "k", "entity0": "Al Grey", "relation": "instrument",
    "entity1": "trombone", "entity0_uri": "u", "predicate_uri": "p", "entity1_uri": "v",
    "entity0_alias": ["Grey"], "entity1_alias": [], "trex_sentences": ["s1"], "c4_frequency": 3,
    "is_repetition": False, "prompt0": "Al Grey plays the", "prompt1": "x", "prompt2": "y",
}  # fmt: skip
SENTENCE = {
    "sentence_id": "s1", "text": "Al Grey plays the trombone.", "abstract_uri": "a",
    "sent_idx_in_abst": 0, "fact_triples": ["f0"],
}  # fmt: skip
Reader = Callable[[Path], Any]
READERS: dict[str, tuple[str, Callable[[Path], None], Reader]] = {}


def reader(name: str, file: str, write: Callable[[Path], None]) -> Callable[[Reader], Reader]:
    """Note a reader, the file that it reads, and how a sound one is written."""

    def note(read: Reader) -> Reader:
        READERS[name] = (file, write, read)
        return read

    return note


def lines(*records: dict[str, Any]) -> Callable[[Path], None]:
    text = "".join(json.dumps(record) + "\n" for record in records)
    return lambda path: path.write_text(text)


def cell_file(path: Path, name: str) -> None:
    folder = write_cell(path.parent / "runs", n_queries=3, top_k=4)
    path.write_bytes((folder / name).read_bytes())


@reader("facts", "facts.jsonl", lines(FACT, {**FACT, "fact_id": "f1"}))
def _(path: Path) -> Any:
    return list(read_facts([path]))


@reader("gzipped", "f.jsonl.gz", lambda p: p.write_bytes(gzip.compress(json.dumps(FACT).encode())))
def _(path: Path) -> Any:
    return list(read_facts([path]))


@reader("sentences", "sentences.jsonl", lines(SENTENCE, {**SENTENCE, "sentence_id": "s2"}))
def _(path: Path) -> Any:
    return list(read_sentences([path]))


@reader("retrievals", "r.jsonl", lines(RETRIEVAL, {**RETRIEVAL, "example_id": "q1"}))
def _(path: Path) -> Any:
    return list(read_retrievals(path))


@reader("release", "r.jsonl", lines(RETRIEVAL, {**RETRIEVAL, "example_id": "q1"}))
def _(path: Path) -> Any:
    return list(read_release([path]))


@reader("trec", "run.trec", lambda p: p.write_text("q0 Q0 d1 1 2.5 tag\nq0 Q0 d2 2 1e-3 tag\n"))
def _(path: Path) -> Any:
    return list(read_trec([path]))


@reader(
    "bergson", "info.json",
    lambda p: p.write_text(json.dumps({
        "num_items": 3, "num_scores": 2,
        "dtype": {"names": ["score_0", "written_0", "score_1", "written_1"],
                  "formats": ["float32", "bool", "float32", "bool"],
                  "offsets": [0, 4, 8, 12], "itemsize": 16},
    })),
)  # fmt: skip
def _(path: Path) -> Any:
    return read_layout(path)


@reader("orientation", "config.yaml", lambda p: p.write_text("a:\n  higher_is_better: true\n"))
def _(path: Path) -> Any:
    return read_orientation(path)


@reader("answers", "sheet.csv", lambda p: p.write_text("pair_id,answer\n1,yes\n2,no\n"))
def _(path: Path) -> Any:
    return read_answers(path)


@reader("claims", "claims.yaml", lambda p: p.write_text(
    "- {id: a, claim: b, kind: order, metrics: [mrr], above: [x], below: [y], source: s,\n"
    "   status: confirmed, command: c}\n"
))  # fmt: skip
def _(path: Path) -> Any:
    return read_claims(path)


@reader("result", "result.json", lambda p: cell_file(p, "result.json"))
def _(path: Path) -> Any:
    return read_result(path)


@reader("per query", "per_query.parquet", lambda p: cell_file(p, "per_query.parquet"))
def _(path: Path) -> Any:
    return read_per_query(path.parent)


def _write_corpus(path: Path) -> None:
    write_passages((Passage(row, f"p{row}", "some text") for row in range(3)), path.parent)


@reader("corpus", "passages.jsonl", _write_corpus)
def _(path: Path) -> Any:
    return [passage.text for passage in PassageStore(path.parent)]


@reader("offsets", "offsets.npy", _write_corpus)
def _(path: Path) -> Any:
    return [passage.text for passage in PassageStore(path.parent)]


def _write_text_free(path: Path) -> None:
    folder = write_cell(path.parent / "runs", n_queries=3, top_k=4, tail_patch=0.01)
    write_text_free(folder / RETRIEVALS, path.parent)


@reader("rankings without texts", RANKINGS, _write_text_free)
def _(path: Path) -> Any:
    return list(read_text_free(path.parent))


@reader("passages without texts", PASSAGES, _write_text_free)
def _(path: Path) -> Any:
    return list(read_text_free(path.parent))


def _write_bundle(path: Path) -> None:
    write_cell(path.parent / "runs", n_queries=3, top_k=4)
    assert write_bundle(path.parent / "runs", path, "Ada") == []


@reader("bundle", "bundle.zip", _write_bundle)
def _(path: Path) -> Any:
    with opened(path) as bundle:
        return bundle


# ------------------------------------------------------------------ how files break


def broken(data: bytes, rng: random.Random) -> bytes:
    """One to three random changes: bits, bytes, pieces, lines, numbers, and what opens a nest."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(out) + 1)
        match rng.randrange(9):
            case 0 if out:
                out[place % len(out)] ^= 1 << rng.randrange(8)
            case 1:
                out[place:place] = rng.randbytes(rng.randint(1, 8))
            case 2:
                del out[place : place + rng.randint(1, 40)]
            case 3:
                del out[place:]
            case 4:
                piece = out[place : place + rng.randint(1, 60)]
                out[place:place] = piece * rng.randint(1, 4)
            case 5:
                out[place:place] = rng.choice(STRANGE)
            case 6:
                out[place : place + 1] = rng.choice(STRANGE)
            case 7:
                rows = bytes(out).split(b"\n")
                rng.shuffle(rows)
                out = bytearray(b"\n".join(rows))
            case _:
                word = rng.choice((b"null", b"true", b"[]", b"{}", b'""', b"-1", b"1e999", b"NaN"))
                end = place
                while end < len(out) and chr(out[end]) not in ",}]\n:":
                    end += 1
                out[place:end] = word
    return bytes(out)


STRANGE = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"[" * 3000,
    b'{"a":' * 3000, b"9" * 5000, b"\r\n", b"\n\n", b"'", b'"', b"&a [*a]",
    b"!!python/object:os.system", b"\x1b[2J", "\u202e".encode(), b"1e400", b"-", b"\t", b"<<: *x",
    b" ", b",",
)  # fmt: skip


def refusal(call: Callable[[], Any], what: str) -> str | None:
    """The one line of a UserError, None if the call went well; anything else fails the test."""
    try:
        call()
    except UserError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(f"{error!r} on {what}") from error
    else:
        return None
    assert message
    assert "\n" not in message
    return message


def attack(name: str, folder: Path, tries: int, seed: int = 0) -> int:
    """Read broken files; returns how many were refused. Anything but a UserError fails the test."""
    file, write, read = READERS[name]
    path = folder / file
    write(path)
    read(path)  # sound as it is
    sound = path.read_bytes()
    rng = random.Random(f"{name} {seed}")
    refused = 0
    for number in range(tries):
        data = broken(sound, rng)
        path.write_bytes(data)
        message = refusal(lambda: read(path), f"try {number}: {data[:300]!r}")
        refused += message is not None
        path.unlink()
    return refused


@pytest.mark.parametrize("name", READERS)
def test_broken_files(name: str, tmp_path: Path) -> None:
    assert attack(name, tmp_path, FEW) > FEW / 10, "hardly any was broken: this tests nothing"


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_broken_files(name: str, tmp_path: Path) -> None:
    assert attack(name, tmp_path, MANY, seed=1) > MANY / 10
    assert len(READERS) * MANY > 10_000


@pytest.mark.parametrize("tries", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_broken_second_moments(tmp_path: Path, tries: int) -> None:
    """Refused, or read as numbers that are finite: weights that are not would be found later."""
    model = load(make_model(tmp_path / "model", layers=1))
    tensors = {f"{n}.exp_avg_sq": np.ones(tuple(p.shape), np.float32)
               for n, p in model.module.named_parameters()}  # fmt: skip
    path = tmp_path / "moments.safetensors"
    save_file(tensors, path)
    load_moments(path, model.module)
    sound, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(tries):
        path.write_bytes(broken(sound, rng))
        message = refusal(lambda: load_moments(path, model.module), "second moments")
        refused += message is not None
    assert refused > tries / 4


@pytest.mark.parametrize("tries", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_broken_settings(tries: int) -> None:
    """Any value in place of any other: a message that names the setting, or settings."""
    rng = random.Random(0)
    config = OmegaConf.to_container(composed("method=trackstar"), resolve=True)
    plain = yaml.safe_dump(config)
    values = (None, -1, 0, 1.5, True, "x", "", [], {}, ["a"], {"b": 1}, 10**30, float("nan"))
    refused = 0
    for _ in range(tries):
        config = yaml.safe_load(plain)
        spot = config
        key = rng.choice(sorted(spot))
        while isinstance(spot[key], dict) and spot[key] and rng.random() < 0.8:
            spot = spot[key]
            key = rng.choice(sorted(spot))
        spot[key] = rng.choice(values)
        message = refusal(lambda c=config: settings_from(OmegaConf.create(c)), repr(spot))
        refused += message is not None
    assert refused > tries / 10
