"""Bad tables: CSV, Parquet, and mapping files."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus_parts import Columns, cut, hostile


def csv(change: Callable[[list[str]], object] | None = None, settings: str = "") -> Callable[[Path], None]:
    """A small plant as CSV, its lines changed, with its mapping; `settings` is added to the mapping or replaces a line of it."""

    def make(path: Path) -> None:
        lines = PLANT.splitlines()
        if change is not None:
            change(lines)
        path.write_text("\n".join(lines) + "\n")
        write_mapping(path, settings)

    return make


PLANT = """minute,day,room,outside,valve,reward,fault
0,mon,21.5,5.0,40,-0.5,0
1,mon,21.0,5.0,35,0.0,0
2,mon,20.8,5.1,30,-0.2,1
0,tue,22.0,7.0,10,-1,0
1,tue,21.5,7.0,15,-0.5,0
2,tue,21.25,7.0,20,-0.25,0"""
MAPPING = {
    "observation": 'observation = ["room", "outside"]',
    "reward": 'reward = "reward"',
    "episode": 'episode = "day"',
    "terminated": 'terminated = "fault"',
    "time": 'time = "minute"',
    "action": "action.valve = { low = 0.0, high = 100.0 }",
}


def write_mapping(path: Path, settings: str = "") -> None:
    """`settings`: lines `key = value` that replace or join the mapping's; `-key` takes one out."""
    lines = dict(MAPPING)
    for line in filter(None, settings.split("\n")):
        key = line.split("=")[0].strip().split(".")[0]
        if key.startswith("-"):
            del lines[key[1:]]
        else:
            lines[key] = line
    path.with_suffix(".toml").write_text("\n".join(lines.values()) + "\n")


def line(number: int, text: str) -> Callable[[list[str]], None]:
    """Line `number` of the file, counted from 1, is `text`."""

    def change(lines: list[str]) -> None:
        lines[number - 1] = text

    return change


def each(edit: Callable[[str], str]) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        lines[:] = map(edit, lines)

    return change


def bytes_of(content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content)
        write_mapping(path)

    return make


def one_endless_line(path: Path) -> None:
    path.write_text(PLANT.splitlines()[0] + "\n" + "1" * (64 << 20))
    write_mapping(path)


CSV: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero bytes": (bytes_of(b""), "0 bytes"),
    "header only": (csv(lambda lines: lines.__delitem__(slice(1, None))), "no rows"),
    "no header": (csv(lambda lines: lines.pop(0)), "two columns are named '0'"),
    "a blank header": (csv(line(1, "")), "header"),
    "not text": (bytes_of(bytes(range(256)) * 4), "not a text file"),
    "UTF-16": (bytes_of(PLANT.encode("utf-16")), "not a text file"),
    "Latin-1 header": (bytes_of(PLANT.replace("room", "räum").encode("latin-1")), "not UTF-8"),
    "Latin-1 cell": (bytes_of(PLANT.replace("tue", "tüe").encode("latin-1")), "cannot be read"),
    "semicolons": (csv(each(lambda text: text.replace(",", ";"))), "it has semicolons"),
    "tabs": (csv(each(lambda text: text.replace(",", "\t"))), "it has tabs"),
    "duplicate column": (csv(line(1, "minute,day,room,room,valve,reward,fault")), "two columns are named 'room'"),
    "unnamed column": (csv(line(1, "minute,day,room,,valve,reward,fault")), "column 3 has no name"),
    "line break in a name": (bytes_of(PLANT.replace("room", '"ro\nom"').encode()), "header"),
    "missing column": (csv(line(1, "minute,day,roo,outside,valve,reward,fault")), "did you mean 'roo'?"),
    "short row": (csv(line(4, "2,mon,20.8,5.1,30,-0.2")), "row 2 (line 4) has 6 cells, the header 7"),
    "long row": (csv(line(4, "2,mon,20.8,5.1,30,-0.2,1,9")), "row 2 (line 4) has 8 cells"),
    "blank line": (csv(line(4, "")), "row 2 (line 4) is empty"),
    "open quote": (csv(line(4, '2,"mon,20.8,5.1,30,-0.2,1')), "row 2 (line 4)"),
    "empty cell": (csv(line(4, "2,mon,,5.1,30,-0.2,1")), "'room' row 2 (line 4) is empty"),
    "NaN cell": (csv(line(4, "2,mon,nan,5.1,30,-0.2,1")), "'room' row 2 (line 4) is nan"),
    "text cell": (csv(line(4, "2,mon,warm,5.1,30,-0.2,1")), "'room' row 2 (line 4) is 'warm', not a number"),
    "thousands separator": (csv(line(4, '2,mon,20.8,5.1,30,"-1,000",1')), "'reward' row 2 (line 4) is '-1,000', not a number"),
    "decimal comma": (csv(line(4, '2,mon,"20,8",5.1,30,-0.2,1')), "decimal point"),
    "hexadecimal": (csv(line(4, "2,mon,0x14,5.1,30,-0.2,1")), "is '0x14'"),
    "too large": (csv(line(4, "2,mon,1e99,5.1,30,-0.2,1")), "'room' row 2 (line 4) is inf"),
    "action out of bounds": (csv(line(4, "2,mon,20.8,5.1,130,-0.2,1")), "'valve' row 2 (line 4) is 130, outside [0, 100]"),
    "odd flag": (csv(line(4, "2,mon,20.8,5.1,30,-0.2,2")), "'fault' row 2 (line 4) is '2'"),
    "flag inside an episode": (csv(line(3, "1,mon,21.0,5.0,35,0.0,1")), "'fault' row 1 (line 3) is set"),
    "episode id comes back": (csv(line(7, "3,mon,21.25,7.0,20,-0.25,0")), "'day' row 5 (line 7) is 'mon' again"),
    "no episode id": (csv(line(4, "2,,20.8,5.1,30,-0.2,1")), "'day' row 2 (line 4) is empty"),
    "time goes back": (csv(line(4, "0,mon,20.8,5.1,30,-0.2,1")), "'minute' row 2 (line 4) is not later than row 1"),
    "time stands still": (csv(line(4, "1,mon,20.8,5.1,30,-0.2,1")), "'minute' row 2 (line 4) is not later"),
    "no time": (csv(line(4, "noon,mon,20.8,5.1,30,-0.2,1")), "'minute' row 2 (line 4) is 'noon', not a number"),
    "one row an episode": (
        csv(lambda lines: lines.__setitem__(slice(1, None), ["0,a,1,1,1,1,0", "0,b,1,1,1,1,0"])),
        "empty (no complete transition)",
    ),
    "a line without end": (one_endless_line, "cannot be read"),
    "a pickle": (lambda path: path.write_bytes(hostile(path)), "three"),
}  # fmt: skip


def mapped(settings: str) -> Callable[[Path], None]:
    return csv(None, settings)


def mapping_text(text: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        csv()(path)
        path.with_suffix(".toml").write_bytes(text)

    return make


MAPPINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no mapping": (lambda path: (csv()(path), path.with_suffix(".toml").unlink()), "no such mapping file"),
    "not TOML": (mapping_text(b"observation: [room]"), "not valid TOML"),
    "not text": (mapping_text(b"\xff\xfe\x00"), "UTF-8"),
    "deep brackets": (mapping_text(b"a = " + b"[" * 100_000), "not valid TOML"),
    "an endless number": (mapping_text(b"reward = " + b"9" * 100_000), "TOML"),
    "unknown key": (mapped('rewards = "reward"\n-reward'), "unknown key 'rewards' (did you mean 'reward'?)"),
    "no observation": (mapped("-observation"), "'observation' is missing"),
    "observation as text": (mapped('observation = "room"'), "'observation' must be a list of names"),
    "empty observation": (mapped("observation = []"), "'observation' names no column"),
    "a number for a name": (mapped("reward = 3"), "'reward' must be one name in quotes, not 3"),
    "a list of actions": (mapped('action = ["valve"]'), "tables with bounds"),
    "no action": (mapped("action = {}"), "'action' names no column"),
    "bound missing": (mapped("action.valve = { low = 0.0 }"), "action 'valve' has no bound 'high'"),
    "bound misspelt": (mapped("action.valve = { low = 0.0, hihg = 1.0 }"), "did you mean 'high'?"),
    "bound as text": (mapped('action.valve = { low = 0.0, high = "1" }'), "'action.valve.high' must be a number"),
    "infinite bound": (mapped("action.valve = { low = 0.0, high = inf }"), "must be finite with low < high"),
    "bounds too large": (mapped("action.valve = { low = 0.0, high = 1e300 }"), "must be finite with low < high"),
    "bounds upside down": (mapped("action.valve = { low = 1.0, high = 0.0 }"), "action 'valve' has bounds [1, 0]"),
    "bounds not numbers": (mapped("action.valve = { low = 0.0, high = true }"), "must be a number, not True"),
    "two roles": (mapped('observation = ["room", "reward"]'), "column 'reward' is 'observation' and 'reward'"),
    "a column twice": (mapped('observation = ["room", "room"]'), "column 'room' is"),
    "unknown column": (mapped('observation = ["room", "outsid"]'), "no column 'outsid'"),
    "unknown unit": (mapped('units = { rom = "degC" }'), "'units' names 'rom', which has no role here (did you mean 'room'?)"),
    "too few successors": (mapped('next_observation = ["minute"]\n-time'), "'next_observation' names 1 columns"),
    "returns of other episodes": (mapped("episode_returns = [1.0]"), "1 episode returns are stated"),
    "returns as text": (mapped('episode_returns = ["1.0"]'), "must be a number"),
    "odd switch": (mapped("terminals_end_episodes = 1"), "must be true or false"),
}  # fmt: skip


def parquet(change: Callable[[Columns], object] | None = None, settings: str = "", metadata: Any = None) -> Callable[[Path], None]:
    """The plant of PLANT as Parquet, its columns changed, with its mapping."""

    def make(path: Path) -> None:
        columns = plant_columns()
        if change is not None:
            change(columns)
        table = pa.table(columns)
        pq.write_table(table.replace_schema_metadata(metadata(path) if metadata else None), path)
        write_mapping(path, settings)

    return make


def plant_columns() -> Columns:
    header, *rows = (row.split(",") for row in PLANT.splitlines())
    columns: Columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return {name: list(cells) if name == "day" else [float(cell) for cell in cells] for name, cells in columns.items()}


def at(name: str, row: int, value: Any) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[name][row] = value

    return change


def a_group_a_thousand_times(path: Path) -> None:
    """One row group of a million zeros, which the footer lists 1024 times."""
    pq.write_table(pa.table({name: np.zeros(10**6, np.float32) for name in MAPPED}), path)
    whole = path.read_bytes()
    footer = pq.read_metadata(path)
    for _ in range(10):
        copy = path.with_suffix(".copy")
        footer.write_metadata_file(copy)
        footer.append_row_groups(pq.read_metadata(copy))
    footer.write_metadata_file(copy)
    path.write_bytes(whole[: len(whole) - 8 - struct.unpack("<I", whole[-8:-4])[0]] + copy.read_bytes()[4:])
    write_mapping(path, "-episode\n-terminated\n-time")


def claims_more_rows(path: Path) -> None:
    """The footer's counts of rows, and only those, say 1,048,570 where there are 100,003."""
    rng = np.random.default_rng(0)
    pq.write_table(pa.table({name: rng.normal(size=100_003) for name in MAPPED}), path, compression="none")
    content = path.read_bytes()
    true, claimed = (b"".join(_varint(2 * rows)) for rows in (100_003, 1_048_570))
    start = len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]
    path.write_bytes(content[:start] + content[start:].replace(true, claimed))
    write_mapping(path, "-episode\n-terminated\n-time")


MAPPED = ("room", "outside", "valve", "reward")


def _varint(number: int) -> list[bytes]:
    parts = []
    while number > 127:
        parts.append(bytes([number & 127 | 128]))
        number >>= 7
    return [*parts, bytes([number])]


def pickled_type(path: Path) -> None:
    """A column of an extension type whose description is a pickle, as pyarrow before 14.0.1 would load."""
    described = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": hostile(path)}
    columns = plant_columns()
    fields = [pa.field(name, pa.array(cells).type, metadata=described if name == "room" else None) for name, cells in columns.items()]
    pq.write_table(pa.table(list(columns.values()), schema=pa.schema(fields)), path)
    write_mapping(path, "action.valve = { low = 0.0, high = 1.0 }")


def own_mapping(text: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        parquet(metadata=lambda path: {"spar.mapping": text})(path)
        path.with_suffix(".toml").unlink()

    return make


def two_rooms(path: Path) -> None:
    columns = plant_columns()
    pq.write_table(pa.table([*columns.values(), columns["room"]], names=[*columns, "room"]), path)
    write_mapping(path)


PARQUET: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero bytes": (bytes_of(b""), "0 bytes"),
    "magic only": (bytes_of(b"PAR1PAR1"), "cannot be read"),
    "a CSV file": (bytes_of(PLANT.encode()), "cannot be read"),
    "cut in half": (cut(parquet(), 0.5), "cannot be read"),
    "no rows": (parquet(lambda c: c.update({k: pa.array(v)[:0] for k, v in c.items()})), "no rows"),
    "text column": (parquet(lambda c: c.update(room=["warm"] * 6)), "column 'room' has type string; it must be numbers"),
    "nested column": (parquet(lambda c: c.update(room=[[1.0, 2.0]] * 6)), "column 'room' has type list"),
    "ragged nested column": (parquet(lambda c: c.update(room=[[1.0] * n for n in range(6)])), "column 'room' has type list"),
    "truth values for numbers": (parquet(lambda c: c.update(room=[True] * 6)), "column 'room' has type bool"),
    "nothing but nulls": (parquet(lambda c: c.update(room=[None] * 6)), "column 'room' has type null"),
    "null": (parquet(at("room", 2, None)), "'room' row 2 is empty"),
    "NaN": (parquet(at("room", 2, np.nan)), "'room' row 2 is nan"),
    "infinite": (parquet(at("reward", 2, np.inf)), "'reward' row 2 is inf"),
    "missing column": (parquet(lambda c: c.pop("room")), "no column 'room'"),
    "duplicate column": (two_rooms, "two columns are named 'room'"),
    "action out of bounds": (parquet(at("valve", 2, 130.0)), "'valve' row 2 is 130, outside [0, 100]"),
    "odd flag": (parquet(at("fault", 2, 2.0)), "'fault' row 2 is 2.0"),
    "flag as text": (parquet(lambda c: c.update(fault=["no"] * 6)), "column 'fault' has type string"),
    "episode id comes back": (parquet(at("day", 5, "mon")), "'day' row 5 is 'mon' again"),
    "episode id null": (parquet(at("day", 4, None)), "'day' row 4 is empty"),
    "episode ids as fractions": (parquet(lambda c: c.update(day=[0.5] * 6)), "column 'day' has type double"),
    "time goes back": (parquet(at("minute", 2, 0.5)), "'minute' row 2 is not later than row 1"),
    "time null": (parquet(at("minute", 2, None)), "'minute' row 2 is empty"),
    "10^9 rows of zeros": (a_group_a_thousand_times, "the table (1024000000 rows) claims"),
    "more rows claimed than there are": (claims_more_rows, "claims 1048570 rows but holds 100003"),
    "pickled type": (pickled_type, "'valve' row 0 is 40"),
    "own mapping broken": (own_mapping("reward = "), "the mapping inside"),
    "own mapping of other columns": (own_mapping('observation=["a"]\nreward="b"\naction.c={low=0,high=1}'), "no column 'a'"),
}
