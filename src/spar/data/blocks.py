"""Large matrices a block at a time: the arrays may lie in memory, in an HDF5 file, or in a memory-mapped one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spar.types import SparError

Matrix = Any  # a NumPy array, or an HDF5 dataset: has shape, and slices of rows become arrays
Allocate = Callable[[tuple[int, ...]], np.ndarray]  # a float32 array of this shape, to be filled
BLOCK_BYTES = 16 << 20
BOX_TOLERANCE = 1e-5
CACHE_VARIABLE = "SPAR_CACHE"


def spans(rows: int, width: int) -> Iterator[slice]:
    """Consecutive slices of `rows` rows of `width` float32 each, BLOCK_BYTES at a time."""
    size = max(1, BLOCK_BYTES // (4 * max(width, 1)))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def heap(shape: tuple[int, ...]) -> np.ndarray:
    """`Allocate` in memory."""
    return np.empty(shape, np.float32)


def cache_folder() -> Path:
    """Where downloads and memory-mapped arrays live: $SPAR_CACHE, or `spar` in the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "spar"


def mapped(shape: tuple[int, ...]) -> np.ndarray:
    """`Allocate` in a file under the cache folder, memory-mapped; it disappears with the process."""
    folder = cache_folder() / "mapped"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".f32") as file:  # unlinked at once: the mapping keeps it alive
        return np.memmap(file, np.float32, "w+", shape=shape) if np.prod(shape) else heap(shape)


def gather(source: Matrix, index: np.ndarray, allocate: Allocate = heap) -> np.ndarray:
    """`source[index]` as float32 for a nondecreasing `index` (n,), read in blocks."""
    width = source.shape[1]
    out = allocate((len(index), width))
    for span in spans(len(index), width):
        part = index[span]
        rows = np.asarray(source[part[0] : part[-1] + 1])
        with np.errstate(over="ignore"):
            out[span] = rows if len(rows) == len(part) else rows[part - part[0]]
    return out


def check_finite(source: str, field: str, matrix: Matrix) -> None:
    """Raises SparError at the first cell of `matrix` (rows first) that is not a finite float32."""
    width = int(np.prod(matrix.shape[1:]))
    if all(_all_finite(matrix[span]) for span in spans(len(matrix), width)):
        return
    first, count = None, 0
    for span in spans(len(matrix), width):
        block = as_float32(matrix[span])
        cells = np.argwhere(~np.isfinite(block))
        count += len(cells)
        if first is None and len(cells):
            first = (span.start + int(cells[0][0]), *(int(i) for i in cells[0][1:]), block[tuple(cells[0])])
    assert first is not None
    column = f", column {first[1]}" if matrix.ndim > 1 else ""
    raise SparError(f"{source}: '{field}' row {first[0]}{column} is {first[-1]} ({count} such cells); drop or repair those rows")


def as_float32(array: np.ndarray) -> np.ndarray:
    """What does not fit becomes infinite, which `check_finite` then finds."""
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float32)


def _all_finite(block: np.ndarray) -> bool:
    """A finite sum proves it in one pass; only where the sum overflows must every cell be looked at."""
    block = as_float32(block)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(block.sum(dtype=np.float32)) or np.isfinite(block).all())


def check_box(source: str, field: str, actions: Matrix, low: np.ndarray, high: np.ndarray) -> None:
    """Raises SparError at the first row of `actions` (T, act_dim), all finite, outside [low, high]."""
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise SparError(f"{source}: the action box [{low}, {high}] must be finite with low < high in every dimension")
    slack = BOX_TOLERANCE * (high - low)
    blocks = list(spans(len(actions), actions.shape[1]))
    if all((actions[b].min(0) >= low - slack).all() and (actions[b].max(0) <= high + slack).all() for b in blocks):
        return
    first, count = None, 0
    for span in blocks:
        outside = np.argwhere((actions[span] < low - slack) | (actions[span] > high + slack))
        count += len(outside)
        if first is None and len(outside):
            first = (span.start + int(outside[0][0]), int(outside[0][1]))
    assert first is not None
    row, column = first
    raise SparError(
        f"{source}: '{field}' row {row}, column {column} is {actions[row, column]:.6g}, outside [{low[column]:.6g}, {high[column]:.6g}] "
        f"({count} such cells); give the true bounds or rescale"
    )
