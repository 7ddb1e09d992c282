"""Arrays in a sealed file come back as they were, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bench.storage.sealed import DamagedError
from bench.storage.sealed_arrays import read_arrays, write_arrays

KIND = "part of a search"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "key" / "part-0.safetensors"
    arrays = {"rows": np.arange(6).reshape(2, 3), "scores": np.linspace(0, 1, 5, dtype=np.float32)}
    write_arrays(target, KIND, arrays, {"seconds": 2.5})
    return target


def test_arrays_and_facts_come_back(path: Path) -> None:
    arrays, facts = read_arrays(path, KIND)
    assert facts == {"seconds": 2.5}
    assert arrays.keys() == {"rows", "scores"}
    np.testing.assert_array_equal(arrays["rows"], [[0, 1, 2], [3, 4, 5]])
    assert arrays["rows"].dtype == np.int64
    assert arrays["scores"].dtype == np.float32
    np.testing.assert_array_equal(load_file(path)["scores"], arrays["scores"])


def test_slices_and_transposes_are_written_as_they_look(tmp_path: Path) -> None:
    whole = np.arange(12.0).reshape(3, 4)
    write_arrays(tmp_path / "a", KIND, {"t": whole.T, "s": whole[:, ::2]})
    arrays, _ = read_arrays(tmp_path / "a", KIND)
    np.testing.assert_array_equal(arrays["t"], whole.T)
    np.testing.assert_array_equal(arrays["s"], whole[:, ::2])


def test_every_flipped_byte_is_seen(path: Path) -> None:
    sound = path.read_bytes()
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(DamagedError, match=f"damaged {KIND}"):
            read_arrays(path, KIND)


@pytest.mark.parametrize("left", [0, 4, 20, -1])
def test_a_cut_file_is_seen(path: Path, left: int) -> None:
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DamagedError):
        read_arrays(path, KIND)


def test_a_file_belongs_to_its_place_and_kind(path: Path) -> None:
    other = path.with_name("part-1.safetensors")
    other.write_bytes(path.read_bytes())
    with pytest.raises(DamagedError, match="belongs elsewhere"):
        read_arrays(other, KIND)
    with pytest.raises(DamagedError, match="belongs elsewhere"):
        read_arrays(path, "another kind")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="absent"):
        read_arrays(tmp_path / "absent", KIND)
