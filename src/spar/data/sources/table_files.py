"""CSV and Parquet files as batches of columns, and back. A CSV file's columns are text; what they mean is for `cells.py` to say."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from spar import files
from spar.data.blocks import check_expansion, reading
from spar.types import SparError

SUFFIXES = (".csv", ".parquet")
MAPPING = b"spar.mapping"  # the key under which a Parquet file's schema carries its mapping, TOML
MAX_HEADER = 1 << 20
BATCH_ROWS = 1 << 16
DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)  # how pyarrow speaks of damaged files


@dataclass(frozen=True)
class Table:
    """A file of rows. `batches(names)` yields the columns `names`, in pieces from the first row to the last, and raises SparError."""

    path: Path
    names: tuple[str, ...]
    text: bool  # every cell is text: CSV
    batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    mapping: str | None = None  # TOML that the file carries

    def place(self, column: str, row: int) -> str:
        """A row in a message's words, with the line of a text file, whose header is line 1."""
        return f"'{column}' row {row}" + (f" (line {row + 2})" if self.text else "")


def open_table(path: Path) -> Table:
    """Raises SparError where there is no readable table of that suffix, or its columns' names are not distinct."""
    if path.suffix.lower() not in SUFFIXES:
        raise SparError(f"{path}: not a table: the name must end in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise SparError(f"{path}: no such file; give a table with one row a step")
    if path.stat().st_size == 0:
        raise SparError(f"{path}: the file is empty (0 bytes)")
    with reading(str(path), *DAMAGE):
        table = _csv(path) if path.suffix.lower() == ".csv" else _parquet(path)
    for name in table.names:
        if not name.isprintable():
            raise SparError(f"{path}: a column is named {name!r}; a name must be printable")
        if table.names.count(name) > 1:
            raise SparError(f"{path}: two columns are named '{name}'; every column needs its own name")
    return table


def _csv(path: Path) -> Table:
    with path.open("rb") as file:
        head = file.read(MAX_HEADER)
    if head[:4] == b"PAR1" or b"\0" in head[:1000]:
        raise SparError(f"{path}: not a text file; a CSV file is UTF-8 text with commas")
    body = len(head.splitlines(keepends=True)[0])
    try:
        header = head[:body].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SparError(f"{path}: the header is not UTF-8 text ({error.reason}); save the file as UTF-8 CSV") from None
    if body == MAX_HEADER:
        raise SparError(f"{path}: the header is longer than {MAX_HEADER} bytes; a CSV file begins with a line of column names")
    try:
        names = tuple(name.strip() for name in next(csv.reader([header], strict=True)))
    except (csv.Error, StopIteration) as error:
        raise SparError(f"{path}: the header (line 1) cannot be read ({error or 'it is blank'})") from None
    if len(names) < 3:
        others = {"semicolons": ";", "tabs": "\t", "bars": "|", "spaces": " "}
        found = max(others, key=lambda kind: header.count(others[kind]))
        separated = f"; it has {found}: save the file with commas" if header.count(others[found]) else ""
        raise SparError(f"{path}: the header has {len(names)} columns separated by commas, a log needs at least three{separated}")
    if "" in names:
        raise SparError(f"{path}: column {names.index('')} has no name; name it in the header (line 1)")
    return Table(path, names, text=True, batches=lambda wanted: _csv_batches(path, body, names, wanted))


def _csv_batches(path: Path, body: int, names: tuple[str, ...], wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    end = path.stat().st_size
    with path.open("rb") as file:  # blank lines at the end are no rows
        file.seek(max(body, end - 1024))
        tail = file.read()
        end -= len(tail) - len(tail.rstrip(b"\r\n"))
    if end <= body:
        return
    source = pa.BufferReader(pa.memory_map(str(path)).read_buffer().slice(body, end - body))
    with reading(str(path), *DAMAGE):
        try:
            reader = pa.csv.open_csv(
                source,
                pa.csv.ReadOptions(use_threads=False, column_names=list(names)),
                pa.csv.ParseOptions(ignore_empty_lines=False),
                pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=list(wanted)),
            )
            yield from reader
        except pa.ArrowInvalid as error:
            ragged = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error))
            if ragged is None:
                raise
            row, expected, found = map(int, ragged.groups())
            cells = f"row {row - 1} (line {row + 1}) has {found} cells, the header {expected}"
            raise SparError(f"{path}: {cells}; every row has a cell for every column") from None


def _parquet(path: Path) -> Table:
    with _parquet_file(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
        claimed = sum(metadata.row_group(g).total_byte_size for g in range(metadata.num_row_groups))
        claimed = max(claimed, 4 * metadata.num_rows * len(schema))
        check_expansion(f"{path}: the table ({metadata.num_rows} rows)", claimed, path.stat().st_size)
        carried = (schema.metadata or {}).get(MAPPING)
        return Table(
            path,
            tuple(schema.names),
            text=False,
            batches=lambda wanted: _parquet_batches(path, wanted),
            mapping=None if carried is None else carried.decode(),
        )


def _parquet_file(path: Path, texts: Sequence[str] = ()) -> pq.ParquetFile:
    return pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=list(texts))


def _parquet_batches(path: Path, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with reading(str(path), *DAMAGE):
        with _parquet_file(path) as file:
            texts = [name for name in wanted if pa.types.is_string(file.schema_arrow.field(name).type)]
        with _parquet_file(path, texts) as file:  # text stays a dictionary: one long word on a million rows is one word
            rows = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=list(wanted), use_threads=False):
                rows += len(batch)
                yield batch
            if rows != file.metadata.num_rows:
                raise SparError(f"{path}: claims {file.metadata.num_rows} rows but holds {rows}; the file is damaged")


def write_table(path: Path, table: pa.Table, mapping: str) -> None:
    """`table` and its mapping (TOML): inside a Parquet file's schema, or beside a CSV file. Raises SparError if a file is there."""
    if path.suffix.lower() not in SUFFIXES:
        raise SparError(f"{path}: the name of a table must end in {' or '.join(SUFFIXES)}")
    beside = path.with_suffix(".toml")
    for taken in (path, beside):
        if taken.exists():
            raise SparError(f"{taken}: exists already; nothing is written over, choose another path")
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        if path.suffix.lower() == ".parquet":
            pq.write_table(table.replace_schema_metadata({MAPPING: mapping}), temporary, compression="zstd", write_page_checksum=True)
        else:
            exact = [column.cast(pa.float64()) if pa.types.is_floating(column.type) else column for column in table.columns]
            pa.csv.write_csv(pa.table(exact, names=table.column_names), temporary)
            files.write_text(beside, mapping)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
