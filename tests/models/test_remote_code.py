"""No code of a model's folder is run, also where somebody answers "y" to every question."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from bench.cli.main import main
from bench.core.errors import UserError
from bench.models.loading import load_tokenizer
from bench.models.predictions import predictions
from bench.models.sizes import check_files
from bench.tasks.base import Query
from methods.encoders import _load_encoder
from metrics.judges.nli import Nli, NliConfig
from tests.fixtures.models import directory_source, load, make_model

EVIL = "from pathlib import Path\nPath({marker!r}).touch()\n"
AUTO_MAP = {
    "AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoModel": "evil.Model",
    "AutoModelForSequenceClassification": "evil.Model", "AutoTokenizer": ["evil.T", "evil.T"],
}  # fmt: skip

KERNEL = "someone/kernel"  # a repository of the hub, whose code transformers fetches and runs


def merge(path: Path, **changes: object) -> None:
    record = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**record, **changes}))


def of_an_own_family(folder: Path) -> None:
    merge(folder / "config.json", model_type="evil", auto_map=AUTO_MAP)


def of_a_known_family(folder: Path) -> None:
    merge(folder / "config.json", auto_map=AUTO_MAP)


def tokenizer(folder: Path) -> None:
    merge(folder / "tokenizer_config.json", auto_map=AUTO_MAP, tokenizer_class="Evil")


def old_tokenizer(folder: Path) -> None:
    merge(folder / "tokenizer_config.json", auto_map=AUTO_MAP["AutoTokenizer"])


def generation(folder: Path) -> None:
    merge(
        folder / "generation_config.json", auto_map=AUTO_MAP, custom_generate=str(folder),
        trust_remote_code=True,
    )  # fmt: skip
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "evil.py", folder / "custom_generate" / "generate.py")


def adapter(folder: Path) -> None:
    merge(
        folder / "adapter_config.json", base_model_name_or_path=str(folder), peft_type="LORA",
        auto_mapping={"base_model_class": "Model", "parent_library": "evil"},
    )  # fmt: skip
    merge(folder / "config.json", auto_map=AUTO_MAP)


def sentence_encoder(folder: Path) -> None:
    merge(folder / "config.json", auto_map=AUTO_MAP)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]
    (folder / "modules.json").write_text(json.dumps(modules))


def sentence_arguments(folder: Path) -> None:
    arguments = {"trust_remote_code": True, "attn_implementation": KERNEL}
    for name in ("model_args", "model_kwargs", "config_kwargs", "processing_kwargs"):
        merge(folder / "sentence_bert_config.json", **{name: arguments})
    merge(folder / "config.json", auto_map=AUTO_MAP)


VARIANTS = (
    of_an_own_family, of_a_known_family, tokenizer, old_tokenizer, generation, adapter,
    sentence_encoder, sentence_arguments,
)  # fmt: skip


def tried(opens: Callable[[], Any]) -> Any:
    """What is opened; None if that fails, which it must as a user's mistake."""
    try:
        return opens()
    except UserError:
        return None


def open_in_every_way(folder: Path) -> None:
    source = directory_source(folder)
    tried(source.architecture)
    source.tokenizer(None, folder)
    model = tried(lambda: source.load(None, folder, "cpu"))
    if model is not None:
        list(predictions(model, [Query("q", "Al Grey plays the", "trombone")], 3))
    for kind in ("SentenceTransformer", "SparseEncoder"):
        tried(partial(_load_encoder, folder, "cpu", None, kind))
    judge = tried(lambda: Nli(NliConfig(model=str(folder)), "cpu"))
    for part in ("_model_config", "_tokenizer", "_module"):
        tried(partial(getattr, judge, part))


@pytest.fixture(autouse=True)
def _yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who answers "y" to every question."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 1000))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "exploded"


def folder_with(tmp_path: Path, marker: Path, change: Callable[[Path], None]) -> Path:
    folder = make_model(tmp_path / change.__name__, "llama", layers=1)
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker)))
    change(folder)
    return folder


def encoder_of(folder: Path) -> object:
    return _load_encoder(folder, "cpu", None, "SentenceTransformer")


def test_nothing_of_a_folder_is_run(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for change in VARIANTS:
        open_in_every_way(folder_with(tmp_path, marker, change))
    captured = capsys.readouterr()
    assert "[y/N]" not in captured.out + captured.err, "nobody is asked"
    assert not marker.exists()


def test_a_run_of_the_command(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_with(tmp_path, marker, of_an_own_family)
    query = {"query_id": "q", "prompt": "Al Grey plays the", "target": "trombone", "gold": ["p"]}
    (tmp_path / "queries.jsonl").write_text(json.dumps(query))
    passage = {"passage_id": "p", "text": "Al Grey plays the trombone."}
    (tmp_path / "passages.jsonl").write_text(json.dumps(passage))
    status = main([
        "run", "task=jsonl", f"task.queries={tmp_path}/queries.jsonl",
        f"task.passages={tmp_path}/passages.jsonl", "model=hf", f"model.path={folder}",
        "method=grad_cos", "metric=attribution", f"results_dir={tmp_path}/runs",
        f"cache_dir={tmp_path}/cache",
    ])  # fmt: skip
    said = capsys.readouterr().err
    assert status == 2, said
    assert "cannot be loaded as a causal language model" in said
    assert "Traceback" not in said
    assert not marker.exists()


def test_the_folder_would_run_if_it_were_trusted(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the tests above would pass without looking."""
    folder = folder_with(tmp_path, marker, of_an_own_family)
    with pytest.raises(AttributeError, match="Config"):  # which the code does not have
        AutoConfig.from_pretrained(folder)
    assert "[y/N]" in capsys.readouterr().out, "somebody is asked"
    assert marker.exists()


@pytest.mark.parametrize("fields", [
    {"attn_implementation": KERNEL}, {"_attn_implementation": KERNEL},
    {"_attn_implementation_internal": KERNEL}, {"attn_implementation": {"": KERNEL}},
    {"text_config": {"attn_implementation": f"paged|{KERNEL}@v1:f"}},
    {"attn_implementation": "flash_attention_2"}, {"attn_implementation": ["eager", KERNEL]},
    {"experts_implementation": "sonicmoe"},
], ids=str)  # fmt: skip
def test_a_kernel_that_a_configuration_names_is_refused(tmp_path: Path, fields: dict) -> None:
    """Fault: the kernel was looked for, and fetched where the package kernels was installed."""
    folder = make_model(tmp_path / "model", "llama", layers=1)
    merge(folder / "config.json", **fields)
    for opens in (load_tokenizer, load, check_files, encoder_of):
        with pytest.raises(UserError, match=r"config\.json: _?\w+_implementation\w* is .*fetch"):
            opens(folder)


def test_a_kernel_that_an_encoders_file_names_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", "llama", layers=1)
    sentence_arguments(folder)
    with pytest.raises(UserError, match=r"sentence_bert_config\.json: attn_implementation is"):
        encoder_of(folder)


def test_the_implementations_of_transformers_are_its_own(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", "llama", layers=1)
    for name in ("eager", "sdpa", None):
        merge(folder / "config.json", attn_implementation=name)
        assert load(folder).module.config._attn_implementation == name or name is None
