"""Large matrices a block at a time: the arrays may lie in memory, in an HDF5 file, or in a memory-mapped one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spar.types import SparError

Matrix = Any  # a NumPy array, or an HDF5 dataset: has shape, and slices of rows become arrays
Allocate = Callable[[tuple[int, ...]], np.ndarray]  # a float32 array of this shape, to be filled
Place = Callable[[str, int, int | None], str]  # (field, row, column) -> where that is, in a message's words
BLOCK_BYTES = 16 << 20
BOX_TOLERANCE = 1e-5
MAX_EXPANSION = 1100  # gzip cannot shrink more: a file that claims to is not what it says
LARGE, MAX_LARGE_EXPANSION = 256 << 20, 100  # bytes, and what measured values that large cannot shrink to
CACHE_VARIABLE = "SPAR_CACHE"


def check_expansion(place: str, claimed: int, stored: int) -> None:
    """Raises SparError, naming `place`, where `claimed` bytes of numbers cannot be in `stored` bytes of a file, compressed or not."""
    if claimed > MAX_EXPANSION * max(stored, 4096) or (claimed > LARGE and claimed > MAX_LARGE_EXPANSION * stored):
        raise SparError(f"{place} claims {claimed} bytes but the file holds {stored} bytes of it; the file is damaged")


@contextlib.contextmanager
def reading(source: str, *errors: type[Exception]) -> Iterator[None]:
    """What a file format's own reader objects to with one of `errors`, and memory that a damaged file asks for, as a SparError."""
    objections: tuple[type[Exception], ...] = (*errors, MemoryError)
    try:
        yield
    except objections as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise SparError(f"{source}: cannot be read ({what[:200]}{'...' if len(what) > 200 else ''}); the file is damaged") from None


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
    """`Allocate` in a file under the cache folder, memory-mapped; it disappears with the process. Raises SparError where the folder cannot
    be written or its disk has no room for all of it."""
    folder, size = cache_folder() / "mapped", 4 * int(np.prod(shape))
    if size == 0:
        return heap(shape)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".f32") as file:  # unlinked at once: the mapping keeps it alive
            if hasattr(os, "posix_fallocate"):  # a disk that fills up later would kill the process
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.float32, "w+", shape=shape)
    except OSError as error:
        raise SparError(
            f"{folder}: {size} bytes cannot be written there ({error.strerror or error}); free them, or set {CACHE_VARIABLE} to a folder "
            "with more room"
        ) from None


def gather(source: Matrix, index: np.ndarray, allocate: Allocate = heap) -> np.ndarray:
    """`source[index]` as float32 for a nondecreasing `index` (n,), read in blocks."""
    width = source.shape[1]
    out = allocate((len(index), width))
    for span in spans(len(index), width):
        part = index[span]
        rows = np.asarray(source[part[0] : part[-1] + 1])
        with np.errstate(over="ignore"):
            out[span] = rows[part - part[0]]
    return out


def cell(field: str, row: int, column: int | None) -> str:
    """`Place` of an array without names for its columns; a vector has no column."""
    return f"'{field}' row {row}" + ("" if column is None else f", column {column}")


class Bad(NamedTuple):
    """The first of `cells` bad cells of a column."""

    row: int
    column: int | None  # None for a vector
    value: float
    cells: int


def first_non_finite(matrix: Matrix) -> Bad | None:
    """The first cell (rows first) that is not a finite float32."""
    width = int(np.prod(matrix.shape[1:]))
    if all(_all_finite(matrix[span]) for span in spans(len(matrix), width)):
        return None
    return _first(matrix, width, lambda block: ~np.isfinite(block))


def first_outside(actions: Matrix, low: np.ndarray, high: np.ndarray) -> Bad | None:
    """The first cell of `actions` (T, act_dim) outside [low, high]; NaN is not outside."""
    slack = BOX_TOLERANCE * (high - low)
    blocks = spans(len(actions), actions.shape[1])
    if all((np.min(actions[b], 0) >= low - slack).all() and (np.max(actions[b], 0) <= high + slack).all() for b in blocks):
        return None
    return _first(actions, actions.shape[1], lambda block: (block < low - slack) | (block > high + slack))


def _first(matrix: Matrix, width: int, is_bad: Callable[[np.ndarray], np.ndarray]) -> Bad | None:
    first, count = None, 0
    for span in spans(len(matrix), width):
        block = as_float32(matrix[span])
        cells = np.argwhere(is_bad(block))
        count += len(cells)
        if first is None and len(cells):
            row, *column = (int(i) for i in cells[0])
            first = Bad(span.start + row, column[0] if column else None, float(block[tuple(cells[0])]), 0)
    return first and first._replace(cells=count)


def check_finite(source: str, field: str, matrix: Matrix, place: Place = cell) -> None:
    """Raises SparError at the first cell of `matrix` (rows first) that is not a finite float32."""
    bad = first_non_finite(matrix)
    if bad:
        where = place(field, bad.row, bad.column)
        raise SparError(f"{source}: {where} is {bad.value} ({bad.cells} such cells); drop or repair those rows")


def check_box(source: str, field: str, actions: Matrix, low: np.ndarray, high: np.ndarray, place: Place = cell) -> None:
    """Raises SparError at the first row of `actions` (T, act_dim), all finite, outside [low, high]."""
    wrong = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high) & (low < high)))
    if len(wrong):
        box = f"[{low[wrong[0]]}, {high[wrong[0]]}] in dimension {wrong[0]}"
        raise SparError(f"{source}: the action box is {box}; it must be finite with low < high in every dimension")
    bad = first_outside(actions, low, high)
    if bad:
        column = bad.column or 0
        raise SparError(
            f"{source}: {place(field, bad.row, column)} is {bad.value:.6g}, outside [{low[column]:.6g}, {high[column]:.6g}] "
            f"({bad.cells} such cells); give the true bounds or rescale"
        )


def as_flags(source: str, field: str, array: np.ndarray) -> np.ndarray:
    """(T,) bool. Raises SparError at the first of the numbers `array` (T,) that is neither 0 nor 1."""
    odd = np.flatnonzero((array != 0) & (array != 1))
    if len(odd):
        raise SparError(f"{source}: '{field}' row {odd[0]} is {array[odd[0]]}; flags are 0 or 1")
    return array.astype(bool)


def as_float32(array: np.ndarray) -> np.ndarray:
    """What does not fit becomes infinite, which `check_finite` then finds."""
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float32)


def _all_finite(block: np.ndarray) -> bool:
    """A finite sum proves it in one pass; only where the sum overflows must every cell be looked at."""
    block = as_float32(block)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(block.sum(dtype=np.float32)) or np.isfinite(block).all())
