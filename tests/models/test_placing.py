"""What a model's device brings with it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from bench.models.placing import place


@pytest.fixture(autouse=True)
def _switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of the whole process: put back for the tests after these."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is taken away again
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    chosen = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(chosen)
    torch.utils.deterministic.fill_uninitialized_memory = filled


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


def test_a_users_own_workspace_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    place(Elsewhere(2, 2), torch.device("cuda"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
