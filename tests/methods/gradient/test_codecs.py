"""Storage formats of feature rows: how large, how near, and each row by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.gradient.codecs import make_codec
from methods.gradient.settings import Storage

FORMATS = (Storage.fp32, Storage.bf16, Storage.int8, Storage.sign)


def rows(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Rows of very different magnitude, one of them zero."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.linspace(-6, 6, n)
    features = torch.randn(n, dim, generator=generator) * sizes[:, None]
    features[n // 2] = 0
    return features


@pytest.mark.parametrize("storage", FORMATS)
@given(dim=st.integers(1, 600), n=st.integers(1, 5))
def test_size_shape_and_zero_rows(storage, dim, n):
    codec, features = make_codec(storage, dim), rows(n, dim)
    stored = codec.encode(features)
    assert stored.nbytes == n * codec.bytes_per_row
    decoded = codec.decode(stored)
    assert decoded.shape == features.shape
    assert decoded.dtype == torch.float32
    assert not decoded[n // 2].any()


@pytest.mark.parametrize("storage", FORMATS)
def test_a_row_reads_the_same_alone_and_among_others(storage):
    codec, features = make_codec(storage, 300), rows(9, 300)
    stored = codec.encode(features)
    whole = codec.decode(stored)
    for number in range(9):
        assert torch.equal(codec.decode(stored[number : number + 1])[0], whole[number])
        alone = codec.encode(features[number : number + 1])
        assert np.array_equal(alone[0], stored[number])


def test_full_precision_is_exact():
    features = rows(5, 70)
    codec = make_codec(Storage.fp32, 70)
    assert torch.equal(codec.decode(codec.encode(features)), features)


def test_bfloat16_is_that_of_torch():
    features = rows(5, 70)
    codec = make_codec(Storage.bf16, 70)
    assert torch.equal(codec.decode(codec.encode(features)), features.bfloat16().float())


def test_int8_is_within_half_a_step_of_its_group():
    features = rows(7, 200)
    codec = make_codec(Storage.int8, 200)
    decoded = codec.decode(codec.encode(features))
    for start in range(0, 200, 64):
        group, found = features[:, start : start + 64], decoded[:, start : start + 64]
        step = group.abs().amax(1, keepdim=True) / 127 * (1 + 2**-7)
        assert ((group - found).abs() <= step / 2 + 1e-30).all()


def test_sign_keeps_signs_and_the_mean_magnitude_of_its_group():
    features = rows(7, 300)
    codec = make_codec(Storage.sign, 300)
    decoded = codec.decode(codec.encode(features))
    assert torch.equal(decoded > 0, features > 0)
    for start, stop in ((0, 256), (256, 300)):
        mean = features[:, start:stop].abs().mean(1)
        found = decoded[:, start:stop].abs()
        assert torch.allclose(found, mean[:, None].expand_as(found), rtol=2**-7)


@pytest.mark.parametrize("storage", FORMATS)
@pytest.mark.parametrize("dim", [1, 64, 65, 256, 300, 433])
def test_a_weight_is_on_a_scale_of_its_own(storage, dim):
    """Fault: in a group with gradients of 50, weights from 0 to 1 became multiples of 1, or 40."""
    weights = torch.tensor([0.9, 0.5, 0.1, 0.01, 0.0])
    features = torch.cat([50 * rows(5, dim), weights[:, None]], dim=1)
    codec = make_codec(storage, dim + 1, weighted=True)
    stored = codec.encode(features)
    assert stored.nbytes == 5 * codec.bytes_per_row
    decoded = codec.decode(stored)
    assert torch.allclose(decoded[:, -1], weights, rtol=2**-6)
    unweighted = make_codec(storage, dim)
    alone = unweighted.decode(unweighted.encode(features[:, :-1].contiguous()))
    assert torch.equal(decoded[:, :-1], alone)


def test_bytes_against_full_precision():
    """They are a half, about a quarter, about a thirtieth, as the documentation says."""
    sizes = {s: make_codec(s, 65_536).bytes_per_row for s in FORMATS}
    ratios = {s: sizes[Storage.fp32] / size for s, size in sizes.items()}
    assert ratios[Storage.bf16] == 2
    assert ratios[Storage.int8] == pytest.approx(3.88, abs=0.01)
    assert ratios[Storage.sign] == pytest.approx(30.1, abs=0.1)


def test_nothing_has_no_codec():
    with pytest.raises(ValueError, match="stores nothing"):
        make_codec(Storage.none, 8)
