"""What the encoding benchmark runs over: a model, token ids, batches. No part of tdabench needed.

Shared by the benchmark and its peers, which run in environments of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedModel


@dataclass(frozen=True, eq=False)  # hashed by identity: it is large
class Workload:
    """One size of the benchmark."""

    hidden: int
    layers: int
    vocabulary: int
    projection_dim: int
    batch_tokens: int
    threads: int
    ids: list[list[int]]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Workload:
        return Workload(**json.loads(path.read_text(encoding="utf-8")))

    def model(self) -> PreTrainedModel:
        """The same random weights in every process."""
        torch.manual_seed(0)
        config = GPTNeoXConfig(
            hidden_size=self.hidden,
            intermediate_size=4 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=max(1, self.hidden // 64),
            vocab_size=self.vocabulary,
            max_position_embeddings=max(map(len, self.ids)),
        )
        return (
            AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            .eval()
            .requires_grad_(False)
        )

    def batches(self) -> list[list[int]]:
        """Rows of each batch: by length, the longest first, within the token budget."""
        rows = sorted(range(len(self.ids)), key=lambda row: -len(self.ids[row]))
        found = []
        while rows:
            size = max(1, self.batch_tokens // len(self.ids[rows[0]]))
            found.append(rows[:size])
            rows = rows[size:]
        return found


def padded(ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels ``[batch, tokens]``, right-padded; labels are -100 on padding."""
    width = max(map(len, ids))
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
    labels = torch.tensor([[*row, *[-100] * (width - len(row))] for row in ids])
    return tokens, labels


def use_threads(threads: int) -> None:
    """Of this process; OMP_WAIT_POLICY must be in the environment before torch is imported."""
    torch.set_num_threads(threads)
    if threads > 1 and os.environ.get("OMP_WAIT_POLICY") != "PASSIVE":
        print("note: set OMP_WAIT_POLICY=PASSIVE where cores are shared")
