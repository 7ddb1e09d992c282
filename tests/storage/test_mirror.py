"""Copies in a store: what is finished there is not made again, and damage is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from bench.cli.main import main
from bench.core.errors import UserError
from bench.storage.mirror import INVENTORY, Mirror
from bench.storage.sharing import bring_sound
from bench.storage.whole_folders import whole_folder
from methods.gradient import shards
from tests.fixtures.runs import SMALL, cells, error_line

URL = "memory://store/tda"


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    system.mkdir("/store")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def mirror(store, tmp_path: Path) -> Mirror:
    return Mirror(tmp_path / "here", URL)


def write(folder: Path) -> None:
    with whole_folder(folder) as partial:
        (partial / "a").write_bytes(b"\x00a")
        (partial / "deep").mkdir()
        (partial / "deep" / "b").write_bytes(b"")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_folder_comes_back_as_it_was_kept(mirror, tmp_path: Path) -> None:
    folder = mirror.local / "x" / "y"
    write(folder)
    before = contents(folder)
    mirror.keep_folder(folder)
    assert INVENTORY in mirror.names(folder)
    shutil.rmtree(mirror.local)
    mirror.bring_folder(folder)
    assert contents(folder) == before
    elsewhere = Mirror(tmp_path / "there", URL)
    assert elsewhere.finished() == [tmp_path / "there" / "x" / "y"]
    elsewhere.bring_folder(tmp_path / "there" / "x" / "y")
    assert contents(tmp_path / "there" / "x" / "y") == before


def test_a_copy_without_inventory_is_not_finished(mirror, store) -> None:
    folder = mirror.local / "x"
    write(folder)
    mirror.keep_folder(folder)
    store.rm(f"/store/tda/x/{INVENTORY}")
    shutil.rmtree(folder)
    mirror.bring_folder(folder)
    assert not folder.exists()
    assert mirror.finished() == []
    with mirror.shared(folder):
        write(folder)
    assert INVENTORY in mirror.names(folder)


def test_without_an_address_nothing_happens(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    write(tmp_path / "x")
    mirror.check()
    mirror.keep_folder(tmp_path / "x")
    mirror.keep(tmp_path / "x" / "a")
    mirror.bring_folder(tmp_path / "none")
    assert mirror.names(tmp_path / "x") == frozenset()
    assert mirror.finished() == []
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b'{"copy": "c", "sha256": 3}', b'{"copy": "..", "sha256": {}}',
        b'{"copy": "c", "sha256": {"../out": "0"}}', b'{"copy": "c", "sha256": {"/out": "0"}}',
        b'{"copy": "c", "sha256": {"a": 1}}', b'{"copy": 1, "sha256": {}}', b"[" * 100_000, b"\xff",
    ],
)  # fmt: skip
def test_a_damaged_inventory_is_refused(mirror, store, content: bytes) -> None:
    store.pipe(f"/store/tda/x/{INVENTORY}", content)
    with pytest.raises(UserError, match=r"x/INVENTORY\.json: is damaged in the store"):
        mirror.bring_folder(mirror.local / "x")
    assert not list(mirror.local.glob("*"))


def test_a_damaged_file_is_refused_and_leaves_nothing(mirror, store) -> None:
    folder = mirror.local / "x"
    write(folder)
    mirror.keep_folder(folder)
    shutil.rmtree(folder)
    (kept,) = [name for name in store.find("/store/tda/x") if name.endswith("/a")]
    store.pipe(kept, b"\x00b")
    with pytest.raises(UserError, match=r"/a: is damaged in the store; delete INVENTORY\.json"):
        mirror.bring_folder(folder)
    assert not list(mirror.local.glob("*"))


def run(here: Path, method: str, *words: str, url: str = URL) -> int:
    places = (f"results_dir={here / 'runs'}", f"cache_dir={here / 'cache'}", f"remote_dir='{url}'")
    return main(["run", *SMALL, f"method={method}", *words, *places])


def files(here: Path, method: str) -> dict[str, bytes]:
    return contents(cells(here / "runs")[method])


@pytest.fixture
def encoded(monkeypatch) -> list[Path]:
    """The shards that are encoded, as it happens."""
    seen: list[Path] = []
    write = shards.ShardWriter.write

    def noted(self, path: Path, rows: range) -> None:
        seen.append(path)
        write(self, path, rows)

    monkeypatch.setattr(shards.ShardWriter, "write", noted)
    return seen


def test_another_machine_makes_nothing_again(store, tmp_path: Path, encoded, capsys) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(one, "trackstar") == 0
    assert len(encoded) == 1
    assert run(two, "trackstar") == 0
    assert "already there" in capsys.readouterr().err
    assert files(two, "trackstar") == files(one, "trackstar")
    # Another method of the same features there: the model and the shards are brought.
    assert run(two, "cos_optimizer") == 0
    assert "train epoch" not in capsys.readouterr().err
    assert len(encoded) == 1
    assert run(one, "cos_optimizer", url=f"{URL}/empty") == 0
    ranked = [files(here, "cos_optimizer")["retrievals.jsonl"] for here in (one, two)]
    assert ranked[0] == ranked[1]
    gathered = tmp_path / "gathered"
    assert main(["fetch", "results", URL, "--out", str(gathered)]) == 0
    assert "2 of 2 cells; compare them: tdabench report" in capsys.readouterr().out
    assert sorted(cells(gathered)) == ["cos_optimizer", "trackstar"]
    # A run without a store before: its work is kept when it is found finished.
    store.rm("/store/tda", recursive=True)
    assert run(two, "cos_optimizer") == 0
    assert len(Mirror(two / "runs", f"{URL}/results").finished()) == 1


def test_imports_and_predictions_share_as_runs_do(store, tmp_path: Path, capsys) -> None:
    """Fault: imported cells never reached the store, nor did the model that they were trained."""
    task = [word for word in SMALL if not word.startswith("metric.")]
    assert main(["run", *SMALL, "method=bm25", "metric=attribution", f"results_dir={tmp_path}/r",
                 f"cache_dir={tmp_path}/c"]) == 0  # fmt: skip
    ranked = cells(tmp_path / "r")["bm25"] / "retrievals.jsonl"
    words = (*SMALL, "task=factworld", "model=tiny", "metric=default", "name=mine")
    for name in ("one", "two"):
        here = tmp_path / name
        places = (f"results_dir={here}/runs", f"cache_dir={here}/cache", f"remote_dir='{URL}'")
        assert main(["import", str(ranked), *words, *places]) == 0
    assert "already there" in capsys.readouterr().err
    assert files(tmp_path / "two", "mine") == files(tmp_path / "one", "mine")
    here = tmp_path / "three"
    places = (f"cache_dir={here}/cache", f"remote_dir='{URL}'")
    assert main(["predict", str(here / "out.jsonl"), *task, *places]) == 0
    assert "train epoch" not in capsys.readouterr().err, "the model is brought"


@pytest.mark.parametrize("method", ["bm25", "repsim", "ekfac"])
def test_indexes_of_one_folder_are_brought(store, tmp_path: Path, method: str, capsys) -> None:
    words = ["metric=attribution"]
    assert run(tmp_path / "one", method, *words) == 0
    store.rm("/store/tda/results", recursive=True)
    capsys.readouterr()
    assert run(tmp_path / "two", method, *words) == 0
    said = capsys.readouterr().err
    assert not [line for line in said.splitlines() if "epoch" in line or "index words" in line]
    found = [
        {name: data for name, data in all_files.items() if "seconds" not in name}
        for all_files in (contents(tmp_path / n / "cache" / "index") for n in ("one", "two"))
    ]
    assert found[0] == found[1] != {}
    ranked = [files(tmp_path / n, method)["retrievals.jsonl"] for n in ("one", "two")]
    assert ranked[0] == ranked[1]


def test_a_shard_damaged_in_the_store_is_refused(store, tmp_path: Path, capsys) -> None:
    assert run(tmp_path / "one", "cos_optimizer", "metric=attribution") == 0
    store.rm("/store/tda/results", recursive=True)
    (shard,) = [name for name in store.find("/store/tda/cache") if name.endswith(".npy")]
    data = bytearray(store.cat(shard))
    data[-1] ^= 1
    store.pipe(shard, bytes(data))
    assert run(tmp_path / "two", "cos_optimizer", "metric=attribution") == 2
    assert "foreign or damaged index shard in the store" in error_line(capsys)
    assert not list((tmp_path / "two").rglob("shard-*"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("somewhere", ["remote_dir=somewhere: is no address of a store", "s3://bucket"]),
        ("s3://key:secret@host/x", ["remote_dir: an address must carry neither credentials"]),
        ("file:///nowhere/x", ["there is no /nowhere; make it, or correct remote_dir"]),
        ("s3://", ["remote_dir=s3://: names no bucket or folder"]),
        ("nosuch://x", ["nosuch://x/results: cannot be reached"]),
    ],
)
def test_a_wrong_address_is_one_line_before_any_work(
    tmp_path: Path, capsys, url: str, words: list[str]
) -> None:
    assert run(tmp_path, "bm25", url=url) == 2
    line = error_line(capsys)
    assert all(word in line for word in words)
    assert "secret" not in line
    assert not (tmp_path / "cache").exists()


def test_fetch_results_wants_one_address(capsys) -> None:
    assert main(["fetch", "results"]) == 2
    assert "takes the remote_dir of the runs and nothing else" in error_line(capsys)


def test_an_inventory_lists_what_is_there(mirror, store) -> None:
    write(mirror.local / "x")
    mirror.keep_folder(mirror.local / "x")
    listed = json.loads(store.cat(f"/store/tda/x/{INVENTORY}"))["sha256"]
    assert sorted(listed) == ["a", "deep/b"]


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    """The address of a bucket of an object store on this machine."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield "s3://bucket"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def test_an_object_store(bucket: str, tmp_path: Path, encoded, capsys, monkeypatch) -> None:
    url = f"{bucket}/tda"
    assert run(tmp_path / "one", "trackstar", url=url) == 0
    assert "train epoch" in capsys.readouterr().err
    assert run(tmp_path / "two", "cos_optimizer", url=url) == 0
    assert "train epoch" not in capsys.readouterr().err
    assert len(encoded) == 1
    assert run(tmp_path / "two", "trackstar", url=url) == 0
    assert "already there" in capsys.readouterr().err
    assert files(tmp_path / "two", "trackstar") == files(tmp_path / "one", "trackstar")
    assert run(tmp_path, "bm25", "metric=attribution", url="s3://nobucket/x") == 2
    assert "s3://nobucket/x/results: there is no nobucket; make it, or" in error_line(capsys)
    fsspec.filesystem("s3").clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # which else takes seconds to give up
    assert run(tmp_path, "bm25", "metric=attribution", url=url) == 2
    assert "s3://bucket/tda/results: cannot be reached" in error_line(capsys)


def test_single_files_of_an_object_store(bucket: str, tmp_path: Path) -> None:
    one, two = (Mirror(tmp_path / name, f"{bucket}/tda") for name in ("one", "two"))
    paths = [one.local / "parts" / name for name in ("a", "b", "c")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
        one.keep(path)
    there = two.local / "parts" / "a"
    assert two.holds(there)
    one.drop(one.local / "parts", ["a", "b", "none"])
    assert not two.holds(there)
    assert two.names(there.parent) == {"c"}
    assert not bring_sound(two, there, Path.read_text), "another machine has removed it"
    one.drop(one.local / "parts")
    assert two.names(there.parent) == frozenset()


def test_workers_keep_their_shards_themselves(tmp_path: Path, capsys) -> None:
    url = f"file://{tmp_path}/store"
    words = ["engine=processes", "engine.workers=2", "metric=attribution"]
    assert run(tmp_path / "one", "grad_cos", *words, url=url) == 0
    shutil.rmtree(tmp_path / "store" / "results")
    capsys.readouterr()
    assert run(tmp_path / "two", "grad_cos", *words, url=url) == 0
    assert "encode passages" not in capsys.readouterr().err
    kept = sorted(path.name.split(".")[0] for path in (tmp_path / "store").rglob("shard-*.npy"))
    assert kept == sorted(path.stem for path in (tmp_path / "two").rglob("shard-*.npy")) != []


def test_two_machines_that_keep_a_folder_at_once(store, tmp_path: Path, monkeypatch) -> None:
    """Their contents differ, as times in results do; one of them dies in between."""
    one, two = (Mirror(tmp_path / name, URL) for name in ("one", "two"))
    for mirror, content in ((one, b"1"), (two, b"2")):
        (mirror.local / "x").mkdir(parents=True)
        for name in ("a", "b"):
            (mirror.local / "x" / name).write_bytes(content)
    monkeypatch.setattr(Mirror, "names", lambda *_: frozenset())  # each looks before both write
    one.keep_folder(one.local / "x")
    put = type(store).put_file

    def die(self, source: str, place: str, **options) -> None:
        put(self, source, place, **options)
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(type(store), "put_file", die)
        with pytest.raises(UserError, match="killed"):
            two.keep_folder(two.local / "x")
    monkeypatch.undo()
    for third in (Mirror(tmp_path / "third", URL), Mirror(tmp_path / "fourth", URL)):
        third.bring_folder(third.local / "x")
        expected = b"1" if third.local.name == "third" else b"2"
        assert set(contents(third.local / "x").values()) == {expected}
        store.rm(f"/store/tda/x/{INVENTORY}")
        two.keep_folder(two.local / "x")


def test_a_shard_of_other_bits_is_not_written_over(store, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, URL)
    shard = tmp_path / "index" / "shard.npy"
    shard.parent.mkdir()
    for content in (b"1", b"22"):
        shard.write_bytes(content)
        mirror.keep(shard, f"shard.{content.hex()}.npy")
    assert mirror.names(shard.parent) == {"shard.31.npy", "shard.3232.npy"}


def test_what_a_dead_worker_did_not_keep_is_kept(store, tmp_path: Path, monkeypatch) -> None:
    keep, seen = shards.ShardWriter._keep, []

    def die_once(self, path: Path) -> None:
        seen.append(path)
        if len(seen) > 1:
            keep(self, path)

    monkeypatch.setattr(shards.ShardWriter, "_keep", die_once)
    assert run(tmp_path, "cos_optimizer", "metric=attribution") == 0
    assert len(seen) == 2
    assert any("/shard-" in name for name in store.find("/store/tda/cache"))


def test_a_listed_file_that_is_gone(mirror, store) -> None:
    write(mirror.local / "x")
    mirror.keep_folder(mirror.local / "x")
    shutil.rmtree(mirror.local)
    (gone,) = [name for name in store.find("/store/tda/x") if name.endswith("/a")]
    store.rm(gone)
    with pytest.raises(UserError, match=f"is damaged in the store; delete {INVENTORY} of its"):
        mirror.bring_folder(mirror.local / "x")


@pytest.mark.parametrize("name", ["\ud800", "x" * 300, "a\x00"])
def test_a_name_that_no_file_can_have(mirror, store, name: str) -> None:
    record = {"copy": "c", "sha256": {name: "0"}}
    store.pipe(f"/store/tda/x/{INVENTORY}", json.dumps(record).encode())
    with pytest.raises(UserError, match="is damaged in the store"):
        mirror.bring_folder(mirror.local / "x")


def test_one_damaged_cell_does_not_keep_the_others(store, tmp_path: Path, capsys) -> None:
    runs = Mirror(tmp_path / "runs", f"{URL}/results")
    for name in ("a", "b"):
        write(runs.local / "t" / "m" / name / "k")
        runs.keep_folder(runs.local / "t" / "m" / name / "k")
    store.pipe(f"/store/tda/results/t/m/a/k/{INVENTORY}", b"{}")
    assert main(["fetch", "results", URL, "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "1 of 2 cells" in captured.out
    assert captured.err.count("error: ") == 1
    assert (tmp_path / "out" / "t" / "m" / "b" / "k" / "a").exists()
    assert main(["fetch", "results", f"{URL}/mistyped"]) == 2
    assert "no finished cell is there" in error_line(capsys)
