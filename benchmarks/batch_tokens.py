"""How long encoding takes by tokens in a batch: which ``method.batch_tokens`` is fast on a machine.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/batch_tokens.py --hidden 256 --layers 6

Sizes take turns over the same passages, all of one length, so that padding plays no part; random
weights, Adafactor's V. The table gives the median over rounds of each size's time over that of the
first of ``--sizes`` *in the same round*.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import statistics
import sys

import torch
from contenders import interleave, timed
from encoding import ours, workload
from encoding_workload import use_threads


def main() -> None:
    """Measure and print."""
    options = _options()
    use_threads(options.threads)
    sizes = [int(size) for size in options.sizes.split(",")]
    work = workload(options)
    contenders = {
        f"{size:,}": timed(ours(dataclasses.replace(work, batch_tokens=size), "adafactor"))
        for size in sizes
    }
    seconds = interleave(contenders, options.rounds)
    parameters = sum(p.numel() for p in work.model().parameters())
    print(
        f"\nGPT-NeoX, hidden {work.hidden}, {work.layers} layers, {parameters / 1e6:.2f}M "
        f"parameters; {len(work.ids)} passages of {options.tokens} tokens; "
        f"{work.threads} thread(s), torch {torch.__version__}; median of {options.rounds} "
        "interleaved rounds (least–greatest)\n"
    )
    print(f"| tokens a batch | time / that of {sizes[0]:,} | passages a second |")
    print("| --: | --: | --: |")
    first = seconds[f"{sizes[0]:,}"]
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(taken, first, strict=True)]
        print(
            f"| {name} | {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) "
            f"| {len(work.ids) / statistics.median(taken):.1f} |"
        )
    print(f"\nagain: python {shlex.join(sys.argv)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--passages", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=48, help="of a passage")
    parser.add_argument("--sizes", default="1024,256,512,2048,4096", help="comma-separated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.set_defaults(texts=None, projection_dim=16, batch_tokens=None)  # of --sizes
    return parser.parse_args()


if __name__ == "__main__":
    main()
