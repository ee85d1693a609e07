"""Whole HDF5 datasets, their gzip chunks decompressed side by side.

HDF5 decompresses one chunk at a time, which is most of the time that reading a D4RL file takes.
"""

from __future__ import annotations

import itertools
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import h5py
import numpy as np

AT_ONCE = 16  # chunks handed to a thread
SMALL, SMALL_CHUNK = 1 << 20, 1 << 12  # bytes of a dataset and of a chunk below which threads cost more than they save


class Column:
    """An HDF5 dataset to be sliced as it is; `[()]` gives all of it, decompressed in threads where its filters allow."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self.dtype, self.shape = dataset.dtype, dataset.shape

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple) and not index and _plain(self.dataset):
            return _whole(self.dataset)
        return self.dataset[index]


def _plain(dataset: h5py.Dataset) -> bool:
    """Whether this is a large dataset of this machine's own numbers, gzip-compressed and at most byte-shuffled besides."""
    if dataset.chunks is None or dataset.compression != "gzip" or dataset.fletcher32 or dataset.scaleoffset is not None:
        return False
    if dataset.dtype.kind not in "iuf" or not h5py.h5t.py_create(dataset.dtype).equal(dataset.id.get_type()):
        return False
    return dataset.nbytes >= SMALL and int(np.prod(dataset.chunks)) * dataset.dtype.itemsize >= SMALL_CHUNK


class _Chunk(NamedTuple):
    offset: tuple[int, ...]
    skipped: int  # HDF5's mask: a set bit leaves out the filter at that position of the pipeline
    stored: bytes


def _whole(dataset: h5py.Dataset) -> np.ndarray:
    """Raises OSError where a chunk is not what it should be."""
    out = np.full(dataset.shape, dataset.fillvalue, dataset.dtype)
    pipeline, shape = dataset.id.get_create_plist(), dataset.chunks
    filters = [pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())]
    found: list[tuple[int, ...]] = []
    dataset.id.chunk_iter(lambda chunk: found.append(chunk.chunk_offset))

    def place(chunk: _Chunk) -> None:
        values = np.frombuffer(_undo(chunk, filters, dataset.dtype, int(np.prod(shape))), dataset.dtype).reshape(shape)
        target = tuple(slice(start, min(start + size, end)) for start, size, end in zip(chunk.offset, shape, out.shape, strict=True))
        out[target] = values[tuple(slice(0, part.stop - part.start) for part in target)]

    def place_all(chunks: list[_Chunk]) -> None:
        for chunk in chunks:
            place(chunk)

    chunks = (_Chunk(offset, *dataset.id.read_direct_chunk(offset)) for offset in found)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(place_all, iter(lambda: list(itertools.islice(chunks, AT_ONCE)), [])):
            pass  # what a thread raised is raised here
    return out


def _undo(chunk: _Chunk, filters: list[int], dtype: np.dtype, count: int) -> bytes:
    """The chunk's `count` values as bytes: filters undone, last one first."""
    raw, expected = chunk.stored, count * dtype.itemsize
    for position in reversed(range(len(filters))):
        if chunk.skipped >> position & 1:
            continue
        if filters[position] == h5py.h5z.FILTER_DEFLATE:
            raw = _inflate(raw, expected)
        elif dtype.itemsize > 1:  # byte shuffle: first bytes of all values, second bytes of all values, ...
            raw = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1).T.tobytes()
    if len(raw) != expected:
        raise OSError(f"a chunk at {chunk.offset} has {len(raw)} bytes, not {expected}")
    return raw


def _inflate(stored: bytes, expected: int) -> bytes:
    """Never more than `expected` bytes of memory and one more. Raises OSError."""
    engine = zlib.decompressobj()
    try:
        raw = engine.decompress(stored, expected + 1)
    except zlib.error as error:
        raise OSError(f"gzip: {error}") from None
    if len(raw) != expected:
        raise OSError(f"a chunk of {len(raw)} bytes or more, not {expected}")
    return raw
