"""Bundles: no texts, the same bytes, and a tampered one refused with the file and the reason."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.core.errors import UserError
from bench.report.publishing.bundle import _LAYOUT, KIND, opened, write_bundle
from bench.results import text_free
from bench.results.rankings import first_passages
from bench.results.schema import PER_QUERY, RESULT, RETRIEVALS
from bench.results.text_free import PASSAGES, RANKINGS
from bench.storage import packed
from bench.storage.sealed import MANIFEST, seal
from tests.fixtures.cells import add_spans, edit_result, edit_retrievals, edit_table, write_cell

Change = Callable[[Path], object]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A results folder of two cells, one of them with tail-patch."""
    write_cell(tmp_path / "runs", "bm25", strength=0.6)
    write_cell(tmp_path / "runs", "trackstar", strength=0.3, tail_patch=0.01)
    return tmp_path / "runs"


@pytest.fixture
def bundle(runs: Path, tmp_path: Path) -> Path:
    """A bundle that is a folder."""
    assert write_bundle(runs, tmp_path / "bundle", "Ada Group", "https://example.org/ada") == []
    return tmp_path / "bundle"


def submitted(runs: Path, out: Path, *words: str) -> int:
    return main(["submit", str(runs), "--out", str(out), "--by", "Ada Group", *words])


def resealed(bundle: Path, **facts: object) -> None:
    """Write a manifest that fits what is there now, as whoever tampers can do as well."""
    own = json.loads((bundle / MANIFEST).read_text())["facts"]
    seal(bundle, KIND, KIND, _LAYOUT, {**own, **facts})


def cell_of(bundle: Path, method: str = "bm25") -> Path:
    (cell,) = bundle.glob(f"cells/*/*/{method}/*")
    return cell


def said(bundle: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``verify`` says of a bundle that does not hold."""
    assert main(["verify", str(bundle), "--quiet"]) == 1
    return capsys.readouterr().out


# ------------------------------------------------------------------ what is written


@pytest.mark.parametrize("name", ["bundle.zip", "bundle"])
def test_a_bundle_is_written_and_verified(
    runs: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submitted(runs, tmp_path / name, "--link", "https://example.org/x") == 0
    assert "2 cells" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / name)]) == 0
    assert "2 cells" in capsys.readouterr().out
    with opened(tmp_path / name) as bundle:
        assert (bundle.by, bundle.link) == ("Ada Group", "https://example.org/x")


def test_it_holds_no_text(bundle: Path) -> None:
    files = [path for path in bundle.rglob("*") if path.is_file()]
    whole = b"".join(path.read_bytes() for path in files)
    assert not any(path.name == RETRIEVALS for path in files)
    for text in (b"passage 1", b"Person 3 plays", b"trombone"):
        assert text not in whole


def test_it_holds_scores_ids_and_hashes(runs: Path, bundle: Path) -> None:
    (source,) = runs.glob("*/*/bm25/*")
    record = json.loads((source / RETRIEVALS).read_text().splitlines()[0])
    kept = json.loads((cell_of(bundle) / RANKINGS).read_text().splitlines()[0])
    assert kept["proponent_ids"] == record["proponent_ids"]
    assert kept["proponent_scores"] == record["proponent_scores"]
    lines = (cell_of(bundle) / PASSAGES).read_text().splitlines()
    passages = {one["passage_id"]: one for one in map(json.loads, lines)}
    text = record["proponents"][0]
    assert passages[record["proponent_ids"][0]] == {
        "passage_id": record["proponent_ids"][0],
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "characters": len(text),
    }
    assert first_passages(cell_of(bundle)) == first_passages(source)


def test_shares_of_tokens_are_within_the_passage_and_not_its_hash(tmp_path: Path) -> None:
    cell = write_cell(tmp_path / "runs", "trackstar", strength=0.3)

    def lengthen(records: list[dict]) -> None:
        for record in records:
            record["proponents"] = [f"{text} {'x' * 200}" for text in record["proponents"]]

    edit_retrievals(cell, lengthen)
    add_spans(cell)
    text_free.write_text_free(cell / RETRIEVALS, tmp_path)
    for record, lengths in text_free.read_text_free(tmp_path):
        assert record.proponent_spans is not None
        assert [spans[-1][1] for spans in record.proponent_spans[:10] if spans] == lengths[:10]
        assert min(lengths) > 200 > len(record.proponents[0])


def test_the_same_cells_give_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").rglob("*"):
        os.utime(path, (1, 1))
    assert submitted(runs, tmp_path / "a.zip") == submitted(
        tmp_path / "elsewhere", tmp_path / "b.zip"
    )
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize("name", ["bundle.zip", "bundle"])
def test_what_does_not_hold_is_not_written(
    runs: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (cell,) = runs.glob("*/*/bm25/*")
    edit_result(cell, lambda result: result["metrics"]["mrr"].update(value=0.99))
    before = sorted(tmp_path.iterdir())
    assert submitted(runs, tmp_path / name) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "mrr: stored 0.99" in lines[0]
    assert lines[-1].endswith("nothing is written")
    assert sorted(tmp_path.iterdir()) == before


def test_two_texts_of_one_id_leave_nothing(runs: Path, tmp_path: Path) -> None:
    (cell,) = runs.glob("*/*/bm25/*")

    def confuse(records: list[dict]) -> None:
        for place, record in enumerate(records[:2]):
            record["proponent_ids"][0], record["proponents"][0] = "same", f"text {place}"

    edit_retrievals(cell, confuse)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="'same' has another text elsewhere"):
        write_bundle(runs, tmp_path / "bundle.zip", "Ada")
    assert sorted(tmp_path.iterdir()) == before


def test_a_task_without_a_hash_is_refused(tmp_path: Path) -> None:
    cell = write_cell(tmp_path / "runs", "bm25")
    edit_result(cell, lambda result: result["task"].update(sha256=None))
    with pytest.raises(UserError, match="no hash"):
        write_bundle(tmp_path / "runs", tmp_path / "bundle.zip", "Ada")


@pytest.mark.parametrize(
    ("by", "link"),
    [
        ("", ""), ("a\nb", ""), ("\u202eAda", ""), ("x" * 101, ""), ("Ada", "javascript:alert(1)"),
        ("Ada", "example.org"), ("Ada", "https://"), ("Ada", "https://user:word@example.org"),
        ("Ada", "https://example.org/" + "x" * 300), ("Ada", "http://[bad"),
    ],
)  # fmt: skip
def test_names_and_links_that_no_page_can_show(
    runs: Path, bundle: Path, tmp_path: Path, by: str, link: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"--(by|link)"):
        write_bundle(runs, tmp_path / "new", by, link)
    resealed(bundle, by=by, link=link)
    assert MANIFEST in said(bundle, capsys)


def test_nothing_is_written_over(runs: Path, bundle: Path, tmp_path: Path) -> None:
    assert submitted(runs, bundle) == 2
    (tmp_path / "taken.zip").write_text("mine")
    assert submitted(runs, tmp_path / "taken.zip") == 2
    assert (tmp_path / "taken.zip").read_text() == "mine"


# ------------------------------------------------------------------ what is refused


TAMPERED: dict[str, tuple[Change, str]] = {
    "a changed byte": (lambda b: (cell_of(b) / RESULT).write_text("{}"), RESULT),
    "a missing file": (lambda b: (cell_of(b) / PER_QUERY).unlink(), f"{PER_QUERY} is missing"),
    "one file more": (
        lambda b: shutil.copytree(cell_of(b), cell_of(b).with_name("0" * 16)), "is not in",
    ),
    "a foreign file": (lambda b: (b / "run.sh").write_text("x"), "'run.sh' does not belong there"),
    "a changed manifest": (
        lambda b: (b / MANIFEST).write_text((b / MANIFEST).read_text().replace("Ada", "Eve")),
        f"{MANIFEST} says other things",
    ),
    "a manifest that leads out": (
        lambda b: (b / MANIFEST).write_text(
            (b / MANIFEST).read_text().replace('"cells/', '"cells/../../')
        ),
        f"{MANIFEST} lists files that no bundle has",
    ),
    "no JSON": (lambda b: (b / MANIFEST).write_text("{"), MANIFEST),
    "a list": (lambda b: (b / MANIFEST).write_text("[]"), f"{MANIFEST} is no manifest"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_bundle_names_the_file(
    bundle: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, reason = TAMPERED[name]
    change(bundle)
    assert reason in said(bundle, capsys)


def better(records: list[dict]) -> None:
    for record in records:
        record["proponent_correct"][0] = True


def edit_rankings(cell: Path, change: Callable[[list[dict]], object]) -> None:
    records = [json.loads(line) for line in (cell / RANKINGS).read_text().splitlines()]
    change(records)
    (cell / RANKINGS).write_text("".join(json.dumps(record) + "\n" for record in records))


RESEALED: dict[str, tuple[Change, str]] = {
    "a better mean": (
        lambda b: edit_result(cell_of(b), lambda r: r["metrics"]["mrr"].update(value=0.99)),
        "mrr: stored 0.99, recomputed",
    ),
    "better queries": (
        lambda b: edit_table(cell_of(b), lambda t: t.update(mrr=[1.0] * len(t["mrr"]))),
        "mrr of query q",
    ),
    "better labels": (lambda b: edit_rankings(cell_of(b), better), "hit@1 of query q"),
    "better changes": (
        lambda b: edit_rankings(
            cell_of(b, "trackstar"),
            lambda rs: rs[1].update(proponent_tail_patch=[0.5] * len(rs[1]["proponent_ids"])),
        ),
        "tail_patch of query q1",
    ),
    "another key": (
        lambda b: edit_result(cell_of(b), lambda r: r["method"].update(key="0")), "method.key",
    ),
    "a passage nobody knows": (
        lambda b: edit_rankings(cell_of(b), lambda rs: rs[0]["proponent_ids"].__setitem__(0, "x")),
        "names 'x', which passages.jsonl lacks",
    ),
    "a text": (
        lambda b: edit_rankings(cell_of(b), lambda rs: rs[0].update(proponents=["x"])),
        "holds texts",
    ),
    "no hash": (
        lambda b: edit_rankings(cell_of(b), lambda rs: rs[0].update(inputs_sha256="x")),
        "inputs_sha256",
    ),
    "a table of no rows": (lambda b: (cell_of(b) / PER_QUERY).write_bytes(b"PAR1"), PER_QUERY),
}  # fmt: skip


@pytest.mark.parametrize("name", RESEALED)
def test_numbers_are_recomputed_whoever_sealed_them(
    bundle: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, reason = RESEALED[name]
    change(bundle)
    resealed(bundle)
    lines = said(bundle, capsys)
    assert reason in lines
    assert "Traceback" not in lines


def test_more_passages_than_a_reader_holds(
    runs: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(text_free, "_MOST_PASSAGES", 10)
    assert "more than 10 passages" in said(bundle, capsys)
    with pytest.raises(UserError, match="more than 10 passages"):
        write_bundle(runs, bundle.with_name("new"), "Ada")


def test_links_lead_nowhere(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_bytes((cell_of(bundle) / RESULT).read_bytes())
    (cell_of(bundle) / RESULT).unlink()
    (cell_of(bundle) / RESULT).symlink_to(tmp_path / "secret")
    assert "is a link, or no file" in said(bundle, capsys)
    shutil.rmtree(bundle / "cells")
    (bundle / "cells").symlink_to(tmp_path)
    assert "is a link, or no file" in said(bundle, capsys)
    (bundle / "cells").unlink()
    (bundle / MANIFEST).unlink()
    os.mkfifo(bundle / MANIFEST)
    assert "is a link, or no file" in said(bundle, capsys)


# ------------------------------------------------------------------ zip files


def zipped(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as stream:
        for name, content in entries:
            stream.writestr(name, content)
    return path


def linked(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o120777 << 16
    return entry


CELL = "cells/t/m/bm25/0123456789abcdef"


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "cells/../../x", f"{CELL}/../{RESULT}", f"{CELL}\\..\\{RESULT}",
     f"cells/./m/bm25/x/{RESULT}", f"cells/t/m/bm25/C:/{RESULT}", f"{CELL}/run.py", RESULT],
)  # fmt: skip
def test_names_that_climb_out(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = zipped(tmp_path / "x.zip", (name, b"x"))
    assert "does not belong there" in said(path, capsys)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.zip"]


def test_links_in_zips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = zipped(tmp_path / "x.zip", (linked(f"{CELL}/{RESULT}"), b"/etc/passwd"))
    assert "is a link" in said(path, capsys)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = zipped(tmp_path / "x.zip", (MANIFEST, b"{}"), (MANIFEST, b"[]"))
    assert "is there twice" in said(path, capsys)


def test_what_unpacks_to_too_much(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted(runs, tmp_path / "a.zip")
    capsys.readouterr()
    monkeypatch.setattr(packed, "MOST_BYTES", 10_000)
    assert "unpacks to more than 10,000 bytes" in said(tmp_path / "a.zip", capsys)
    # The sizes that the list of files gives may be a lie.
    monkeypatch.setattr(packed, "_check", lambda *_: None)
    assert "unpacks to more than 10,000 bytes" in said(tmp_path / "a.zip", capsys)
    monkeypatch.undo()
    monkeypatch.setattr(packed, "MOST_FILES", 3)
    assert "11 files, and 3 are the most" in said(tmp_path / "a.zip", capsys)
    monkeypatch.setattr(packed, "_MOST_ENTRY", 8)
    assert "its list of files is too long" in said(tmp_path / "a.zip", capsys)


def test_broken_zips_are_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted(runs, tmp_path / "a.zip")
    whole = (tmp_path / "a.zip").read_bytes()
    capsys.readouterr()
    broken = {
        "cut": whole[: len(whole) // 2], "empty": b"", "text": b"x" * 1000, "tail": whole[-500:],
        "commented": whole + b"x",
        "flipped": bytes([*whole[:2000], whole[2000] ^ 1, *whole[2001:]]),
    }  # fmt: skip
    for name, content in broken.items():
        (tmp_path / f"{name}.zip").write_bytes(content)
        lines = said(tmp_path / f"{name}.zip", capsys).splitlines()
        assert len(lines) == 1, name
    assert main(["verify", str(tmp_path / "none.zip")]) == 2


def test_a_bundle_that_was_packed_again_holds(bundle: Path, tmp_path: Path) -> None:
    """Another program writes entries of folders, too, in another order and with other times."""
    shutil.make_archive(str(tmp_path / "again"), "zip", bundle)
    assert main(["verify", str(tmp_path / "again.zip")]) == 0
