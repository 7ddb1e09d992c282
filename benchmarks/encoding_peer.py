"""Runs one peer of the encoding benchmark in the peer's own environment.

Started by ``encoding.py`` with the path of a workload and the name of a peer. Says "ready", then
does one pass for every line on standard input and answers with its seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from encoding_workload import Workload, padded, use_threads
from torch.nn import functional as F  # noqa: N812


def bergson(work: Workload, moments: str) -> Callable[[], object]:
    """Projected gradients of every module into memory, as ``bergson build`` computes them."""
    from bergson import GradientProcessor, IndexConfig, InMemoryCollector
    from bergson.collector.collector import CollectorComputer
    from bergson.data import allocate_batches
    from bergson.gradients import AdafactorNormalizer, AdamNormalizer
    from datasets import Dataset

    model = work.model()
    model.get_input_embeddings().requires_grad_(True)  # as bergson's own worker does
    folder = tempfile.mkdtemp()
    Path(folder, "run.part").mkdir()
    config = IndexConfig(
        run_path=f"{folder}/run",
        projection_dim=work.projection_dim,
        token_batch_size=work.batch_tokens,
    )
    data = Dataset.from_dict({"input_ids": work.ids, "length": [len(row) for row in work.ids]})
    normalizers = {}
    for name, parameter in model.base_model.named_parameters():
        if parameter.ndim != 2 or "embed" in name:
            continue
        v = torch.rand(parameter.shape) * 1e-3 + 1e-5
        key = name.removesuffix(".weight")
        if moments == "adafactor":
            normalizers[key] = AdafactorNormalizer(v.mean(1), v.mean(0))
        elif moments == "adam":
            normalizers[key] = AdamNormalizer(v)

    def run() -> object:
        processor = GradientProcessor(
            normalizers=normalizers, projection_dim=work.projection_dim, projection_type="normal"
        )
        processor._projection_matrices = kept  # made once, as in a long run
        collector = InMemoryCollector(
            model=model.base_model, cfg=config, processor=processor, data=data
        )
        batches = allocate_batches([len(row) for row in work.ids], work.batch_tokens)
        computer = CollectorComputer(
            model=model, data=data, collector=collector, batches=batches, cfg=config
        )
        computer.run_with_collector_hooks()
        return collector.gradients

    kept: dict = {}
    return run


def kronfluence(work: Workload, _: str) -> Callable[[], object]:
    """Scores against one query with the identity for a Hessian: it keeps no features.

    Its loader takes the passages as they come, so real texts are padded more than elsewhere.
    """
    from kronfluence import Analyzer, FactorArguments, ScoreArguments, Task, prepare_model

    class NextToken(Task):
        def compute_train_loss(self, batch, model, sample=False):  # noqa: ARG002 - kronfluence's signature
            ids, labels, _ = batch
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return [
                name
                for name, module in model.named_modules()
                if isinstance(module, torch.nn.Linear) and "embed_out" not in name
            ]

        def get_attention_mask(self, batch):
            return batch[2]

    model = work.model()
    task = NextToken()
    prepared = prepare_model(model, task)
    ids, labels = padded(work.ids)
    data = torch.utils.data.TensorDataset(ids, labels, (labels != -100).long())
    rows = max(1, work.batch_tokens // ids.shape[1])
    folder = tempfile.mkdtemp()
    analyzer = Analyzer(
        "encoding", prepared, task, cpu=True, disable_tqdm=True, output_dir=folder,
        log_level=logging.ERROR,
    )  # fmt: skip
    factors = FactorArguments(strategy="identity")
    analyzer.fit_all_factors("identity", data, factor_args=factors, per_device_batch_size=rows)

    def run() -> object:
        return analyzer.compute_pairwise_scores(
            "scores", "identity", data, data, per_device_query_batch_size=1,
            per_device_train_batch_size=rows, query_indices=[0], score_args=ScoreArguments(),
            overwrite_output_dir=True,
        )  # fmt: skip

    return run


PEERS = {"bergson": bergson, "kronfluence": kronfluence}


def main() -> None:
    """``encoding_peer.py WORKLOAD PEER MOMENTS``."""
    answers = sys.stdout
    work = Workload.load(Path(sys.argv[1]))
    use_threads(work.threads)
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):  # peers talk; only seconds go to the benchmark
        module = importlib.import_module(sys.argv[2])
        run = PEERS[sys.argv[2]](work, sys.argv[3])
        print("ready", getattr(module, "__version__", "?"), file=answers, flush=True)
        for _ in sys.stdin:
            began = time.perf_counter()
            run()
            print(time.perf_counter() - began, file=answers, flush=True)


if __name__ == "__main__":
    main()
