"""Runs one peer of ``references.py`` in the peer's own environment.

``references_peer.py FOLDER PEER``: reads the model and ``work.json`` there, and leaves scores
``[queries, passages]`` in ``PEER….npy``.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import AutoModelForCausalLM, PreTrainedModel

IGNORE = -100


def main() -> None:
    """Score and save."""
    folder, peer = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    for name, scores in PEERS[peer](folder, work):
        np.save(folder / f"{name}.npy", scores.double().numpy())


def load(folder: Path) -> PreTrainedModel:
    """The model, in float64."""
    return AutoModelForCausalLM.from_pretrained(
        folder / "model",
        dtype=torch.float64,
        attn_implementation="eager",
        trust_remote_code=False,
    ).eval()


def padded(texts: dict) -> tuple[Tensor, Tensor]:
    """Ids, and labels that are ``IGNORE`` where no loss: int64 ``[texts, tokens]``."""
    width = max(map(len, texts["ids"]))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in texts["ids"]])
    labels = torch.tensor(
        [
            [*[IGNORE] * start, *row[start:], *[IGNORE] * (width - len(row))]
            for row, start in zip(texts["ids"], texts["loss_from"], strict=True)
        ]
    )
    return ids, labels


def kronfluence(folder: Path, work: dict):
    """EK-FAC by labels and by which tokens A counts."""
    from kronfluence import Analyzer, FactorArguments, ScoreArguments, Task, prepare_model

    class NextToken(Task):
        def compute_train_loss(self, batch, model, sample=False):
            ids, labels, _ = batch
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
            labels = labels[:, 1:].flatten()
            if sample:
                drawn = torch.multinomial(torch.softmax(logits.detach(), -1), 1)[:, 0]
                labels = torch.where(labels == IGNORE, IGNORE, drawn)
            return F.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            modules = model.named_modules()
            return [n for n, m in modules if isinstance(m, torch.nn.Linear) and n != "lm_head"]

        def get_attention_mask(self, batch):
            return batch[2]

    task, model = NextToken(), load(folder)
    prepared = prepare_model(model, task)
    ids, labels = padded(work["passages"])
    lengths = torch.tensor([len(row) for row in work["passages"]["ids"]])[:, None]
    positions = torch.arange(ids.shape[1])[None]
    query_ids, query_labels = padded(work["queries"])
    queries = torch.utils.data.TensorDataset(query_ids, query_labels, torch.ones_like(query_ids))
    wide = torch.float64
    for kind, mask in (("predicting", positions < lengths - 1), ("all", positions < lengths)):
        passages = torch.utils.data.TensorDataset(ids, labels, mask.long())
        for name, empirical in (("empirical", True), ("sampled", False)):
            torch.manual_seed(0)
            analyzer = Analyzer(
                f"{name}-{kind}", prepared, task, cpu=True, disable_tqdm=True,
                output_dir=str(folder / "kronfluence"), log_level=logging.ERROR,
            )  # fmt: skip
            factors = FactorArguments(
                strategy="ekfac", use_empirical_fisher=empirical, activation_covariance_dtype=wide,
                gradient_covariance_dtype=wide, per_sample_gradient_dtype=wide, lambda_dtype=wide,
            )  # fmt: skip
            analyzer.fit_all_factors(
                "factors", passages, factor_args=factors, per_device_batch_size=16
            )
            analyzer.compute_pairwise_scores(
                "scores", "factors", queries, passages, per_device_query_batch_size=4,
                per_device_train_batch_size=16,
                score_args=ScoreArguments(
                    damping_factor=None, per_sample_gradient_dtype=wide, precondition_dtype=wide,
                    score_dtype=wide,
                ),
            )  # fmt: skip
            found = analyzer.load_pairwise_scores("scores")["all_modules"]
            yield f"kronfluence {name} {kind}", found


def dattri(folder: Path, work: dict):
    """DataInf, which takes one λ for all parameters: a run a matrix, and their sum."""
    from dattri.algorithm.influence_function import IFAttributorDataInf
    from dattri.task import AttributionTask
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_default_dtype(torch.float64)  # it makes its sums in the default
    model = load(folder).requires_grad_(False)
    passages, queries = (TensorDataset(*padded(work[name])) for name in ("passages", "queries"))
    passages, queries = DataLoader(passages, len(passages)), DataLoader(queries, len(queries))
    total: Tensor | float = 0.0
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        only = torch.nn.Module()
        only.weight = torch.nn.Parameter(module.weight.detach().clone())

        def loss(params, data, name=name):
            ids, labels = data
            replaced, given = {f"{name}.weight": params["weight"]}, {"use_cache": False}
            found = torch.func.functional_call(model, replaced, (ids,), given)
            logits = found.logits[:, :-1].flatten(0, 1)
            return F.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")

        task = AttributionTask(loss, only, only.state_dict())
        probe = IFAttributorDataInf(task, regularization=1.0)
        (batch,) = passages
        gradients = probe.generate_train_rep(0, tuple(part[None] for part in batch))
        level = work["damping"] * float(gradients.square().mean())
        attributor = IFAttributorDataInf(task, regularization=level)
        attributor.cache(passages)
        total = total + attributor.attribute(passages, queries).detach().T
    yield "dattri", total


PEERS = {"kronfluence": kronfluence, "dattri": dattri}

if __name__ == "__main__":
    main()
