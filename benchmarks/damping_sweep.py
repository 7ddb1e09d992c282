"""Ranks of TrackStar over damping × λ × projection × passages.

    python benchmarks/damping_sweep.py --folder /tmp/damping
    python benchmarks/damping_sweep.py --folder /tmp/damping --data trex --trex DIR
    for seed in 0 1 2 3 4; do for raw in "" --raw; do   # the ablations, at five model seeds
      python benchmarks/damping_sweep.py --folder /tmp/damping --passages 3000 --sides 16,32 \
        --seed $seed $raw   # and with --data trex
    done; done
    for group in 25 50 100; do …  --passages 3000 --sides 16,32 --group $group; done
    for objects in 4 15 50 120; do … --passages 3000 --sides 16,32 --objects $objects; done
    python benchmarks/damping_sweep.py --folder /tmp/damping --pack results/damping/ranks.parquet

A model (``micro``) is trained on each corpus; features are encoded once for each projection and R
is decomposed once for each λ. A file below FOLDER/ranks for each corpus and projection holds the
rank of each query's first correct passage; what is there is not made again. Before the smallest
setting is swept, its ranks are compared with the engine's. ``damping.py`` and ``mixing.py`` read
what ``--pack`` makes of the files.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from swept import DAMPINGS, pack
from whitened import Encoded, Ranks, Whitener, check_engine, encode

from bench.core.errors import UserError
from bench.tasks.factworld import world

MIXINGS = ("0.0", "0.1", "0.3", "0.9", "auto")
SIDES = (16, 32, 48, 64)
PASSAGES = (1000, 3000, 10_000, 20_000)
ALIAS_RATE = 0.1  # in worlds of many objects, or introductions of second names would fill them


def main() -> None:
    """Write a file for each corpus and projection that has none."""
    torch.set_num_threads(1)
    options = _options()
    if options.pack is not None:
        pack(options.folder, options.pack)
        return
    folder = options.folder / "ranks"
    folder.mkdir(parents=True, exist_ok=True)
    if options.objects is not None:  # the task itself keeps them to a twentieth of the facts
        world._FACTS_PER_OBJECT = 1
    for side in options.sides:
        for n_passages in options.passages:
            words = [options.data, *["raw"] * options.raw, *_label(options), n_passages, side]
            words.append(options.seed)
            path = folder / f"{'-'.join(map(str, words))}.npz"
            if not path.exists():
                _sweep(options, n_passages, side, path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", choices=("factworld", "trex"), default="factworld")
    parser.add_argument("--trex", type=Path, help="folder of trex_{facts,sentences}.jsonl")
    parser.add_argument("--passages", type=_numbers, default=PASSAGES)
    parser.add_argument("--sides", type=_numbers, default=SIDES)
    parser.add_argument("--mixings", type=lambda text: text.split(","), default=MIXINGS)
    parser.add_argument("--queries", type=int, default=400, help="at most a tenth of the passages")
    parser.add_argument("--seed", type=int, default=0, help="model seed")
    parser.add_argument("--raw", action="store_true", help="gradients that are not divided by √V")
    parser.add_argument("--group", type=int, help="queries that R_eval is from at a time")
    parser.add_argument("--objects", type=int, help="objects of each kind in factworld")
    parser.add_argument("--pack", type=Path, help="put what is there into one file instead")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _label(options: argparse.Namespace) -> list[str]:
    """What is unlike the usual task, by name."""
    settings = {"group": options.group, "objects": options.objects}
    return [f"{name}{value}" for name, value in settings.items() if value is not None]


def _sweep(options: argparse.Namespace, n_passages: int, side: int, path: Path) -> None:
    start = time.perf_counter()
    encoded = encode(_overrides(options, n_passages, side), options.folder / "cache")
    if side == min(SIDES) and n_passages == min(PASSAGES):
        check_engine(encoded)
    groups = _groups(len(encoded.queries), options.group)
    parts = [_ranks(encoded.of(rows), options.mixings) for rows in groups]
    order = np.argsort(np.concatenate(groups))  # back to the order of the queries
    arrays = {}
    given = [name for name in options.mixings if all(name in ranks for _, ranks in parts)]
    for name in given:
        arrays[f"ranks-{name}"] = np.concatenate([p[1][name].ranks for p in parts], axis=1)[
            :, order
        ]
        arrays[f"leverage-{name}"] = np.mean([p[1][name].leverage for p in parts], axis=0)
    facts = {
        "data": options.data, "raw": options.raw, "label": _label(options), "side": side,
        "seed": options.seed, "n_passages": n_passages, "blocks": encoded.blocks,
        "trace_ratio": float(np.mean([part[0].trace_ratio for part in parts])),
        "mixings": {
            name: float(np.mean([part[0].crossing for part in parts])) if name == "auto"
            else float(name) for name in given
        },
        "seconds": round(time.perf_counter() - start),
    }  # fmt: skip
    _write(path, encoded, facts, {"plain": Whitener(encoded).plain(), **arrays})
    print(path.stem, json.dumps(facts), flush=True)


def _groups(n: int, size: int | None) -> list[np.ndarray]:
    """Rows of the queries that share an R_eval: all, or seeded draws of equal size."""
    if size is None:
        return [np.arange(n)]
    return np.array_split(np.random.default_rng(0).permutation(n), n // size)


def _ranks(encoded: Encoded, mixings: Sequence[str]) -> tuple[Whitener, dict[str, Ranks]]:
    """Ranks by λ, without an automatic λ where the rule refuses to give one."""
    whitener, ranks = Whitener(encoded), {}
    for mixing in mixings:
        try:
            value = whitener.crossing if mixing == "auto" else float(mixing)
        except UserError as error:
            print(error, flush=True)
            continue
        ranks[mixing] = whitener.ranks(value, DAMPINGS)
    return whitener, ranks


def _overrides(options: argparse.Namespace, n_passages: int, side: int) -> list[str]:
    n_queries = min(options.queries, n_passages // 10)  # factworld has a fact for ten passages
    chosen = [
        f"task={options.data}", f"task.n_passages={n_passages}", f"task.n_queries={n_queries}",
        "model=micro", f"model.seed={options.seed}", "model.gradient_dtype=float32",
        "method=trackstar", "method.mixing=0.3", "method.damping=0.01", "method.storage=none",
        f"method.projection_dim={side}", f"method.optimizer_correction={not options.raw}",
    ]  # fmt: skip
    if options.objects is not None:
        chosen += [f"task.n_objects={options.objects}", f"task.alias_rate={ALIAS_RATE}"]
    if options.data == "trex":
        chosen += [f"task.{kind}={options.trex / f'trex_{kind}.jsonl'}"
                   for kind in ("facts", "sentences")]  # fmt: skip
        # As many steps as 3,000 sentences take: more of them would take hours on two cores.
        chosen.append(f"model.epochs={max(2, round(12 * min(1, 3000 / n_passages)))}")
    return chosen


def _write(path: Path, encoded: Encoded, facts: dict, arrays: dict[str, np.ndarray]) -> None:
    queries = encoded.queries
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(
        partial,
        facts=np.array(json.dumps(facts)),
        query=np.array([query.query_id for query in queries]),
        relation=np.array([query.relation for query in queries]),
        target=np.array([query.target for query in queries]),
        **arrays,
    )
    partial.replace(path)


if __name__ == "__main__":
    main()
