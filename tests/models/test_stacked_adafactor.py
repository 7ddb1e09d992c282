"""Adafactor in few kernels against transformers' own, parameter by parameter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.optimization import Adafactor

from bench.models import stacked_adafactor
from bench.models.optimizers import OPTIMIZERS
from bench.models.stacked_adafactor import StackedAdafactor

RATE = 0.01
SHAPES = [(6, 4), (5,), (6, 4), (3, 2, 4), (1,), (6, 4), (4, 6), (5,), ()]


def _parameters() -> list[nn.Parameter]:
    drawn = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(shape, generator=drawn, dtype=torch.float64)) for shape in SHAPES
    ]


def _oracle(parameters: list[nn.Parameter]) -> Adafactor:
    return Adafactor(parameters, lr=RATE, scale_parameter=False, relative_step=False)


def _step(optimizer: Optimizer, seed: int, leave_out: int | None = None) -> None:
    drawn = torch.Generator().manual_seed(seed)
    for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
        scale = 10.0 ** (number % 3 - 1)  # some steps are clipped and some are not
        gradient = torch.randn(parameter.shape, generator=drawn, dtype=torch.float64) * scale
        parameter.grad = None if number == leave_out else gradient
    optimizer.step()


def _assert_same(first: Optimizer, second: Optimizer) -> None:
    pairs = zip(first.param_groups[0]["params"], second.param_groups[0]["params"], strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
        mine, theirs = first.state[one], second.state[other]
        assert mine.keys() == theirs.keys()
        assert mine.get("step") == theirs.get("step")
        for field in mine.keys() - {"step", "RMS"}:
            torch.testing.assert_close(mine[field], theirs[field], rtol=1e-12, atol=1e-14)


def test_steps_and_states_are_those_of_transformers() -> None:
    ours, theirs = StackedAdafactor(_parameters(), RATE), _oracle(_parameters())
    for seed in range(4):
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = RATE / (seed + 1)
            _step(optimizer, seed)
        _assert_same(ours, theirs)


def test_a_parameter_without_a_gradient_falls_behind_those_of_its_shape() -> None:
    ours, theirs = StackedAdafactor(_parameters(), RATE), _oracle(_parameters())
    for seed, left_out in enumerate([None, 2, None, 0, None]):
        for optimizer in (ours, theirs):
            _step(optimizer, seed, left_out)
    _assert_same(ours, theirs)


def test_small_stacks_make_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked_adafactor, "STACKED_BYTES", 2 * 6 * 4 * 8)
    ours, theirs = StackedAdafactor(_parameters(), RATE), _oracle(_parameters())
    for optimizer in (ours, theirs):
        _step(optimizer, 0)
    _assert_same(ours, theirs)


@pytest.mark.parametrize("ours_first", [True, False])
def test_either_goes_on_from_the_state_of_the_other(ours_first: bool) -> None:
    parameters, expected = _parameters(), _oracle(_parameters())
    kinds = [_oracle, lambda all_of: StackedAdafactor(all_of, RATE)]
    first, second = reversed(kinds) if ours_first else kinds
    before = first(parameters)
    _step(before, 0)
    after = second(parameters)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    _step(after, 1)
    for seed in range(2):
        _step(expected, seed)
    _assert_same(after, expected)


class _Calls(TorchDispatchMode):
    """The context that counts calls of torch, each of which is a few kernels on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.number += 1
        return function(*args, **(kwargs or {}))


def _calls_of_a_step(kind: Callable[[list[nn.Parameter]], Optimizer], layers: int) -> int:
    optimizer = kind([nn.Parameter(torch.ones(3, 2)) for _ in range(layers)])
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones(3, 2)
    optimizer.step()  # makes the states
    with _Calls() as calls:
        optimizer.step()
    return calls.number


def test_calls_of_a_step_do_not_grow_with_the_layers() -> None:
    def stacked(parameters: list[nn.Parameter]) -> Optimizer:
        return StackedAdafactor(parameters, RATE)

    assert _calls_of_a_step(stacked, 2) == _calls_of_a_step(stacked, 20)
    assert _calls_of_a_step(_oracle, 20) > 5 * _calls_of_a_step(stacked, 20)


def test_a_cpu_keeps_the_bits_of_transformers() -> None:
    assert type(OPTIMIZERS["adafactor"](nn.Linear(3, 2), RATE, 0.0)) is Adafactor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_steps_in_stacks() -> None:
    module = nn.Linear(3, 2).cuda()
    assert isinstance(OPTIMIZERS["adafactor"](module, RATE, 0.0), StackedAdafactor)
