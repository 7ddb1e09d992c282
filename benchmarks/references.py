"""Scores of EK-FAC and DataInf beside those of other implementations, on one toy model and data.

    OMP_NUM_THREADS=1 python benchmarks/references.py \
        --kronfluence-python /tmp/peers/kron/bin/python \
        --dattri-python /tmp/peers/dattri/bin/python

Prints for each pair the rank correlation (Spearman) of the scores of all passages for a query, its
mean and minimum over queries, and the largest difference relative to a query's largest score, after
one factor for all scores of a method.

The model is a small Llama (grouped queries, no biases: kronfluence counts them in, we do not),
trained on the passages for some steps, so that gradients differ in size as they do in practice. All
compute in float64. How settings correspond:

| here | kronfluence | dattri |
| --- | --- | --- |
| labels=empirical | use_empirical_fisher=True | always |
| labels=sampled | use_empirical_fisher=False; own draws | |
| damping=0.1, a share of mean(Λ) | damping_factor=None, which is 0.1 · mean(Λ) | |
| damping=0.1, a share of mean g² | | regularization=λ, a number, so one run a matrix |
| Λ, a mean over passages | a sum, divided by their number before damping | |
| A over tokens that predict another | all that the mask leaves: both masks are run | |
| summed loss; target tokens for a query | the task's two losses, written so | likewise |

Environments, made once, with torch of the version here, so that no CUDA build comes along (tried
with kronfluence 1.0.1 and dattri 0.3.0):

    cd /tmp/peers && echo "torch==2.13.0" > c.txt
    python -m venv kron && kron/bin/pip install -c c.txt torch transformers kronfluence==1.0.1
    kron/bin/pip uninstall -y torchvision
    python -m venv dattri && dattri/bin/pip install -c c.txt torch transformers dattri==0.3.0
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from references_workload import describe, make_model, make_task, report, scores_of

from bench.core.progress import set_quiet
from bench.models.language_model import LanguageModel
from bench.tasks.base import Task
from methods.base import Context
from methods.gradient.datainf import DataInf
from methods.gradient.ekfac import Ekfac
from methods.gradient.settings import Adapters, EkfacConfig, InfluenceConfig, Labels, Unsupported

SETTINGS = {
    "damping": 0.1, "sample": None, "opponents": 0, "memory_mib": 512, "batch_size": 32,
    "batch_tokens": None, "layers": None, "adapters": Adapters.base,
    "unsupported": Unsupported.refuse, "seed": 0,
}  # fmt: skip


def main() -> None:
    """Score, compare and print."""
    options = _options()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = make_task(folder, options.passages, options.queries)
        model = make_model(
            folder, task, hidden=options.hidden, layers=options.layers, steps=options.steps
        )
        describe(folder, task, model, damping=SETTINGS["damping"])
        report(task, model, _scores(task, model, folder, options), PAIRS)


PAIRS = (
    ("ekfac empirical", "kronfluence empirical predicting"),
    ("ekfac empirical", "kronfluence empirical all"),
    ("ekfac sampled", "kronfluence sampled predicting"),
    ("ekfac sampled", "ekfac sampled, seed 1"),
    ("ekfac sampled", "ekfac empirical"),
    ("datainf", "dattri"),
    ("datainf", "ekfac empirical"),
)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--passages", type=int, default=160)
    parser.add_argument("--queries", type=int, default=12)
    parser.add_argument("--steps", type=int, default=60, help="of training, before scoring")
    parser.add_argument("--kronfluence-python", help="interpreter with kronfluence")
    parser.add_argument("--dattri-python", help="interpreter with dattri")
    return parser.parse_args()


def _scores(
    task: Task, model: LanguageModel, folder: Path, options: argparse.Namespace
) -> dict[str, np.ndarray]:
    """By name: ``[queries, passages]``."""
    context = Context(task, folder / "cache", load_model=lambda: model)

    def ekfac(labels: Labels, seed: int = 0) -> np.ndarray:
        return scores_of(Ekfac(EkfacConfig(**{**SETTINGS, "seed": seed}, labels=labels), context))

    found = {
        "ekfac empirical": ekfac(Labels.empirical),
        "ekfac sampled": ekfac(Labels.sampled),
        "ekfac sampled, seed 1": ekfac(Labels.sampled, seed=1),
        "datainf": scores_of(DataInf(InfluenceConfig(**SETTINGS), context)),
    }
    for peer, python in (
        ("kronfluence", options.kronfluence_python),
        ("dattri", options.dattri_python),
    ):
        if python:
            script = Path(__file__).with_name("references_peer.py")
            # Where it is thrown away: a peer leaves files where it runs.
            command = [Path(python).absolute(), script, folder, peer]
            subprocess.run(command, check=True, cwd=folder)
            for path in sorted(folder.glob(f"{peer}*.npy")):
                found[path.stem] = np.load(path)
    return found


if __name__ == "__main__":
    main()
