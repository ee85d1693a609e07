"""The CSV files of a run. Rows are kept in memory and written whole, so that a file is never caught with half a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spar import files
from spar.types import SparError

METRICS_HEADER = ("stage_index", "stage", "step", "seed", "metric", "value")
RETURNS_HEADER = ("stage_index", "stage", "step", "seed", "policy", "episode", "return")
NUMBERS = frozenset({"stage_index", "step", "value", "return", "return_mean"})  # columns that hold one in every row
ADVICE = "put the file back, or begin a new run"


class Table:
    """A tidy table."""

    def __init__(self, path: Path, header: Sequence[str], rows: Sequence[tuple[Any, ...]] = ()) -> None:
        self.path, self.header = path, tuple(header)
        self.rows = list(rows)

    def add(self, *row: Any) -> None:
        self.rows.append(row)

    def write(self) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        files.write_text(self.path, text.getvalue())

    def recall(self, stage: int, step: int) -> None:
        """Read back what an earlier process wrote, up to and including `step` of stage number `stage`: of a table whose first column is the
        stage's index and whose third is the step within the stage. Raises SparError where it cannot be read, or is gone though that
        process had come somewhere."""
        if self.path.is_file():
            self.rows = [row for row in read(self.path, self.header) if (int(row[0]), int(row[2])) <= (stage, step)]
        elif (stage, step) > (0, 0):
            raise SparError(f"{self.path}: is not there, though the checkpoint is; {ADVICE}")


def read(path: Path, header: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows of a table as strings. Raises SparError when it cannot be read, its header is not the expected one, a row is not as long (a
    file that was cut off, perhaps to nothing), or a column of numbers holds something else."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            first, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SparError(f"{path}: cannot be read ({error}); {ADVICE}") from None
    if tuple(first) != tuple(header):
        raise SparError(f"{path}: header is {first}, expected {list(header)}; {ADVICE}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise SparError(f"{path}: line {number} has {len(row)} columns instead of {len(header)}; {ADVICE}")
        for column, text in zip(header, row, strict=True):
            if column in NUMBERS and not _is_number(text, whole=column in ("stage_index", "step")):
                raise SparError(f"{path}: line {number} has '{text}' as its {column}; {ADVICE}")
    return [tuple(row) for row in rows]


def _is_number(text: str, whole: bool) -> bool:
    try:
        int(text) if whole else float(text)
    except ValueError:
        return False
    return True
