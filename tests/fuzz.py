"""A fuzzer of the readers: good small files of each format, spoilt byte by byte or column by column, must give a log or one line.

`python -m tests.fuzz --cases 10000 --keep FOLDER` runs it long; a case is made by its format, its number and nothing else.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spar.data.sources import d4rl
from tests.conftest import plant_rows
from tests.corpus import VALID
from tests.corpus_tables import PLANT, plant_columns, write_mapping
from tests.reading import Reader

Rng = np.random.Generator
TOKENS = [
    "", "nan", "inf", "-1e400", "1e39", "0x1", "1,5", '"', '""', "'", "\r", "\n", "\0", "\ufeff", "é", "true", "None", "NULL", "1_0",
    "+.5e-3", "9" * 400, " ", "\t", ";", "[", "]", "=", "{", "}", ".", "#", "mon", "-0", "2026-01-01", "\x85", "\u2028", "💧",
]  # fmt: skip
WEIRD = [np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-320, 0.0, -1.0, 0.5, 2.0, 1e10]


def spoil_bytes(content: bytes, rng: Rng) -> bytes:
    """Flips, cuts, and pieces moved, repeated or overwritten."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        size = len(data)
        if size == 0:
            break
        start = int(rng.integers(size))
        length = int(min(size - start, rng.integers(1, 1 + min(64, size))))
        piece = bytes(data[start : start + length])
        to = int(rng.integers(size))
        match rng.integers(7):
            case 0:
                for at in rng.integers(size, size=rng.integers(1, 9)):
                    data[at] = int(rng.integers(256))
            case 1:
                data[start] ^= 1 << int(rng.integers(8))
            case 2:
                del data[int(rng.integers(size)) :]
            case 3:
                del data[start : start + length]
            case 4:
                data[to:to] = piece
            case 5:
                data[to : to + length] = piece
            case _:
                data[start : start + length] = bytes([int(rng.choice([0, 255, 127, 128]))]) * length
    return bytes(data)


def spoil_text(text: str, rng: Rng) -> str:
    """Cells, lines and separators replaced by what a parser may stumble over."""
    for _ in range(rng.integers(1, 4)):
        lines = text.split("\n")
        at = int(rng.integers(len(lines)))
        cells = lines[at].split(",")
        cell = int(rng.integers(len(cells)))
        match rng.integers(7):
            case 0 | 1:
                cells[cell] = str(rng.choice(TOKENS))
            case 2:
                cells[cell] += str(rng.choice(TOKENS))
            case 3:
                cells.insert(cell, str(rng.choice(TOKENS)))
            case 4:
                del cells[cell]
            case 5:
                cells[cell] = '"' + cells[cell] + '"'
            case _:
                other = int(rng.integers(len(lines)))
                lines[at], lines[other] = lines[other], lines[at]
                cells = lines[at].split(",")
        lines[at] = ",".join(cells)
        text = str(rng.choice(["\n", "\n", "\n", "\r\n", "\r"])).join(lines)
    return text


def spoil_array(array: np.ndarray, rng: Rng) -> Any:
    """Another type, shape, order or value."""
    match rng.integers(8):
        case 0:
            with np.errstate(invalid="ignore", over="ignore"):
                return array.astype(rng.choice(["f2", "f8", "i1", "i8", "u8", "?", "c8", "S3", ">f4"]))
        case 1:
            return array[: rng.integers(len(array) + 1)]
        case 2:
            return array.reshape(*array.shape, 1)
        case 3:
            return array.reshape(-1)
        case 4:
            return array[rng.permutation(len(array))]
        case 5:
            return np.concatenate([array, array])
        case 6:
            return array[0]
        case _:
            array = array.astype(np.float64)
            array[tuple(rng.integers(n) for n in array.shape)] = rng.choice(WEIRD)
            return array


def flat_columns(rng: Rng) -> dict[str, Any]:
    columns: dict[str, Any] = dict(plant_rows(60))
    for _ in range(rng.integers(1, 3)):
        key = str(rng.choice(list(columns)))
        match rng.integers(4):
            case 0:
                del columns[key]
            case 1:
                columns[str(rng.choice(["metadata/episode_returns", "terminals", "masks", "observations"]))] = columns[key]
            case _ if isinstance(columns[key], np.ndarray) and columns[key].size:
                columns[key] = spoil_array(columns[key], rng)
    return columns


def make_hdf5(path: Path, rng: Rng) -> None:
    columns = {key: column for key, column in flat_columns(rng).items() if np.ndim(column)}
    bounds = [1.0, np.nan, [1.0, 1.0], [0.0, 1.0, 2.0], "text", b"\xff", True, [], [[1.0, 1.0]], np.int64(3)]
    keys = ["action_low", "action_high", "terminals_end_episodes", "env_id", "observation_keys", "episode_lengths"]
    d4rl.write(path, columns, {str(rng.choice(keys)): bounds[rng.integers(len(bounds))] for _ in range(rng.integers(3))})


def make_npz(path: Path, rng: Rng) -> None:
    with path.open("wb") as file:
        (np.savez if rng.integers(2) else np.savez_compressed)(file, allow_pickle=False, **flat_columns(rng))


def make_csv(path: Path, rng: Rng) -> None:
    path.write_text(spoil_text(PLANT, rng), encoding=str(rng.choice(["utf-8", "utf-8-sig", "utf-16"], p=[0.8, 0.1, 0.1])), newline="")
    write_mapping(path)
    if rng.integers(3) == 0:
        beside = path.with_suffix(".toml")
        beside.write_text(spoil_text(beside.read_text(), rng), encoding="utf-8")


def make_parquet(path: Path, rng: Rng) -> None:
    plain = plant_columns()
    columns: dict[str, Any] = {name: pa.array(cells) for name, cells in plain.items()}
    kinds = [
        pa.float16(), pa.float32(), pa.int8(), pa.uint64(), pa.string(), pa.large_string(), pa.bool_(), pa.binary(), pa.date32(),
        pa.timestamp("ns"), pa.decimal128(20, 3), pa.dictionary(pa.int8(), pa.string()), pa.list_(pa.float64()), pa.null(),
        pa.duration("s"), pa.time32("s"), pa.time64("us"), pa.month_day_nano_interval(),
    ]  # fmt: skip
    for _ in range(rng.integers(1, 4)):
        name = str(rng.choice(list(columns)))
        cells = list(plain[name])
        match rng.integers(4):
            case 0:
                cells[rng.integers(len(cells))] = None
            case 1 if isinstance(cells[0], float):
                cells[rng.integers(len(cells))] = float(rng.choice(WEIRD))
            case 2:
                cells = [cells[i] for i in rng.permutation(len(cells))]
        try:
            columns[name] = pa.array(cells, None if rng.integers(2) else kinds[rng.integers(len(kinds))], from_pandas=False)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            columns[name] = pa.array([None] * len(cells), kinds[rng.integers(len(kinds) - 1)])
    try:
        pq.write_table(pa.table(columns), path, row_group_size=int(rng.integers(1, 7)))
    except pa.ArrowException:  # a type that Parquet does not have
        pq.write_table(pa.table(plant_columns()), path)
    write_mapping(path)


MAKERS: dict[str, Callable[[Path, Rng], None]] = {"hdf5": make_hdf5, "npz": make_npz, "csv": make_csv, "parquet": make_parquet}


def make(kind: str, number: int, folder: Path, samples: dict[str, Path]) -> Path:
    """The case `number`: a copy of the good sample with bytes spoilt, or a file made anew of spoilt columns."""
    rng = np.random.default_rng([number, list(VALID).index(kind)])
    path = folder / samples[kind].name
    if kind in MAKERS and rng.integers(2):
        MAKERS[kind](path, rng)
        return path
    for source in [samples[kind], samples[kind].with_suffix(".toml")]:
        if source.is_dir():
            shutil.copytree(source, path)
        elif source.exists():
            shutil.copy(source, folder / source.name)
    parts = sorted(part for part in folder.rglob("*") if part.is_file())
    part = parts[rng.integers(len(parts))]
    part.write_bytes(spoil_bytes(part.read_bytes(), rng))
    return path


def run(kinds: list[str], cases: int, first: int = 0, keep: Path | None = None, minutes: float = 1e9) -> tuple[Counter[str], list[str]]:
    """(how often each outcome came, the cases with an outcome that is neither a log nor one line)."""
    outcomes: Counter[str] = Counter()
    bad: list[str] = []
    reader, stop = Reader(kinds), time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as root:
        samples = {kind: Path(root) / kind / ("log" if kind == "minari" else f"log.{kind}") for kind in kinds}
        for kind, path in samples.items():
            path.parent.mkdir()
            VALID[kind](path)
        for number in range(first, first + cases):
            for kind in kinds:
                folder = Path(root) / "case"
                folder.mkdir()
                path = make(kind, number, folder, samples)
                for strict in (True, False):
                    answer = reader.read(kind, path, strict)
                    outcomes[f"{kind} {answer['outcome']}"] += 1
                    if answer["outcome"] not in ("log", "SparError") or (answer["outcome"] == "SparError" and "\n" in answer["message"]):
                        bad.append(f"{kind} case {number} strict={strict}: {answer['outcome']}\n{answer['message']}")
                        if keep:
                            shutil.copytree(folder, keep / f"{kind}-{number}", dirs_exist_ok=True)
                shutil.rmtree(folder)
            if time.monotonic() > stop:
                break
    reader.close()
    return outcomes, bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="of each format")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--formats", nargs="+", default=list(VALID), choices=list(VALID))
    parser.add_argument("--keep", type=Path, default=None, help="folder for the files of bad cases")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this long")
    arguments = parser.parse_args()
    outcomes, bad = run(arguments.formats, arguments.cases, arguments.first, arguments.keep, arguments.minutes)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:8d} {outcome}")
    print("\n\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
