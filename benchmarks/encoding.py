"""Encoding beside plain training, the floor and two peers, interleaved: what an encoding costs.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/encoding.py --hidden 256 --threads 1 \
        --peer-python /tmp/peers/venv/bin/python

One round runs every contender once, over the same passages; a table gives the median over rounds
of each contender's time over the floor's time *in the same round*, so that other work on the
machine cancels. Contenders:

    plain       forward + backward with the gradients of all weights, as training does
    floor       forward + backward to activations only, weights frozen, from the embeddings
    none, adafactor, adam
                tdabench's features, uncorrected or divided by sqrt(V) of that optimizer
    bergson, bergson-adafactor, bergson-adam
                the same of bergson, one projection of the same size for each matrix
    kronfluence scores against one query, identity for the Hessian (it projects nothing)

A peer that the interpreter of ``--peer-python`` cannot import is left out and named. That
environment, made once (tried with bergson 2.5.1 and kronfluence 1.0.1):

    python -m venv /tmp/peers/venv && cd /tmp/peers && echo "torch==2.13.0" > c.txt
    venv/bin/pip install torch==2.13.0
    venv/bin/pip install -c c.txt bergson==2.5.1 kronfluence==1.0.1
    venv/bin/pip uninstall -y torchvision torchaudio

With ``--texts FILE`` (JSON lines with a field ``text``) the passages are real sentences of unequal
length, in batches that each contender makes itself; the floor and plain take ours.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from contenders import Peer, interleave, timed
from encoding_workload import Workload, padded, use_threads
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel

from bench.models.language_model import LanguageModel, Tokens
from bench.models.second_moments import ADAM_EPSILON, Factored, Full, SecondMoments
from bench.models.training import train_tokenizer
from methods.gradient.batching import encode_all
from methods.gradient.encoder import GradientEncoder
from tests.fixtures.switches import switches

OURS = ("none", "adafactor", "adam")
PEERS = (
    ("bergson", "none"), ("bergson", "adafactor"), ("bergson", "adam"), ("kronfluence", "none"),
)  # fmt: skip
NO_ROW_CAP = 1 << 30


def main() -> None:
    """Measure and print."""
    options = _options()
    work = workload(options)
    use_threads(work.threads)
    peers: dict[str, Peer] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "workload.json")
        work.save(path)
        contenders = _contenders(work, options.contenders)
        for name, peer in _start_peers(options, path):
            peers[name] = peer
            contenders[name] = peer.seconds
        seconds = interleave(contenders, options.rounds)
        for peer in peers.values():
            peer.stop()
    _report(options, work, seconds, peers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--passages", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128, help="of a random passage")
    parser.add_argument("--texts", type=Path, help="JSON lines with a field 'text'")
    parser.add_argument("--projection-dim", type=int, default=64)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", default="", help="comma-separated; all if empty")
    parser.add_argument("--peer-python", help="interpreter with bergson and kronfluence")
    return parser.parse_args()


def workload(options: argparse.Namespace) -> Workload:
    """Sentences of ``options.texts``, or random passages where there are none."""
    if options.texts:
        lines = options.texts.read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["text"] for line in lines]
        texts = random.Random(0).sample(texts, options.passages)
        tokenizer = train_tokenizer(iter(texts), options.vocabulary)
        ids = [tokenizer(text)["input_ids"][: options.tokens] for text in texts]
    else:
        draw = random.Random(0)
        ids = [
            [draw.randrange(options.vocabulary) for _ in range(options.tokens)]
            for _ in range(options.passages)
        ]
    return Workload(
        options.hidden, options.layers, options.vocabulary, options.projection_dim,
        options.batch_tokens, options.threads, ids,
    )  # fmt: skip


# ------------------------------------------------------------------ contenders in this process


def _contenders(work: Workload, chosen: str) -> dict[str, Callable[[], float]]:
    runs: dict[str, Callable[[], object]] = {
        "plain": lambda: _train_like(work, weights=True),
        "floor": lambda: _train_like(work, weights=False),
    }
    runs |= {name: ours(work, name) for name in OURS}
    wanted = [name for name in chosen.split(",") if name] or list(runs)
    return {name: timed(run) for name, run in runs.items() if name in {"floor", *wanted}}


def _train_like(work: Workload, *, weights: bool) -> None:
    """Forward and backward of the next-token loss, as transformers' users write it."""
    model = _shared_model(work)
    model.requires_grad_(weights)
    embeddings = model.get_input_embeddings()
    handle = None
    if not weights:
        handle = embeddings.register_forward_hook(lambda *args: args[-1].requires_grad_(True))
    for rows in work.batches():
        ids, labels = padded([work.ids[row] for row in rows])
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        loss.backward()
        model.zero_grad()
    if handle is not None:
        handle.remove()
    model.requires_grad_(False)


@functools.cache
def _shared_model(work: Workload) -> PreTrainedModel:
    """One model for all contenders of this process: the encoder changes nothing in it."""
    return work.model()


def ours(work: Workload, moments: str) -> Callable[[], object]:
    """Our features of all passages, in batches of ``work.batch_tokens``."""
    return features_of(
        _shared_model(work), work.ids, moments,
        projection_dim=work.projection_dim, batch_tokens=work.batch_tokens,
    )  # fmt: skip


def features_of(
    module: PreTrainedModel,
    ids: list[list[int]],
    moments: str,
    *,
    projection_dim: int,
    batch_tokens: int,
) -> Callable[[], object]:
    """Our features of some passages, in the model's own dtype."""
    model = LanguageModel(
        name="benchmark", module=module, tokenizer=None, context_length=4096, sha256="",  # type: ignore[arg-type]
        gradient_dtype=module.dtype,
    )  # fmt: skip
    encoder = GradientEncoder(
        model, switches(projection_dim=projection_dim), moments_like(module, moments)
    )
    tokens = [Tokens(row, 1) for row in ids]
    return lambda: encode_all(encoder, tokens, NO_ROW_CAP, batch_tokens)


def moments_like(module: torch.nn.Module, kind: str) -> SecondMoments | None:
    """Random second moments as that optimizer keeps them; None for ``none``."""
    if kind == "none":
        return None
    found: dict[str, Factored | Full] = {}
    for name, parameter in module.named_parameters():
        if kind == "adafactor" and parameter.ndim == 2:
            found[name] = Factored(*(torch.rand(size) * 1e-3 + 1e-5 for size in parameter.shape))
        else:
            found[name] = Full(torch.rand(parameter.shape) * 1e-3 + 1e-5, ADAM_EPSILON)
    return SecondMoments(found, sha256="")


# ------------------------------------------------------------------ peers in their own process


def _start_peers(options: argparse.Namespace, path: Path):
    """(label, peer) of each that starts; the others are named on standard error."""
    wanted = [name for name in options.contenders.split(",") if name]
    for name, moments in PEERS if options.peer_python else ():
        label = name if moments == "none" else f"{name}-{moments}"
        if wanted and label not in wanted:
            continue
        try:
            yield label, Peer(options.peer_python, "encoding_peer.py", path, name, moments)
        except RuntimeError as error:
            print(f"left out {label}: {error}", file=sys.stderr)


# ------------------------------------------------------------------ measuring


def _report(
    options: argparse.Namespace,
    work: Workload,
    seconds: dict[str, list[float]],
    peers: dict[str, Peer],
) -> None:
    lengths = [len(row) for row in work.ids]
    parameters = sum(p.numel() for p in _shared_model(work).parameters())
    print(
        f"\nGPT-NeoX, hidden {work.hidden}, {work.layers} layers, {parameters / 1e6:.1f}M "
        f"parameters, float32; {len(lengths)} passages of {min(lengths)} to {max(lengths)} tokens "
        f"({sum(lengths)} in all), {work.batch_tokens} tokens a batch; {work.projection_dim} × "
        f"{work.projection_dim}; {work.threads} thread(s), torch {torch.__version__}; median of "
        f"{options.rounds} interleaved rounds (least–greatest)\n"
    )
    print("| contender | time / floor | passages a second |\n| --- | --- | --- |")
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(taken, seconds["floor"], strict=True)]
        label = (
            f"{name} {peers[name].said.removeprefix('ready').strip()}" if name in peers else name
        )
        print(
            f"| {label} | {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}) "
            f"| {len(lengths) / statistics.median(taken):.1f} |"
        )
    print(f"\nagain: python {shlex.join(sys.argv)}")


if __name__ == "__main__":
    main()
