"""Tokens a second and model-FLOP utilisation of encoding on a GPU, beside a training step's passes.

    python benchmarks/utilisation.py --models 154m,1b,8b

Models of ``conf/model`` with random weights in bfloat16, on passages of one length. Contenders take
turns over the same batches:

    plain       forward + backward with the gradients of all weights, as training does
    floor       forward + backward to activations only, weights frozen, from the embeddings
    none, adafactor, adam
                tdabench's features, uncorrected or divided by sqrt(V) of that optimizer

Utilisation is FLOP/s over those of a large product measured in the same run, and over ``--peak``,
the datasheet's. Counted are a model's own: 6·N a token for plain (less the looked-up embeddings),
4·N for the others, and attention; what features cost on top counts as lost time.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator

import torch
from contenders import interleave, timed
from encoding import OURS, features_of
from torch.nn import functional as F  # noqa: N812
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from bench.plan.model import architecture_of
from bench.plan.planning import plan_settings
from bench.run.parts import model_source
from methods.gradient.cost import Architecture, backward_flops, forward_flops
from tests.fixtures.switches import switches


def main() -> None:
    """Measure and print, model by model."""
    options = _options()
    measured = _product_flops(options.device)
    kind = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    print(
        f"{kind}, torch {torch.__version__}; a product of "
        f"{_product_size(options.device):,}³ in bfloat16: {measured / 1e12:.0f} TFLOP/s; "
        f"passages of {options.tokens} tokens, projected to "
        f"{options.projection_dim} × {options.projection_dim} a block; median of {options.rounds} "
        "interleaved rounds (least–greatest)\n"
    )
    print(
        "| model | contender | tokens a batch | tokens/s | time / floor | of a product's FLOP/s "
        "| of the peak | GiB |\n| --- | --- | --: | --: | :-- | --: | --: | --: |",
        flush=True,
    )
    for name in options.models.split(","):
        for row in _measure(name, options, measured):
            print(row, flush=True)
        if options.device == "cuda":
            torch.cuda.empty_cache()
    print(f"\nagain: python {shlex.join(sys.argv)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", default="154m,1b,8b", help="comma-separated, of conf/model")
    parser.add_argument("--layers", type=int, help="fewer than the model's own")
    parser.add_argument("--tokens", type=int, default=512, help="of a passage")
    parser.add_argument("--batch-tokens", default="16384", help="comma-separated, the most first")
    parser.add_argument("--batches", type=int, default=4, help="a round, of the most tokens")
    parser.add_argument("--projection-dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", default="plain,floor,none,adafactor,adam")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s; H100's and H200's")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--profile", action="store_true", help="kernels of one round of adafactor")
    return parser.parse_args()


def _product_size(device: str) -> int:
    return 8192 if device == "cuda" else 512


def _product_flops(device: str) -> float:
    size = _product_size(device)
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    seconds = [finished(lambda: left @ right, device)() for _ in range(20)]
    return 2 * size**3 / statistics.median(seconds[5:])


def finished(run: Callable[[], object], device: str) -> Callable[[], float]:
    """Seconds until the device has done all of it."""

    def whole() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    return timed(whole)


def _measure(name: str, options: argparse.Namespace, measured: float) -> Iterator[str]:
    config = config_of(name, options.layers)
    architecture = architecture_of(config, switches())
    with torch.device(options.device):
        torch.manual_seed(0)
        module = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, trust_remote_code=False
        ).eval()
    module.requires_grad_(False)
    sizes = [int(size) for size in options.batch_tokens.split(",")]
    draw = random.Random(0)
    ids = [
        [draw.randrange(config.vocab_size) for _ in range(options.tokens)]
        for _ in range(options.batches * sizes[0] // options.tokens)
    ]
    for size in sizes:
        contenders = {}
        for contender in options.contenders.split(","):
            with contextlib.suppress(torch.OutOfMemoryError):  # then it has no row
                run = _contender(contender, module, ids, size, options)
                finished(run, options.device)()
                contenders[contender] = finished(run, options.device)
        seconds = interleave(contenders, options.rounds)
        for contender, taken in seconds.items():
            flops = len(ids) * _model_flops(architecture, contender, options.tokens)
            rate = flops / statistics.median(taken)
            ratios = [a / b for a, b in zip(taken, seconds["floor"], strict=True)]
            yield (
                f"| {name} ({architecture.parameters / 1e6:,.0f}M) | {contender} | {size:,} "
                f"| {len(ids) * options.tokens / statistics.median(taken):,.0f} "
                f"| {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}) "
                f"| {rate / measured:.3f} | {rate / options.peak / 1e12:.3f} "
                f"| {_peak_memory(contenders[contender], options.device):.1f} |"
            )
    if options.profile:
        _profile(_contender("adafactor", module, ids, sizes[0], options))


def config_of(name: str, layers: int | None) -> PretrainedConfig:
    """The architecture of a model of ``conf/model``, with its own layers or so many."""
    words = [f"model={name}", *([f"model.geometry.num_layers={layers}"] if layers else [])]
    settings, _ = plan_settings(words)
    return model_source(settings).architecture()


def _model_flops(architecture: Architecture, contender: str, tokens: int) -> float:
    """Of one passage: what the contender cannot do without."""
    flops = forward_flops(architecture, tokens) + backward_flops(architecture, tokens)
    weights = 2 * architecture.multiplied * tokens
    return flops + weights if contender == "plain" else flops


def _contender(
    name: str,
    module: PreTrainedModel,
    ids: list[list[int]],
    batch_tokens: int,
    options: argparse.Namespace,
) -> Callable[[], object]:
    if name in OURS:
        return features_of(
            module, ids, name, projection_dim=options.projection_dim, batch_tokens=batch_tokens
        )
    rows = max(1, batch_tokens // options.tokens)
    batches = [ids[start : start + rows] for start in range(0, len(ids), rows)]
    return lambda: _train_like(module, batches, weights=name == "plain")


def _train_like(module: PreTrainedModel, batches: list[list[list[int]]], *, weights: bool) -> None:
    """Forward and backward of the next-token loss."""
    module.requires_grad_(weights)
    handle = None
    if not weights:
        embeddings = module.get_input_embeddings()
        handle = embeddings.register_forward_hook(lambda *args: args[-1].requires_grad_(True))
    try:
        for rows in batches:
            ids = torch.tensor(rows, device=module.device)
            logits = module(input_ids=ids, use_cache=False).logits[:, :-1]
            F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").backward()
            module.zero_grad()
    finally:
        if handle is not None:
            handle.remove()
        module.requires_grad_(False).zero_grad()


def _peak_memory(run: Callable[[], float], device: str) -> float:
    if device != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**30


def _profile(run: Callable[[], object]) -> None:
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profiler:
        run()
        torch.cuda.synchronize()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
    print("\n| ms on the GPU | calls | ms on the CPU | what |\n| --: | --: | --: | --- |")
    for event in events[:24]:
        on_gpu, on_cpu = event.self_device_time_total / 1e3, event.self_cpu_time_total / 1e3
        print(f"| {on_gpu:.1f} | {event.count} | {on_cpu:.1f} | {event.key[:70]} |")


if __name__ == "__main__":
    main()
