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
        stage's index and whose third is the step within the stage."""
        if self.path.is_file():
            self.rows = [row for row in read(self.path, self.header) if (int(row[0]), int(row[2])) <= (stage, step)]


def read(path: Path, header: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows of a table as strings. Raises SparError when its header is not the expected one."""
    with path.open(newline="", encoding="utf-8") as file:
        first, *rows = list(csv.reader(file))
    if tuple(first) != tuple(header):
        raise SparError(f"{path}: header is {first}, expected {list(header)}")
    return [tuple(row) for row in rows]
