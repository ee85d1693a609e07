"""Chunks decompressed in threads are what HDF5 itself reads, or end in one clear error."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from spar.data.sources import d4rl, inflate
from spar.types import SparError
from tests.conftest import plant_rows


def dataset(path: Path, data: np.ndarray, **settings: Any) -> h5py.Dataset:
    file = h5py.File(path / "a.hdf5", "w")
    return file.create_dataset("x", data=data, **settings)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16])
@pytest.mark.parametrize("settings", [{"compression": "gzip"}, {"compression": "gzip", "shuffle": True, "compression_opts": 9}])
@pytest.mark.parametrize("chunks", [(1000, 7), (4096, 3), True])
def test_equals_hdf5(tmp_path: Path, dtype: type, settings: dict[str, Any], chunks: Any) -> None:
    values = (np.random.default_rng(0).normal(size=(100_003, 7)) * 1000).astype(dtype)
    stored = dataset(tmp_path, values, chunks=chunks, **settings)
    assert inflate._plain(stored)
    read = inflate.Column(stored)[()]
    assert read.dtype == stored.dtype
    np.testing.assert_array_equal(read, values)


def test_a_vector_and_chunks_never_written(tmp_path: Path) -> None:
    file = h5py.File(tmp_path / "a.hdf5", "w")
    stored = file.create_dataset("x", (1_000_000,), np.float32, chunks=(4096,), compression="gzip", fillvalue=7.0)
    stored[500_000:600_000] = 1.0
    assert inflate._plain(stored)
    np.testing.assert_array_equal(inflate.Column(stored)[()], stored[()])


LEFT_ALONE: list[dict[str, Any]] = [
    {},
    {"compression": "lzf"},
    {"compression": "gzip", "fletcher32": True},
    {"compression": "gzip", "scaleoffset": 3},
    {"compression": "gzip", "chunks": (8, 7)},
]


@pytest.mark.parametrize("settings", LEFT_ALONE)
def test_anything_else_is_left_to_hdf5(tmp_path: Path, settings: dict[str, Any]) -> None:
    stored = dataset(tmp_path, np.random.default_rng(0).normal(size=(50_000, 7)), **settings)
    assert not inflate._plain(stored)
    np.testing.assert_array_equal(inflate.Column(stored)[()], stored[()])


def test_numbers_of_the_other_byte_order(tmp_path: Path) -> None:
    stored = dataset(tmp_path, np.arange(500_000, dtype=">f4"), compression="gzip", shuffle=True)
    assert inflate._plain(stored)
    np.testing.assert_array_equal(inflate.Column(stored)[()], np.arange(500_000, dtype=np.float32))


def test_slices_are_the_datasets_own(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(50_000, 7))
    column = inflate.Column(dataset(tmp_path, values, compression="gzip"))
    np.testing.assert_array_equal(column[10:20], values[10:20])
    assert (len(column), column.shape, column.dtype) == (50_000, (50_000, 7), np.float64)


@pytest.mark.parametrize("spoil", [b"not gzip at all", zlib.compress(b"short"), zlib.compress(bytes(1 << 22))])
def test_a_spoilt_chunk_is_one_line_that_names_the_field(tmp_path: Path, spoil: bytes) -> None:
    path, rows = tmp_path / "log.hdf5", {key: np.tile(column, (100, *[1] * (column.ndim - 1))) for key, column in plant_rows(2000).items()}
    with h5py.File(path, "w") as file:
        for key, column in rows.items():
            file.create_dataset(key, data=column, compression="gzip", chunks=(4096, *column.shape[1:]))
        assert inflate._plain(file["observations"])
        file["observations"].id.write_direct_chunk((8192, 0), spoil)
    with pytest.raises(SparError, match=r"'observations' cannot be read .*the file is damaged") as error:
        d4rl.read(path)
    assert "\n" not in str(error.value)
