"""A published run as a data set for the Hub."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.cli.main import main
from bench.core.errors import UserError
from bench.report.export.card import SCHEMA, export_card
from bench.results.schema import RETRIEVALS, read_cells
from bench.storage.hashes import file_sha256
from bench.tasks.records import RetrievalRecord
from tests.fixtures.cells import edit_result, edit_retrievals, write_cell
from tests.fixtures.reports import HOSTILE


def card_of(results: Path) -> tuple[dict, str]:
    """Front matter and body of the card."""
    out = results / "card"
    export_card(results, out, "cc-by-4.0")
    _, head, body = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), body


def test_front_matter_names_every_file(tmp_path: Path) -> None:
    for method in ("bm25", "dense"):
        write_cell(tmp_path, method)
    front, _ = card_of(tmp_path)
    assert front["license"] == "cc-by-4.0"
    assert front["size_categories"] == ["n<1K"]
    configs = {config["config_name"]: config["data_files"] for config in front["configs"]}
    files = {str(p.relative_to(tmp_path / "card")) for p in (tmp_path / "card").rglob("*.*")}
    assert set(configs.values()) == files - {"README.md"}
    assert [c["config_name"] for c in front["configs"] if c.get("default")] == ["leaderboard"]
    assert len(configs) == len(front["configs"]) == 3


def test_the_hub_reads_the_card(tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    write_cell(tmp_path, "bm25")
    card_of(tmp_path)
    card = DatasetCard.load(tmp_path / "card" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.task_categories == ["text-retrieval"]
    assert "## Leaderboard" in card.text


def test_parquet_holds_the_rankings_as_they_are_stored(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25", n_queries=5)
    card_of(tmp_path)
    (path,) = (tmp_path / "card" / "data").iterdir()
    frame = pd.read_parquet(path)
    (cell,) = read_cells(tmp_path)
    lines = (cell.folder / RETRIEVALS).read_text().splitlines()
    for row, line in zip(frame.to_dict("records"), lines, strict=True):
        for key, value in json.loads(line).items():
            found = row[key]
            assert (found.tolist() if isinstance(value, list) else found) == value, key
    leaderboard = pd.read_csv(tmp_path / "card" / "leaderboard.csv")
    assert leaderboard["mrr"].tolist() == [cell.result.metrics["mrr"].value]


def test_columns_are_those_of_the_release() -> None:
    assert sorted(SCHEMA.names) == sorted(field.name for field in fields(RetrievalRecord))


def test_lone_surrogates_do_not_stop_it(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "bm25", n_queries=1)
    path = folder / RETRIEVALS
    path.write_text(path.read_text().replace("passage ", "\\ud800 "))
    edit_result(folder, lambda record: record.update(rankings_sha256=file_sha256(path)))
    card_of(tmp_path)
    frame = pd.read_parquet(next((tmp_path / "card" / "data").iterdir()))
    assert frame["proponents"][0][0].startswith("\N{REPLACEMENT CHARACTER} ")


def test_names_stay_text_in_markdown_and_yaml(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25", names={"task": f"{HOSTILE}\n---\nlicense: mit", "method": HOSTILE})
    front, body = card_of(tmp_path)
    assert front["license"] == "cc-by-4.0"
    assert "<script" not in body
    assert "<script" not in (tmp_path / "card" / "leaderboard.csv").name


def test_provenance_says_what_a_row_was_made_of(tmp_path: Path) -> None:
    write_cell(tmp_path, "bm25")
    _, body = card_of(tmp_path)
    (cell,) = read_cells(tmp_path)
    table = body[body.index("## Provenance") :]
    for part in (cell.result.task["sha256"], cell.result.model["sha256"]):
        assert part[:16] in table
    assert cell.result.rankings_sha256[:16] in table
    assert "tdabench run" in table


@pytest.mark.parametrize("license_id", ["CC BY", "", "a/b", "-x", "mit\n"])
def test_a_licence_is_an_identifier(tmp_path: Path, license_id: str) -> None:
    write_cell(tmp_path, "bm25")
    with pytest.raises(UserError, match=r"--license: .* is no identifier of the Hub"):
        export_card(tmp_path, tmp_path / "card", license_id)


def test_the_licence_is_the_users_to_choose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cell(tmp_path / "runs", "bm25")
    words = ["export", "card", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "--license" in capsys.readouterr().err
    assert main([*words, "--license", "mit"]) == 0
    assert main([*words, "--license", "mit"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_what_its_rankings_contradict_is_not_published(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "bm25")
    edit_retrievals(folder, lambda records: records[0].update(proponent_correct=[True] * 20))
    with pytest.raises(UserError, match="tdabench verify"):
        export_card(tmp_path, tmp_path / "card", "mit")
    assert not (tmp_path / "card").exists()
