"""Batches by length and budget; what happens when memory runs out."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.models.language_model import Tokens
from methods.gradient.batching import encode_all
from methods.gradient.encoder import GradientEncoder
from tests.fixtures.models import TEXTS, load, make_model
from tests.fixtures.switches import switches

FULL = (
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you "
                 "tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
)  # fmt: skip


class Recorder:
    """An encoder whose features name the text, and which has room for few padded tokens."""

    name, dim = "recorder", 2
    device = torch.device("cpu")

    def __init__(self, room: float = float("inf"), error: Exception | None = None) -> None:
        self.batches: list[list[int]] = []
        self.fitting_tokens: int | None = None
        self.room, self.error = room, error or MemoryError()

    def encode(self, batch: Sequence[Tokens]) -> Tensor:
        lengths = [len(text.ids) for text in batch]
        if max(lengths) * len(batch) > self.room:
            raise self.error
        self.batches.append(lengths)
        return torch.tensor([[float(sum(t.ids)), len(t.ids)] for t in batch], dtype=torch.float64)


def texts_of(lengths: Sequence[int]) -> list[Tokens]:
    return [Tokens([row + 1] * length, 1) for row, length in enumerate(lengths)]


LENGTHS = (3, 9, 1, 4, 4, 0, 7, 2, 5, 5)


def expected(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([[float((row + 1) * n), n] for row, n in enumerate(lengths)])


@pytest.mark.parametrize(("rows", "budget"), [(1, None), (4, None), (32, 12), (3, 12), (32, 1)])
def test_every_text_once_within_both_bounds(rows: int, budget: int | None) -> None:
    recorder = Recorder()
    found = encode_all(recorder, texts_of(LENGTHS), rows, budget)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected(LENGTHS)), "in the order of the texts"
    assert sorted(n for batch in recorder.batches for n in batch) == sorted(LENGTHS)
    for batch in recorder.batches:
        assert len(batch) <= rows
        assert budget is None or len(batch) == 1 or max(batch) * len(batch) <= budget


def test_texts_of_like_length_share_a_batch() -> None:
    recorder = Recorder()
    encode_all(recorder, texts_of(LENGTHS), 32, 12)
    assert recorder.batches == [[9], [7], [5, 5], [4, 4, 3], [2, 1, 0]]


def test_nothing_to_encode() -> None:
    assert encode_all(Recorder(), [], 4, 8).shape == (0, 2)


@pytest.mark.parametrize("error", FULL, ids=lambda e: type(e).__name__)
def test_memory_runs_out(error: Exception, capsys) -> None:
    recorder = Recorder(room=10, error=error)
    found = encode_all(recorder, texts_of([8, 5, 5, 5, 5, 2, 2, 2]), 32, 40)
    assert torch.equal(found, expected([8, 5, 5, 5, 5, 2, 2, 2]))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "out of memory with 5 texts of 8 tokens" in said
    encode_all(recorder, texts_of([5] * 8), 32, 40)
    assert capsys.readouterr().err == "", "said once, and not tried again"


def test_a_single_text_that_does_not_fit_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match="single text of 12 tokens"):
        encode_all(Recorder(room=10), texts_of([2, 12, 3]), 32, 40)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        encode_all(Recorder(room=1, error=RuntimeError("shape")), texts_of([2, 3]), 32, None)


def test_the_budget_changes_no_feature(tmp_path) -> None:
    model = load(make_model(tmp_path / "model", "llama", layers=2))
    encoder = GradientEncoder(model, switches(projection_dim=6))
    tokens = [model.passage_tokens(text) for text in TEXTS]
    alone = encode_all(encoder, tokens, 1)
    for rows, budget in ((32, None), (32, 40), (2, 64)):
        torch.testing.assert_close(encode_all(encoder, tokens, rows, budget), alone, rtol=1e-6,
                                   atol=1e-6)  # fmt: skip


def test_what_has_landed_makes_room() -> None:
    """Of two texts that fit one after the other, the second is not refused for the first's sake."""

    class Holding(Recorder):
        held: weakref.ref | None = None

        def encode(self, batch: Sequence[Tokens]) -> Tensor:
            if self.held is not None and self.held() is not None:
                raise MemoryError
            found = super().encode(batch).float()
            self.held = weakref.ref(found)
            return found

    found = encode_all(Holding(), texts_of([3, 3, 3]), 1, None)
    assert torch.equal(found, expected([3, 3, 3]))
