"""Which weight matrices carry the attribution gradient, and how they group into blocks.

Source: 2410.17413, section 3: attention and MLP matrices only; embeddings, output head, biases and
normalisation are left out; consecutive layers form groups, each with an attention and an MLP block.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.errors import UserError

_ATTENTION = ("attn", "attention")
_MLP = ("mlp", "feed_forward", "ffn", "feedforward")


@dataclass(frozen=True)
class Matrix:
    """One weight matrix, always seen as ``[out, in]``.

    Attributes:
        name: parameter name, e.g. ``"model.layers.0.mlp.up_proj.weight"``.
        module: the layer that multiplies by it.
        block: index of its block.
        transposed: the weight is stored as ``[in, out]`` (GPT-2's ``Conv1D``).
    """

    name: str
    module: nn.Module
    block: int
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)``."""
        rows, columns = self.weight.shape
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def weight(self) -> Tensor:
        """The parameter itself, as stored."""
        return self.module.weight  # type: ignore[return-value]


def gradient_matrices(model: nn.Module, layer_blocks: int) -> list[Matrix]:
    """The attention and MLP matrices of a decoder, in the order of ``named_modules``.

    Args:
        model: a causal language model of transformers.
        layer_blocks: groups of consecutive layers; at most one group a layer is made.

    Raises:
        UserError: no decoder layers found, or a matrix in them is neither attention nor MLP.
    """
    prefix, layers = _decoder_layers(model)
    n_groups = min(layer_blocks, len(layers))
    matrices = []
    for number, layer in enumerate(layers):
        group = number * n_groups // len(layers)
        for path, module in layer.named_modules():
            if isinstance(module, nn.Linear | Conv1D):
                name = f"{prefix}.{number}.{path}.weight"
                block = 2 * group + _is_mlp(path, name)
                matrices.append(Matrix(name, module, block, isinstance(module, Conv1D)))
    return matrices


def _decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of decoder layers: the longest ModuleList that is not inside another one."""
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    outer = [
        (name, m)
        for name, m in lists
        if not any(name.startswith(f"{other}.") for other, _ in lists)
    ]
    if not outer:
        raise UserError(
            f"no list of decoder layers found in {type(model).__name__}",
            where="model",
            fix="gradient methods need a decoder-only transformer of the transformers library",
        )
    return max(outer, key=lambda item: len(item[1]))


def _is_mlp(path: str, name: str) -> bool:
    if any(word in path for word in _MLP):
        return True
    if any(word in path for word in _ATTENTION):
        return False
    raise UserError(
        f"matrix {name} is neither attention nor MLP by its name",
        where="model",
        fix="this architecture is not supported by gradient methods yet",
    )
