"""Readers and writers of the release's formats: what is accepted, and how a refusal reads."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import UserError, did_you_mean
from bench.storage import jsonlines
from bench.storage.files import expand
from bench.tasks import records

FACT = {
    "fact_id": "f1",
    "entity0": "Al Grey",
    "relation": "instrument",
    "entity1": "trombone",
    "trex_sentences": ["s1"],
    "prompt0": "Al Grey plays the",
    "prompt1": "Al Grey is known for the",
    "prompt2": "Al Grey performs on the",
}
SENTENCE = {"sentence_id": "s1", "text": "Al Grey played the trombone.", "fact_triples": ["f1"]}
RETRIEVAL = {
    "example_id": "f1",
    "query_set": "trex",
    "inputs_plaintext": "Al Grey plays the",
    "targets_plaintext": "trombone",
    "proponents": ["a", "b"],
    "proponent_ids": ["s1", "s2"],
    "proponent_scores": [2.5, -1],
}
PARSERS = {
    "fact": (records.parse_fact, FACT),
    "sentence": (records.parse_sentence, SENTENCE),
    "retrieval": (records.parse_retrieval, RETRIEVAL),
}


def parse(kind, tmp_path, **changes):
    """Parse a valid record with ``changes`` as line 3 of a file; ``...`` deletes a field."""
    parser, valid = PARSERS[kind]
    record = {key: value for key, value in {**valid, **changes}.items() if value is not ...}
    path = tmp_path / f"{kind}.jsonl"
    path.write_text(f"\n \n{json.dumps(record)}\n")
    ((place, read),) = jsonlines.read(path)
    return parser(read, place)


@pytest.mark.parametrize(
    ("kind", "field", "value", "expected"),
    [
        ("fact", "fact_id", 17, "17"),
        ("fact", "fact_id", {"fact_id": "f9"}, "f9"),
        ("fact", "trex_sentences", ..., ()),
        ("fact", "trex_sentences", None, ()),
        ("fact", "trex_sentences", [], ()),
        ("fact", "trex_sentences", ["s1", 2], ("s1", "2")),
        ("fact", "trex_sentences", [{"sentence_id": "s1"}, {"id": 4}], ("s1", "4")),
        ("fact", "entity0_alias", ["A. Grey"], ("A. Grey",)),
        ("fact", "entity0_alias", None, ()),
        ("fact", "kilt_id", None, None),
        ("fact", "c4_frequency", 0, 0),
        ("fact", "c4_frequency", None, None),
        ("fact", "is_repetition", True, True),
        ("fact", "is_repetition", None, False),
        ("sentence", "text", "", ""),
        ("sentence", "text", "a\u2028b\nc", "a\u2028b\nc"),
        ("sentence", "fact_triples", [3, {"fact_id": "f2"}], ("3", "f2")),
        ("sentence", "fact_triples", ..., ()),
        ("sentence", "sent_idx_in_abst", 0, 0),
        ("retrieval", "proponent_ids", [1, "s2"], ["1", "s2"]),
        ("retrieval", "proponent_scores", [1, 0.5], [1, 0.5]),
        ("retrieval", "proponent_correct", [True, False], [True, False]),
        ("retrieval", "proponent_correct", ..., None),
        ("retrieval", "fact_id", 5, "5"),
        ("retrieval", "8b_generations", ["x"], None),
    ],
)
def test_accepted_forms(tmp_path, kind, field, value, expected):
    assert getattr(parse(kind, tmp_path, **{field: value}), field, None) == expected


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *(("fact", "fact_id", bad) for bad in (..., None, "", 1.5, True, [], {"name": "x"})),
        *(("fact", "entity0", bad) for bad in (..., None, "", " ", 3, ["x"])),
        *(("fact", f"prompt{i}", ...) for i in range(3)),
        *(("fact", "trex_sentences", bad) for bad in ("s1", 3, {"id": "s1"}, True)),
        *(("fact", "trex_sentences", [bad]) for bad in (None, 1.0, True, "", [], {"x": 1})),
        *(("fact", "entity1_alias", bad) for bad in ("x", [1], {"a": 1})),
        *(("fact", "c4_frequency", bad) for bad in ("3", 3.0, True, -1, [3])),
        *(("fact", "is_repetition", bad) for bad in (0, "false", [])),
        *(("fact", "entity0_uri", bad) for bad in (1, False)),
        *(("sentence", "text", bad) for bad in (..., None, 1, ["x"])),
        ("sentence", "sentence_id", ...),
        *(("sentence", "fact_triples", bad) for bad in ("f1", [[]], [0.5])),
        *(("sentence", "sent_idx_in_abst", bad) for bad in ("0", True)),
        *(("retrieval", "proponents", bad) for bad in (..., None, "a", [1, 2])),
        *(("retrieval", "proponent_ids", bad) for bad in (..., ["s1"], "s1", [None, "s"])),
        *(("retrieval", "proponent_scores", bad) for bad in (..., [1.0], ["1", "2"], [True, 1])),
        *(
            ("retrieval", "proponent_scores", [1.0, bad])
            for bad in (float("nan"), float("inf"), -float("inf"), 10**400)
        ),
        *(("retrieval", "proponent_correct", bad) for bad in ([True], [1, 0], "yes")),
        ("retrieval", "proponent_ais_scores", [0.5]),
        ("retrieval", "opponent_ids", ["s1"]),
        *(("retrieval", field, ...) for field in ("example_id", "query_set", "inputs_plaintext")),
    ],
)
def test_refusal_names_file_line_and_field(tmp_path, kind, field, value):
    with pytest.raises(UserError) as caught:
        parse(kind, tmp_path, **{field: value})
    message = str(caught.value)
    assert f"{tmp_path / kind}.jsonl:3, field {field!r}: " in message
    assert "\n" not in message
    assert len(message) < len(str(tmp_path)) + 200


def test_opponents_need_ids_and_scores_of_their_own_length(tmp_path):
    sides = {"opponents": ["x"], "opponent_ids": [7], "opponent_scores": [-3.0]}
    assert parse("retrieval", tmp_path, **sides).opponent_ids == ["7"]
    with pytest.raises(UserError, match="'opponent_scores': has 2 items where opponents has 1"):
        parse("retrieval", tmp_path, **{**sides, "opponent_scores": [1, 2]})


# ------------------------------------------------------------------ files


def lines(n, broken=None):
    rows = [json.dumps({"n": i}) for i in range(1, n + 1)]
    if broken:
        rows[broken[0] - 1] = broken[1]
    return "\n".join(rows).encode("utf-8", "surrogateescape") + b"\n"


def numbers(path):
    return [(place.line, record["n"]) for place, record in jsonlines.read(path)]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"n": 1', r"broken JSON at column 8"),
        ('{"n": "a\\x"}', r"broken JSON at column 9"),
        ("[" * 100_000, r"broken JSON: nested too deeply"),
        ('{"n": ' + "9" * 5000 + "}", r"broken JSON: Exceeds the limit"),
        ("[1, 2]", r"expected a JSON object, found list"),
        ('"text"', r"expected a JSON object, found str"),
        ("null", r"expected a JSON object, found NoneType"),
        ('{"n": "\udcff"}', r"not UTF-8 at byte 7 of the line"),
    ],
    ids=lambda value: value[:12],
)
def test_a_broken_line_is_named(tmp_path, line, what):
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines(9, (7, line)))
    seen = []
    with pytest.raises(UserError, match=what) as caught:
        seen.extend(place.line for place, _ in jsonlines.read(path))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert str(caught.value).startswith(f"{path}:7: ")
    assert "\n" not in str(caught.value)


def test_gzip_is_told_by_content_not_by_name(tmp_path):
    packed, plain = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(lines(2)) + gzip.compress(b'{"n": 3}\n'))
    plain.write_bytes(lines(3))
    assert numbers(packed) == numbers(plain) == [(1, 1), (2, 2), (3, 3)]


def test_last_line_blank_lines_carriage_returns_and_byte_order_mark(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\r\n{"n": 3}')
    assert numbers(path) == [(1, 1), (3, 3)]


@pytest.mark.parametrize("damage", ["cut", "flipped", "trailing"])
def test_damaged_gzip(tmp_path, damage):
    path = tmp_path / "x.jsonl.gz"
    data = bytearray(gzip.compress(lines(5000)))
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
        data[-6] ^= 0xFF
    else:
        data += b"\x01garbage"
    path.write_bytes(bytes(data))
    with pytest.raises(UserError) as caught:
        numbers(path)
    assert str(path) in str(caught.value)
    if damage != "flipped":  # a flipped bit may also show as a broken line
        assert "damaged gzip stream after line" in str(caught.value)


def test_reading_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(UserError, match="cannot read it") as caught:
            numbers(path)
        assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_reading_without_permission(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines(1))
    path.chmod(0)
    with pytest.raises(UserError, match="no permission to read"):
        numbers(path)


def test_expand(tmp_path, monkeypatch):
    for i in (2, 0, 1):
        (tmp_path / f"s.jsonl-{i:05}-of-00003").write_bytes(b"")
    (tmp_path / "s.jsonl-folder-of-00003").mkdir()
    (tmp_path / "odd[1].jsonl").write_bytes(b"")
    names = [path.name for path in expand(f"{tmp_path}/s.jsonl-*-of-00003", "k")]
    assert names == [f"s.jsonl-{i:05}-of-00003" for i in range(3)]
    assert expand(f"{tmp_path}/odd[1].jsonl", "k") == [tmp_path / "odd[1].jsonl"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/odd[1].jsonl", "k") == [tmp_path / "odd[1].jsonl"]


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("", "is a directory, not a file"),
        ("none.jsonl", "no such file"),
        ("none-*", "no such file"),
        ("x" * 300, "no such file|cannot look there"),
    ],
)
def test_expand_refuses(tmp_path, pattern, what):
    with pytest.raises(UserError, match=what) as caught:
        expand(f"{tmp_path}/{pattern}", "task.facts")
    assert str(tmp_path) in str(caught.value)
    assert "task.facts" in str(caught.value)


def test_expand_refuses_an_unknown_home():
    with pytest.raises(UserError, match="cannot look there"):
        expand("~no-such-user-here/x.jsonl", "task.facts")


def test_readers_run_over_shards_in_order(tmp_path):
    paths = []
    for i in range(2):
        paths.append(tmp_path / f"{i}.jsonl")
        paths[-1].write_text(json.dumps({**SENTENCE, "sentence_id": i}) + "\n")
    read = [(place.path, s.sentence_id) for place, s in records.read_sentences(paths)]
    assert read == [(paths[0], "0"), (paths[1], "1")]
    paths[1].write_text("{}\n")
    with pytest.raises(UserError, match=r"1\.jsonl:1, field 'fact_id'"):
        list(records.read_facts(paths[1:]))


# ------------------------------------------------------------------ writing

TEXT = st.text(st.characters(exclude_categories=())).filter(str.strip)  # lone surrogates too
SCORE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def retrievals(draw):
    n = draw(st.integers(0, 4))

    def several(items):
        return st.lists(items, min_size=n, max_size=n)

    record = records.RetrievalRecord(
        example_id=draw(TEXT),
        query_set=draw(TEXT),
        inputs_plaintext=draw(TEXT),
        targets_plaintext=draw(TEXT),
        proponents=draw(several(TEXT)),
        proponent_ids=draw(several(TEXT)),
        proponent_scores=draw(several(SCORE)),
        relation=draw(st.none() | TEXT),
        c4_frequency=draw(st.none() | st.integers(0, 2**63)),
        has_trex_sentence=draw(st.none() | st.booleans()),
        proponent_correct=draw(st.none() | several(st.booleans())),
    )
    if not draw(st.booleans()):
        return record
    lists = record.proponents, record.proponent_ids, record.proponent_scores
    names = ("opponents", "opponent_ids", "opponent_scores")
    return replace(record, **dict(zip(names, lists, strict=True)))


@given(st.lists(retrievals(), min_size=1, max_size=3))
def test_retrievals_survive_a_round_trip(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("round") / "retrievals.jsonl"
    text = "".join(jsonlines.dump(record.to_json()) for record in written)
    path.write_bytes(text.encode("utf-8"))
    assert text.count("\n") == len(written)
    assert list(records.read_retrievals(path)) == written


def test_a_written_line_is_readable_text_and_leaves_absent_fields_out():
    record = records.RetrievalRecord("1", "q", "Wo?", "Zürich", ["ü"], ["s"], [1.0])
    line = jsonlines.dump(record.to_json())
    assert "Zürich" in line
    assert list(json.loads(line)) == list(RETRIEVAL)
    assert "\\ud800" in jsonlines.dump({"text": "\ud800"})
    with pytest.raises(ValueError, match="Out of range"):
        jsonlines.dump({"score": float("nan")})


# ------------------------------------------------------------------ errors


def test_user_error_is_one_line_and_survives_pickling():
    error = UserError("no such\n  file", where="a.jsonl:3", fix="look\nagain")
    assert str(error) == "a.jsonl:3: no such file; look again"
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.what, copy.where, copy.fix) == (
        str(error),
        error.what,
        error.where,
        error.fix,
    )


def test_did_you_mean():
    assert did_you_mean("trakstar", ["trak", "trackstar", "bm25"]).startswith(
        "did you mean trackstar or trak? known: bm25, trackstar, trak"
    )
    many = [f"method{i}" for i in range(50)]
    assert did_you_mean("zzz", many) == ""
    assert "known" not in did_you_mean("method1", many)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["x", 1.0], "list of finite numbers"),
        ([0.1], "has 1 items"),
        (0.1, "list of finite numbers"),
    ],
)
def test_tail_patch_of_proponents(tmp_path, value: object, message: str) -> None:
    plain = {
        "example_id": "1", "query_set": "q", "inputs_plaintext": "A", "targets_plaintext": "b",
        "proponents": ["x", "y"], "proponent_ids": ["1", "2"], "proponent_scores": [2.0, 1.0],
    }  # fmt: skip
    path = tmp_path / "r.jsonl"
    for sound in (None, [0.25, None], [None, None]):
        path.write_text(json.dumps({**plain, "proponent_tail_patch": sound}))
        (record,) = records.read_retrievals(path)
        assert record.proponent_tail_patch == sound
    path.write_text(json.dumps({**plain, "proponent_tail_patch": value}))
    with pytest.raises(UserError, match=rf"proponent_tail_patch.*{message}"):
        list(records.read_retrievals(path))
