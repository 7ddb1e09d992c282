"""Blocks of features on a GPU, each copied there while the one before is computed with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from bench.core.ahead import ahead

_PINNED_BYTES = 64 * 2**20  # of one buffer: many blocks are larger, and are copied in pieces
_N_BUFFERS = 3  # one is filled while others are on their way

Block = tuple[int, Tensor]


def copied_ahead(blocks: Iterable[Block], device: torch.device) -> Iterator[Block]:
    """Stream blocks ``[rows, dim]`` with their first rows, on a CUDA device.

    A thread reads a block of CPU memory, or of a file, into pinned buffers, from which the device
    copies it in a stream of its own. At most three blocks are on the device: the one that is
    computed with, the next, and one on its way.
    """
    copies = torch.cuda.Stream(device)

    def copied() -> Iterator[tuple[int, Tensor, torch.cuda.Event]]:
        buffers = _PinnedBuffers(device, copies)
        for first_row, block in blocks:
            yield first_row, buffers.copied(block), copies.record_event()

    for first_row, block, arrived in ahead(copied()):
        computing = torch.cuda.current_stream(device)
        computing.wait_event(arrived)
        block.record_stream(computing)
        yield first_row, block


class _PinnedBuffers:
    """Page-locked memory that blocks pass through.

    Args:
        device: the device that the blocks go to.
        stream: the stream that copies them.
    """

    def __init__(self, device: torch.device, stream: torch.cuda.Stream) -> None:
        self._device, self._stream = device, stream
        self._buffers = [
            torch.empty(_PINNED_BYTES, dtype=torch.uint8, pin_memory=True)
            for _ in range(_N_BUFFERS)
        ]
        self._free: list[torch.cuda.Event | None] = [None] * _N_BUFFERS
        self._next = 0

    def copied(self, block: Tensor) -> Tensor:
        """The block on the device, once the stream has come so far."""
        source = block.contiguous().view(-1)
        with torch.cuda.stream(self._stream):
            there = torch.empty(source.shape, dtype=source.dtype, device=self._device)
        at_once = _PINNED_BYTES // source.element_size()
        pieces = zip(source.split(at_once), there.split(at_once), strict=True)
        for piece, target in pieces:
            number, self._next = self._next, (self._next + 1) % _N_BUFFERS
            if (free := self._free[number]) is not None:
                free.synchronize()
            pinned = self._buffers[number][: piece.nbytes].view(piece.dtype)
            pinned.copy_(piece)
            with torch.cuda.stream(self._stream):
                target.copy_(pinned, non_blocking=True)
                self._free[number] = self._stream.record_event()
        return there.view(block.shape)
