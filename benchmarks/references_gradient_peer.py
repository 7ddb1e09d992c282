"""Runs one peer of ``references_gradient.py`` in the peer's own environment.

``references_gradient_peer.py FOLDER PEER``: reads the checkpoints and ``work.json`` there, and
leaves scores ``[queries, passages]`` in ``PEER….npy``.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from references_peer import IGNORE, padded
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModelForCausalLM, PreTrainedModel

ADAM_EPSILON = 1e-8  # torch's default, with which the toy model was trained


def main() -> None:
    """Score and save."""
    folder, peer = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    for name, scores in PEERS[peer](folder, work):
        np.save(folder / f"{peer} {name}.npy", scores.detach().double().numpy())


def load(folder: str, dtype: torch.dtype) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", trust_remote_code=False
    ).eval()


def matrices(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The weights that count, by name."""
    modules = model.named_modules()
    return {
        f"{name}.weight": module.weight
        for name, module in modules
        if isinstance(module, nn.Linear) and name != "lm_head"
    }


# ------------------------------------------------------------------ outputs of one text


def log_probs(model: nn.Module, weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Of every next token: ``[tokens - 1, vocabulary]``."""
    found = torch.func.functional_call(model, weights, (ids[None],), {"use_cache": False})
    return torch.log_softmax(found.logits[0, :-1], -1)


def loss(log_p: Tensor, labels: Tensor) -> Tensor:
    """Summed over a text's tokens."""
    return F.nll_loss(log_p, labels[1:], ignore_index=IGNORE, reduction="sum")


def margin(log_p: Tensor, labels: Tensor) -> Tensor:
    """log(p / (1 - p)), summed over a text's tokens."""
    right = labels[1:].clamp_min(0)[:, None]
    others = log_p.scatter(1, right, -torch.inf).logsumexp(1)
    return ((log_p.gather(1, right)[:, 0] - others) * (labels[1:] != IGNORE)).sum()


def probability(log_p: Tensor, labels: Tensor) -> Tensor:
    """Mean of the right tokens' p."""
    counted = labels[1:] != IGNORE
    right = log_p.gather(1, labels[1:].clamp_min(0)[:, None])[:, 0].exp()
    return (right * counted).sum() / counted.sum()


# ------------------------------------------------------------------ dattri


class Matrices(nn.Module):
    """The matrices as the only parameters that dattri sees; the model around them is replaced."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.around = [load(folder, torch.float64)]  # a list, so that it is no submodule
        self.names = list(matrices(self.around[0]))
        for number, weight in enumerate(matrices(self.around[0]).values()):
            setattr(self, f"w{number}", nn.Parameter(weight.detach().clone()))

    def open(self, folder: str) -> Matrices:
        """Another checkpoint."""
        self.around[0] = load(folder, torch.float64).requires_grad_(False)
        for number, weight in enumerate(matrices(self.around[0]).values()):
            getattr(self, f"w{number}").data.copy_(weight)
        return self

    def of(self, output):
        """``output`` as dattri calls it."""

        def function(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
            ids, labels = data
            weights = {name: parameters[f"w{n}"] for n, name in enumerate(self.names)}
            return output(log_probs(self.around[0], weights, ids), labels)

        return function


def dattri(_: Path, work: dict) -> Iterator[tuple[str, Tensor]]:
    torch.set_default_dtype(torch.float64)  # it makes its sums in the default
    checkpoints = work["checkpoints"]
    passages, queries = (TensorDataset(*padded(work[name])) for name in ("passages", "queries"))
    passages, queries = DataLoader(passages, len(passages)), DataLoader(queries, len(queries))
    for name, dim in (("trak", None), ("trak projected", work["trak_projected"])):
        yield name, dattri_trak(checkpoints[-1], passages, queries, work["trak_damping"], dim)
    for name in ("tracin", "less"):
        yield name, dattri_tracin(checkpoints, passages, queries, work["weights"], name == "less")
    torch.set_default_dtype(torch.float32)
    yield "logra", dattri_logra(checkpoints[-1], work)


def dattri_trak(
    folder: str, passages: DataLoader, queries: DataLoader, damping: float, dim: int | None
) -> Tensor:
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.func.projection import random_project

    model, task = attribution_task(margin, [folder])
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    attributor = TRAKAttributor(
        task,
        model.of(probability),
        projector_kwargs={
            "proj_dim": dim or n_weights, "proj_type": "normal" if dim else "identity",
        },
    )  # fmt: skip
    (batch,) = passages
    gradients = attributor.grad_loss_func(task.get_param(0)[0], batch)
    project = random_project(gradients, len(gradients), **attributor.projector_kwargs)
    attributor.regularization = regularization(project(gradients), damping, n_weights)
    attributor.cache(passages)
    return attributor.attribute(queries).T


def regularization(features: Tensor, damping: float, n_weights: int) -> float:
    """What TRAK adds to Σ g gᵀ / weights, for what we add to the mean of g gᵀ."""
    return damping * float(features.square().mean()) * len(features) / n_weights


def attribution_task(output, checkpoints: list[str]):
    """The matrices, and dattri's task with ``output`` for passages and queries."""
    from dattri.task import AttributionTask

    model = Matrices(checkpoints[0])
    return model, AttributionTask(
        model.of(output), model, checkpoints, checkpoints_load_func=Matrices.open
    )


def dattri_tracin(
    checkpoints: list[str],
    passages: DataLoader,
    queries: DataLoader,
    weights: list[float],
    less: bool,
) -> Tensor:
    from dattri.algorithm.tracin import TracInAttributor

    model, task = attribution_task(loss, checkpoints)
    attributor = TracInAttributor(task, torch.tensor(weights), normalized_grad=less)
    attributor.projector_kwargs = None  # asked for in the constructor, it would be the default
    if less:
        plain = attributor.grad_loss_func
        moments = [load_file(Path(path, "second_moments.safetensors")) for path in checkpoints]
        roots = [
            torch.cat([one[f"{name}.exp_avg_sq"].double().flatten() for name in model.names]).sqrt()
            for one in moments
        ]
        attributor.grad_loss_func = lambda parameters, data: (
            plain(parameters, data) / (roots[task.current_checkpoint_idx] + ADAM_EPSILON)
        )
    return attributor.attribute(passages, queries).T


def dattri_logra(folder: str, work: dict) -> Tensor:
    """Without projection: the attributor that its LoGra configures, both stages the identity."""
    from dattri.algorithm.block_projected_if.block_projected_if import BlockProjectedIFAttributor
    from dattri.task import AttributionTask

    def summed(model: PreTrainedModel, batch: dict[str, Tensor], _: str) -> Tensor:
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
        labels = batch["labels"][:, 1:].flatten()
        return F.cross_entropy(logits.flatten(0, 1), labels, ignore_index=IGNORE, reduction="sum")

    def loader(name: str) -> DataLoader:
        ids, labels = padded(work[name])
        rows = [{"input_ids": a, "labels": b} for a, b in zip(ids, labels, strict=True)]
        return DataLoader(rows, batch_size=len(rows))

    model = load(folder, torch.float32)
    names = [name.removesuffix(".weight") for name in matrices(model)]
    task = AttributionTask(summed, model, [model.state_dict()])
    identity = {
        "device": "cpu", "proj_dim": -1, "proj_max_batch_size": 64, "proj_type": "identity",
    }  # fmt: skip
    attributor = BlockProjectedIFAttributor(
        task, names, hessian="eFIM", damping=work["logra_damping"],
        sparsifier_kwargs=dict(identity), projector_kwargs=dict(identity), offload="none",
    )  # fmt: skip
    passages = loader("passages")
    attributor.cache(passages)
    return attributor.attribute(passages, loader("queries")).T


# ------------------------------------------------------------------ traker


def traker(folder: Path, work: dict) -> Iterator[tuple[str, Tensor]]:
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput
    from trak.projectors import NoOpProjector
    from trak.utils import vectorize

    class Margin(AbstractModelOutput):
        def __init__(self) -> None:
            pass

        @staticmethod
        def get_output(model, weights, buffers, ids, labels):
            return margin(log_probs(model, {**weights, **buffers}, ids), labels)

        @staticmethod
        def get_out_to_loss_grad(model, weights, _, batch):
            pairs = zip(*batch, strict=True)
            p = [probability(log_probs(model, weights, ids), labels) for ids, labels in pairs]
            return 1 - torch.stack(p)[:, None]

    model = load(work["checkpoints"][-1], torch.float32)
    passages, queries = padded(work["passages"]), padded(work["queries"])
    run = TRAKer(
        model, Margin(), train_set_size=len(passages[0]), save_dir=str(folder / "traker"),
        device="cpu", projector=NoOpProjector(device="cpu"), proj_dim=None,
        use_half_precision=False, grad_wrt=list(matrices(model)), logging_level=logging.ERROR,
    )  # fmt: skip
    state = model.state_dict()
    run.load_checkpoint(state, model_id=0)
    gradients = vectorize(run.gradient_computer.compute_per_sample_grad(passages), device="cpu")
    run.score_computer.lambda_reg = regularization(
        gradients, work["trak_damping"], gradients.shape[1]
    )
    run.featurize(passages, num_samples=len(passages[0]))
    run.finalize_features()
    run.start_scoring_checkpoint("queries", state, 0, num_targets=len(queries[0]))
    run.score(queries, num_samples=len(queries[0]))
    yield "trak", torch.tensor(np.array(run.finalize_scores("queries"))).T


PEERS = {"dattri": dattri, "traker": traker}

if __name__ == "__main__":
    main()
