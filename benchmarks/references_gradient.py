"""Scores of TRAK, TracIn, LoGra and LESS beside those of other implementations, on a toy model.

    OMP_NUM_THREADS=1 python benchmarks/references_gradient.py \
        --dattri-python /tmp/peers/dattri/bin/python --traker-python /tmp/peers/traker/bin/python

Prints for each pair the rank correlation (Spearman) of the scores of all passages for a query, its
mean and minimum over queries, and the largest difference relative to a query's largest score, after
one factor for all scores of a method.

Ours are the presets of ``conf/method``, but nothing is projected: no draw differs between two
libraries, and scores have to agree. The rows named "projected" have draws of their own (256 of 576
dimensions); there two libraries can agree no better than two seeds of one. The model is a small
Llama with three checkpoints. How settings correspond:

- trak: margins summed over a text's tokens, passages weighted by their mean 1 - p, are written as
  the peers' output functions. Our damping is a share of the mean g² and goes to a mean of g gᵀ;
  theirs (regularization, lambda_reg) to a sum of g gᵀ / d. The last checkpoint alone: dattri takes
  one regularization for all, and traker scales each checkpoint's inverse by its own entries.
- tracin: ``TracInAttributor`` with our weights, learning rates that add up to 1.
- less: the same with normalized_grad=True. dattri has no LESS: cosines and sums are its own, the
  division of the passages' gradients by sqrt(V) is the peer script's.
- logra: the attributor that dattri's LoGra configures, hessian="eFIM", our damping, whose share it
  counts as we do, and the identity in place of both projections.

dattri's LoGra and all of traker count in float32, the rest in float64, our index in float32. Tried
with dattri 0.3.0 and traker 0.3.2.

Environments, made once, with torch of the version here, so that no CUDA build comes along:

    cd /tmp/peers && echo "torch==2.13.0" > c.txt
    python -m venv dattri && dattri/bin/pip install -c c.txt torch transformers dattri==0.3.0
    python -m venv traker && traker/bin/pip install -c c.txt torch transformers traker==0.3.2
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from references_workload import describe, make_model, make_task, report, scores_of

import conf
from bench.core.progress import set_quiet
from bench.core.registry import DESCRIPTION
from bench.models.language_model import LanguageModel
from bench.tasks.base import Task
from methods.base import Context
from methods.gradient.method import Gradient
from methods.gradient.settings import GradientConfig

PRESETS = Path(conf.__path__[0]) / "method"
PAIRS = (
    ("trak", "dattri trak"),
    ("trak", "traker trak"),
    ("tracin", "dattri tracin"),
    ("less", "dattri less"),
    ("logra", "dattri logra"),
    ("trak projected", "dattri trak projected"),
    ("trak projected", "trak projected, seed 1"),  # what a draw costs
    ("tracin", "less"),  # how far apart two methods are
)
TRAK_DAMPING = 1e-2  # the preset's 1e-6 is for a projection smaller than the number of passages
PROJECTION_SIDE = 16


def main() -> None:
    """Score, compare and print."""
    options = _options()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = make_task(folder, options.passages, options.queries)
        model = make_model(
            folder, task, hidden=options.hidden, layers=options.layers, steps=options.steps,
            checkpoints=3,
        )  # fmt: skip

        def scores(preset: str, **changes: object) -> np.ndarray:
            return _scores(task, model, folder, preset, **changes)

        trak = {"preset": "trak", "checkpoints": 1, "damping": TRAK_DAMPING}
        projected = {**trak, "projection_dim": PROJECTION_SIDE}
        found = {
            "trak": scores(**trak),
            "trak projected": scores(**projected),
            "trak projected, seed 1": scores(**projected, seed=1),
            **{name: scores(name) for name in ("tracin", "less", "logra")},
        }
        folders = [one.folder for one in model.checkpoints] + [folder / "model"]
        rates = [one.learning_rate for one in model.checkpoints] + [model.learning_rate]
        describe(
            folder, task, model,
            checkpoints=[str(path) for path in folders],
            weights=[rate / sum(rates) for rate in rates],
            trak_damping=TRAK_DAMPING, trak_projected=PROJECTION_SIDE**2,
            logra_damping=_preset("logra").damping,
        )  # fmt: skip
        found |= _peers(folder, {"dattri": options.dattri_python, "traker": options.traker_python})
        report(task, model, found, PAIRS)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--hidden", type=int, default=8, help="small: R of all matrices is one")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--passages", type=int, default=160)
    parser.add_argument("--queries", type=int, default=12)
    parser.add_argument("--steps", type=int, default=300, help="of training, before scoring")
    parser.add_argument("--dattri-python", help="interpreter with dattri")
    parser.add_argument("--traker-python", help="interpreter with traker")
    return parser.parse_args()


def _preset(name: str, **changes: object) -> GradientConfig:
    """What ``conf/method/NAME.yaml`` says, with exact gradients."""
    files = [OmegaConf.load(PRESETS / f"{part}.yaml") for part in ("_gradient", name)]
    settings = OmegaConf.merge(*files, {"projection_dim": None, "seed": 0, **changes})
    for key in ("defaults", "name", *DESCRIPTION):
        settings.pop(key)
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(GradientConfig), settings))


def _scores(
    task: Task, model: LanguageModel, folder: Path, name: str, **changes: object
) -> np.ndarray:
    context = Context(task, folder / "cache", load_model=lambda: model)
    return scores_of(Gradient(_preset(name, **changes), context))


def _peers(folder: Path, pythons: dict[str, str | None]) -> dict[str, np.ndarray]:
    """By name: ``[queries, passages]``."""
    found = {}
    for peer, python in pythons.items():
        if python:
            script = Path(__file__).with_name("references_gradient_peer.py")
            # dattri would compile what takes milliseconds here, with a C++ compiler.
            environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "TQDM_DISABLE": "1"}
            # Where it is thrown away: a peer leaves files where it runs.
            command = [Path(python).absolute(), script, folder, peer]
            subprocess.run(command, check=True, env=environment, cwd=folder)
            for path in sorted(folder.glob(f"{peer}*.npy")):
                found[path.stem] = np.load(path)
    return found


if __name__ == "__main__":
    main()
