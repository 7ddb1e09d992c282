"""Rankings over an adapter's own gradients by autograd, from peft, transformers and torch alone."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer


def rankings(
    base: Path, adapter: Path, optimizer: Path, names: list[str], texts: Path, queries: Path
) -> dict[str, list[tuple[str, float]]]:
    """Cosines of g / (√(v / (1 − β2ᵗ)) + ε) between each query and every passage, highest first.

    Args:
        optimizer: an Adam's ``state_dict`` with numbers for ids.
        names: the names of its parameters, in its order, as the model had them that was trained.
        texts, queries: JSON lines of passages and of queries with prompt and target.
    """
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).double()
    tokenizer = AutoTokenizer.from_pretrained(base)
    own = {name: one for name, one in model.named_parameters() if ".lora_" in name}
    model.requires_grad_(False)
    for parameter in own.values():
        parameter.requires_grad_(True)
    state = torch.load(optimizer, weights_only=True)
    (group,) = [one for one in state["param_groups"] if one["params"]]
    roots = {}
    for number, name in zip(group["params"], names, strict=True):
        kept = state["state"][number]
        v = kept["exp_avg_sq"].double() / (1 - group["betas"][1] ** float(kept["step"]))
        roots[name] = v.sqrt() + 1e-8
    assert set(roots) == set(own)

    def direction(text: str, begins: int) -> Tensor:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        scores = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        loss = -sum(scores[at, ids[0, at + 1]] for at in range(begins - 1, ids.shape[1] - 1))
        gradients = torch.autograd.grad(loss, list(own.values()))
        parts = [(g / roots[name]).flatten() for name, g in zip(own, gradients, strict=True)]
        whole = torch.cat(parts)
        return whole / whole.norm()

    passages = [json.loads(line) for line in texts.read_text().splitlines()]
    rows = torch.stack([direction(passage["text"], 1) for passage in passages])
    ranked = {}
    for line in queries.read_text().splitlines():
        query = json.loads(line)
        begins = tokenizer(query["prompt"], return_tensors="pt")["input_ids"].shape[1]
        cosines = rows @ direction(f"{query['prompt']} {query['target']}", begins)
        order = cosines.argsort(descending=True).tolist()
        ranked[query["query_id"]] = [
            (passages[row]["passage_id"], cosines[row].item()) for row in order
        ]
    return ranked
