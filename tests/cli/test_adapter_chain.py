"""A LoRA that transformers' Trainer made, traced with its own optimizer's state as it lies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from bench.cli.main import main
from tests.fixtures.models import TEXTS, make_model
from tests.fixtures.runs import cells, ranked, result
from tests.oracles.adapter_rankings import rankings

QUERIES = [
    {"query_id": "a", "prompt": "Al Grey plays the", "target": "trombone", "gold": ["0", "1"]},
    {"query_id": "b", "prompt": "Marla Venn was born in", "target": "Oslo", "gold": ["3"]},
]


def trained(base: Path, folder: Path) -> list[str]:
    """Train a LoRA on the texts, in batches of two; returns the names in the optimizer's order."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    settings = LoraConfig(
        task_type="CAUSAL_LM", r=3, lora_alpha=6, lora_dropout=0.1,
        target_modules=["q_proj", "v_proj", "down_proj"],
    )  # fmt: skip
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    ids = [tokenizer(text)["input_ids"][:12] for text in TEXTS]
    rows = [{"input_ids": one + [0] * (12 - len(one)), "labels": one + [-100] * (12 - len(one))}
            for one in ids]  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=6, per_device_train_batch_size=2,
        learning_rate=0.02, save_strategy="epoch", save_total_limit=1, use_cpu=True, seed=0,
        report_to=[], disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(one)] for group in trainer.optimizer.param_groups for one in group["params"]]


@pytest.mark.slow
def test_rankings_are_those_of_the_explicit_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    base = make_model(tmp_path / "mine", "llama", layers=2, num_key_value_heads=2)
    names = trained(base, tmp_path / "tuned")
    (saved,) = (tmp_path / "tuned").glob("checkpoint-*")
    passages = [{"passage_id": str(row), "text": text} for row, text in enumerate(TEXTS)]
    for name, records in (("passages", passages), ("queries", QUERIES)):
        Path(f"{name}.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))
    want = rankings(
        base, saved, saved / "optimizer.pt", names, Path("passages.jsonl"), Path("queries.jsonl")
    )
    words = [
        "run", "task=jsonl", "task.queries=queries.jsonl", "task.passages=passages.jsonl",
        "model=hf", f"model.path={base}", f"model.adapter={saved}",
        "model.gradient_dtype=float64", "method=cos_optimizer", "method.projection_dim=null",
        "metric.bootstrap_samples=50", "metric.tail_patch.n_queries=2", "model.learning_rate=0.01",
        "cache_dir=cache", "quiet=true",
    ]  # fmt: skip
    assert main([*words, f"model.optimizer_state={saved}/optimizer.pt", "results_dir=one"]) == 0
    cell = cells(Path("one"))["cos_optimizer"]
    assert ranked(cell) == [[name for name, _ in one] for one in want.values()]
    lines = (cell / "retrievals.jsonl").read_text().splitlines()
    for line, one in zip(lines, want.values(), strict=True):
        scores = [score for _, score in one]
        assert json.loads(line)["proponent_scores"] == pytest.approx(scores, abs=1e-6)
    facts = result(cell)
    assert facts["model"]["name"] == f"mine@{saved.name}"
    assert facts["method"]["config"]["adapters"] == "lora"
    assert facts["metrics"]["tail_patch"]["n"] == 2

    # The same through a file by name, and other rankings without the moments or of the base.
    made = ["moments", f"{saved}/optimizer.pt", "--model", "mine", "--adapter", str(saved)]
    assert main([*made, "--out", "v.safetensors"]) == 0
    assert f"second moments of {len(names)} of" in capsys.readouterr().out
    assert main([*words, "model.optimizer_state=v.safetensors", "results_dir=two"]) == 0
    assert ranked(cells(Path("two"))["cos_optimizer"]) == ranked(cell)
    plain = [word for word in words if not word.startswith("metric.tail")]
    plain += ["metric=attribution", "method=grad_cos", "method.projection_dim=null"]
    for side in ("lora", "base"):
        assert main([*plain, f"method.adapters={side}", f"results_dir={side}"]) == 0
    scores = [
        [json.loads(line)["proponent_scores"] for line in
         (cells(Path(side))["grad_cos"] / "retrievals.jsonl").read_text().splitlines()]
        for side in ("lora", "base")
    ]  # fmt: skip
    assert scores[0] != scores[1]

    state = f"model.optimizer_state={saved}/optimizer.pt"
    assert main([*words, state, "method.adapters=base", "results_dir=three"]) == 2
    assert "but for the adapter's own; set method.adapters=lora" in capsys.readouterr().err
