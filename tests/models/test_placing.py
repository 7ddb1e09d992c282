"""What a model's device brings with it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from bench.models.placing import kernels_as_they_were, place


@pytest.fixture(autouse=True)
def _switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of the whole process: put back for the tests after these."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is taken away again
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with kernels_as_they_were():
        yield


class Elsewhere(nn.Linear):
    """Needs no such device to be moved to it."""

    def to(self, device: torch.device) -> Elsewhere:  # type: ignore[override]
        self.where = device.type
        return self


@pytest.mark.parametrize(("device", "chosen"), [("cpu", False), ("cuda", True)])
def test_kernels_that_give_the_same_bits_are_chosen_on_cuda(device: str, chosen: bool) -> None:
    torch.use_deterministic_algorithms(False)
    module = place(Elsewhere(2, 2), torch.device(device))
    assert module.where == device
    assert torch.are_deterministic_algorithms_enabled() is chosen
    assert torch.is_deterministic_algorithms_warn_only_enabled() is chosen, (
        "a kernel may be missing"
    )


def attention() -> dict[str, bool]:
    """Which kernels of attention torch may choose on CUDA."""
    cuda = torch.backends.cuda
    return {
        "math": cuda.math_sdp_enabled(), "flash": cuda.flash_sdp_enabled(),
        "mem_efficient": cuda.mem_efficient_sdp_enabled(), "cudnn": cuda.cudnn_sdp_enabled(),
    }  # fmt: skip


def test_attention_on_cuda_adds_up_in_a_fixed_order_and_the_choice_can_be_taken_back() -> None:
    before = attention()
    place(Elsewhere(2, 2), torch.device("cpu"))
    assert attention() == before
    with kernels_as_they_were():
        place(Elsewhere(2, 2), torch.device("cuda"))
        assert [name for name, is_allowed in attention().items() if is_allowed] == ["math"]
    assert attention() == before
    assert any(is_allowed for name, is_allowed in before.items() if name != "math")


def test_a_users_own_workspace_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    place(Elsewhere(2, 2), torch.device("cuda"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
