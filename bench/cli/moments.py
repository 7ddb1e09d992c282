"""``tdabench moments``: an optimizer's state, whatever trainer left it, as one name-keyed file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.commands import parser_of
from bench.core.errors import UserError
from bench.core.escape import clean

if TYPE_CHECKING:
    from bench.models.states.converting import Coverage

_SHOWN = 8  # names of one reason
_SUFFIX = ".safetensors"


def main(words: Sequence[str]) -> int:
    """Write the file, and print what of the model it covers and how to use it; returns 0.

    Raises:
        UserError: wrong words, a state or a model that cannot be read, or a file that is there.
    """
    parser = parser_of("moments")
    parser.add_argument(
        "state",
        type=Path,
        metavar="STATE",
        help="optimizer.pt or .bin of a trainer, a folder of FSDP (torch.distributed.checkpoint), "
        "DeepSpeed's universal checkpoint, or name-keyed safetensors",
    )
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="DIR",
        help="the model's folder, of which the configuration alone is read",
    )
    parser.add_argument(
        "--adapter", type=Path, metavar="DIR", help="the adapter's folder, if the state is of one"
    )
    parser.add_argument(
        "--beta2",
        type=float,
        metavar="B",
        help="Adam's β2, if the state does not say it (default: 0.999, torch's)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=f"a new file, *{_SUFFIX}"
    )
    arguments = parser.parse_args(words)
    out: Path = arguments.out
    if out.suffix != _SUFFIX:
        raise UserError(f"expected a name that ends in {_SUFFIX}", where=f"--out {out}")
    if out.exists():
        raise UserError("is there already", where=str(out), fix="name another file, or remove it")
    if not arguments.state.exists():
        raise UserError("no such file or folder", where=str(arguments.state))
    from bench.models.adapters import with_empty_adapter  # slow to import
    from bench.models.loading import lay_out
    from bench.models.second_moments import ADAM_BETA2
    from bench.models.states.converting import convert

    beta2 = ADAM_BETA2 if arguments.beta2 is None else arguments.beta2
    if not 0 < beta2 < 1:
        raise UserError(f"expected a number between 0 and 1, found {beta2}", where="--beta2")
    module = lay_out(arguments.model)
    if arguments.adapter is not None:
        with_empty_adapter(module, arguments.adapter)
    coverage = convert(arguments.state, module, out, beta2)
    for line in _told(coverage):
        print(clean(line))
    print(f"written: {clean(out)}")
    of_model = [f"model.path={arguments.model}"]
    if arguments.adapter is not None:
        of_model.append(f"model.adapter={arguments.adapter}")
    words = ["tdabench", "run", "model=hf", *of_model, f"model.optimizer_state={out}"]
    print(f"use it: {clean(shlex.join(words))}")
    return 0


def _told(coverage: Coverage) -> Iterator[str]:
    """What the file is of, a line each."""
    yield f"optimizer: {', '.join(coverage.optimizers)}{_correction(coverage)}"
    (matrices, all_matrices), (vectors, all_vectors) = coverage.matrices, coverage.vectors
    yield (
        f"second moments of {matrices} of {all_matrices} matrices and {vectors} of {all_vectors} "
        "vectors"
    )
    for reason, names in coverage.left_out.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"left out, {reason}: {', '.join(names[:_SHOWN])}{more}"


def _correction(coverage: Coverage) -> str:
    if not coverage.steps:
        return ""
    steps, betas = (
        " and ".join(f"{number:g}" for number in numbers)
        for numbers in (coverage.steps, coverage.beta2)
    )
    said = " (the state does not say it)" if coverage.assumed_beta2 else ""
    return f", step {steps}, β2 {betas}{said}"
