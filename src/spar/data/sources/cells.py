"""Columns of a table, a batch at a time, as numbers, flags, episode ids and times; what is none of these is named by column and row."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spar.types import SparError

NUMBER = r"(?i)^[+-]?(nan|inf|infinity|([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?)$"
FLAGS = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True, "0.0": False, "1.0": True}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Spot:
    """A batch of a file: its first row, and how messages name a column's row. In a text file every column is text."""

    source: str
    place: Callable[[str, int], str]
    first: int
    text: bool
    strict: bool

    def fail(self, column: str, offset: Any, what: str) -> NoReturn:
        raise SparError(f"{self.source}: {self.place(column, self.first + int(offset))} {what}")

    def wrong_type(self, column: str, array: pa.Array, what: str) -> NoReturn:
        raise SparError(f"{self.source}: column '{column}' has type {_short(str(array.type))}; it must be {what}")

    def fail_at_empty(self, column: str, array: pa.Array) -> None:
        if array.null_count:
            self.fail(column, np.flatnonzero(pc.is_null(array).to_numpy(zero_copy_only=False))[0], "is empty; fill or drop the row")


def numbers(array: pa.Array, column: str, spot: Spot) -> np.ndarray:
    """(rows,) float64. A cell may be NaN or infinite, and where `spot` is not strict, an empty one is NaN."""
    if spot.text:
        return _parsed(array, column, spot)
    array = _plain(array)
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_decimal(array.type)):
        spot.wrong_type(column, array, "numbers")
    if spot.strict:
        spot.fail_at_empty(column, array)
    return _numpy(pc.cast(array, pa.float64(), safe=False))


def _parsed(array: pa.Array, column: str, spot: Spot) -> np.ndarray:
    try:
        return _numpy(pc.cast(array, pa.float64()))
    except pa.ArrowInvalid:
        trimmed = pc.utf8_trim_whitespace(array)
    empty = pc.equal(trimmed, "")
    fits = pc.match_substring_regex(trimmed, NUMBER)
    odd = np.flatnonzero(~_numpy(fits if spot.strict else pc.or_(fits, empty)))
    if len(odd):
        cell = trimmed[int(odd[0])].as_py()
        if not cell:
            spot.fail(column, odd[0], "is empty; fill or drop the row")
        separators = "; write numbers with a decimal point and without thousands separators" if "," in cell else ""
        spot.fail(column, odd[0], f"is {_short(repr(cell))}, not a number{separators}")
    return _numpy(pc.cast(pc.if_else(empty, pa.scalar(None, pa.string()), trimmed), pa.float64()))


def flags(array: pa.Array, column: str, spot: Spot) -> np.ndarray:
    """(rows,) bool, of true or false, yes or no, 1 or 0."""
    array = _plain(array)
    spot.fail_at_empty(column, array)
    if pa.types.is_boolean(array.type):
        return _numpy(array)
    if spot.text:
        words = pc.utf8_lower(pc.utf8_trim_whitespace(array))
        index = _numpy(pc.fill_null(pc.index_in(words, pa.array(list(FLAGS))), -1))
        known, values = index >= 0, np.array(list(FLAGS.values()))[index]
    elif pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        number = _numpy(array)
        known, values = (number == 0) | (number == 1), number == 1
    else:
        spot.wrong_type(column, array, "true or false, or 0 or 1")
    if not known.all():
        offset = np.flatnonzero(~known)[0]
        spot.fail(column, offset, f"is {_short(repr(array[int(offset)].as_py()))}; a flag is true or false, yes or no, 1 or 0")
    return values


def times(array: pa.Array, column: str, spot: Spot) -> np.ndarray:
    """(rows,) int64 or float64: numbers, or dates and times (ISO 8601 in text, UTC where it names no zone)."""
    array = _plain(array)
    spot.fail_at_empty(column, array)
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        if pa.types.is_temporal(array.type):
            return _numpy(pc.cast(pc.cast(array, _integer(array.type)), pa.int64()))
        return _numpy(array) if pa.types.is_integer(array.type) else numbers(array, column, spot)
    for kind in (pa.int64(), pa.float64()):
        try:
            return _numpy(pc.cast(array, kind))
        except pa.ArrowInvalid:
            continue
    if re.match(NUMBER, array[0].as_py().strip()):
        return _parsed(array, column, spot)
    return np.array([_instant(cell, offset, column, spot) for offset, cell in enumerate(array.to_pylist())], np.int64)


def _instant(cell: str, offset: int, column: str, spot: Spot) -> int:
    """Microseconds since 1970."""
    try:
        instant = datetime.fromisoformat(cell.strip())
        return ((instant if instant.tzinfo else instant.replace(tzinfo=UTC)) - EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        spot.fail(column, offset, f"is {_short(repr(cell))}, neither a number nor a time such as 2026-01-31T08:00:00")


class Ids:
    """The ids of a table's episodes, in the order in which they come; one that comes back is an error."""

    def __init__(self) -> None:
        self.last: Any = None
        self.seen: set[Any] = set()

    def starts(self, array: pa.Array, column: str, spot: Spot) -> np.ndarray:
        """(rows,) bool: the id is another one than in the row before."""
        spot.fail_at_empty(column, array)
        encoded = array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)
        kind = encoded.dictionary.type
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_date(kind)):
            spot.wrong_type(column, array, "whole numbers or text")
        codes = _numpy(encoded.indices)
        starts = np.append(True, codes[1:] != codes[:-1])[: len(codes)]
        for offset in np.flatnonzero(starts):
            value = encoded.dictionary[int(codes[offset])].as_py()
            if value is None or (isinstance(value, str) and not value.strip()):
                spot.fail(column, offset, "is empty; every row needs the id of its episode")
            if value == self.last:
                starts[offset] = False
            elif value in self.seen:
                what = f"is {_short(repr(value))} again, after other episodes; sort the rows by episode, or give each run its own id"
                spot.fail(column, offset, what)
            self.last = value
            self.seen.add(value)
        return starts


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _integer(kind: pa.DataType) -> pa.DataType:
    return pa.int32() if kind.bit_width == 32 else pa.int64()


def _numpy(array: pa.Array) -> np.ndarray:
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 40 else text[:40] + "..."
