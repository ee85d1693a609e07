"""Files that are broken, lie about their size, or mean harm: each builder makes one; the tests say what must be said of it.

`CORPUS` has a `Case` a kind: its format (`tests.reading.FORMATS`), what makes the file, and what the one line must name.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spar.data.sources import d4rl, tables
from tests.conftest import plant_log, plant_rows
from tests.corpus_parts import Case, Columns, cut, hostile, raw
from tests.corpus_tables import CSV, MAPPINGS, PARQUET, csv

GIGA = 10**9


def changed(change: Callable[[Columns], object], steps: int = 120) -> Columns:
    columns: Columns = dict(plant_rows(steps))
    change(columns)
    return columns


def put(key: str, where: Any, value: float) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[key] = columns[key].astype(np.float64)
        columns[key][where] = value

    return change


def drop(key: str) -> Callable[[Columns], object]:
    return lambda columns: columns.pop(key)


def swap(key: str, change: Callable[[np.ndarray], Any]) -> Callable[[Columns], object]:
    return lambda columns: columns.update({key: change(columns[key])})


def single_steps(columns: Columns) -> None:
    """Every row a truncated episode without a successor: not one transition."""
    columns.pop("next_observations")
    columns["timeouts"][:], columns["terminals"][:] = True, False


def unmarked(columns: Columns) -> None:
    columns.pop("next_observations")
    columns["timeouts"][:] = columns["terminals"][:] = False


FLAT: dict[str, tuple[Callable[[Columns], object], str]] = {
    "missing key": (drop("actions"), "'actions' is missing"),
    "no rows": (lambda c: c.update({k: v[:0] for k, v in c.items()}), "no rows"),
    "NaN observation": (put("observations", (41, 2), np.nan), "'observations' row 41, column 2 is nan"),
    "infinite reward": (put("rewards", 3, np.inf), "'rewards' row 3 is inf"),
    "too large for float32": (put("rewards", 3, 1e300), "'rewards' row 3 is inf"),
    "whole-number actions": (swap("actions", lambda a: a.astype(np.int32)), "'actions' has type int32"),
    "text rewards": (swap("rewards", lambda a: a.astype("S8")), "'rewards' has type"),
    "complex observations": (swap("observations", lambda a: a.astype(np.complex64)), "'observations' has type complex64"),
    "short rewards": (swap("rewards", lambda a: a[:-1]), "'rewards' has 119 rows but 'observations' has 120"),
    "flat observations": (swap("observations", np.ravel), "'observations' has shape"),
    "no dimensions": (swap("observations", lambda a: a[:, :0]), "no dimensions"),
    "odd flag": (put("timeouts", 3, 0.5), "'timeouts' row 3 is 0.5"),
    "action outside the box": (put("actions", (9, 0), 1.5), "'actions' row 9, column 0 is 1.5, outside [-1, 1]"),
    "no transitions": (single_steps, "empty"),
    "no episode end": (unmarked, "no episode end"),
}


def hdf5(change: Callable[[Columns], object], attributes: dict[str, Any] | None = None) -> Callable[[Path], None]:
    return lambda path: d4rl.write(path, changed(change), attributes or {})


def same(columns: Columns) -> None:
    pass


def edited(edit: Callable[[h5py.File, Path], object]) -> Callable[[Path], None]:
    """A good HDF5 file with one thing changed in place."""

    def make(path: Path) -> None:
        d4rl.write(path, changed(same), {})
        with h5py.File(path, "r+") as file:
            edit(file, path)

    return make


def replaced(key: str, *shape_and_data: Any, **settings: Any) -> Callable[[h5py.File, Path], None]:
    def edit(file: h5py.File, path: Path) -> None:
        del file[key]
        file.create_dataset(key, *shape_and_data, **settings)

    return edit


def never_written(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for key, column in plant_rows(20).items():
            file.create_dataset(key, (GIGA, *column.shape[1:]), column.dtype, chunks=(1 << 16, *column.shape[1:]))


def zeros_in_gzip(path: Path) -> None:
    """Half a gigabyte of real zeros a matrix, deflated once: as small as the format gets."""
    with h5py.File(path, "w") as file:
        for key, column in plant_rows(20).items():
            shape = (1 << 25, *column.shape[1:])
            chunk = (1 << 20, *column.shape[1:])
            dataset = file.create_dataset(key, shape, column.dtype, chunks=chunk, compression="gzip", compression_opts=9)
            packed = _deflated_chunk(np.zeros(chunk, column.dtype))
            for start in range(0, shape[0], chunk[0]):
                dataset.id.write_direct_chunk((start, *[0] * (len(shape) - 1)), packed)


def _deflated_chunk(zeros: np.ndarray) -> bytes:
    return zlib.compress(zeros.tobytes(), 9)


def elsewhere(kind: str) -> Callable[[h5py.File, Path], None]:
    def edit(file: h5py.File, path: Path) -> None:
        other = path.with_name("other.hdf5")
        d4rl.write(other, changed(same), {})
        rewards = file["rewards"][:]
        del file["rewards"]
        if kind == "link":
            file["rewards"] = h5py.ExternalLink(other.name, "rewards")
        elif kind == "soft link":
            file["rewards"] = h5py.SoftLink("/rewards")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(rewards.shape, rewards.dtype)
            layout[:] = h5py.VirtualSource(str(other), "rewards", rewards.shape)
            file.create_virtual_dataset("rewards", layout)
        else:
            file.create_dataset("rewards", rewards.shape, rewards.dtype, external=[(str(other), 0, rewards.nbytes)])

    return edit


def linked_returns(file: h5py.File, path: Path) -> None:
    d4rl.write(path.with_name("other.hdf5"), changed(same) | {"metadata/episode_returns": np.zeros(3)}, {})
    file["metadata"] = h5py.ExternalLink("other.hdf5", "metadata")


def damaged_chunk(path: Path) -> None:
    d4rl.write(path, changed(same), {})
    with h5py.File(path, "r") as file:
        chunk = file["rewards"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 20 : chunk.byte_offset + 60] = b"\xff" * 40
    path.write_bytes(bytes(content))


def unknown_filter(file: h5py.File, path: Path) -> None:
    del file["rewards"]
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((120,))
    plan.set_filter(32001, h5py.h5z.FLAG_OPTIONAL)
    h5py.h5d.create(file.id, b"rewards", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((120,)), plan).write_direct_chunk((0,), b"x" * 100)


HDF5: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero bytes": (raw(b""), "0 bytes"),
    "a text file": (raw(b"observation,action\n1,2\n"), "not a readable HDF5 file"),
    "a pickle": (lambda path: path.write_bytes(hostile(path)), "not a readable HDF5 file"),
    "cut in half": (cut(hdf5(same), 0.5), "not a readable HDF5 file"),
    "a folder": (lambda path: path.mkdir(), "no such file"),
    "damaged chunk": (damaged_chunk, "cannot be read"),
    "unknown filter": (edited(unknown_filter), "cannot be read"),
    "10^9 rows never written": (never_written, "claims"),
    "gzip bomb": (zeros_in_gzip, "claims"),
    "external link": (edited(elsewhere("link")), "'rewards' is missing"),
    "link to itself": (edited(elsewhere("soft link")), "'rewards' is missing"),
    "virtual dataset": (edited(elsewhere("virtual")), "'rewards' lies in another file"),
    "external storage": (edited(elsewhere("storage")), "'rewards' lies in another file"),
    "linked returns": (edited(linked_returns), "'metadata/episode_returns' is missing"),
    "a scalar": (edited(replaced("rewards", data=1.0)), "'rewards' has shape ()"),
    "a group": (edited(lambda f, p: (f.pop("rewards"), f.create_group("rewards"))), "'rewards' is missing"),
    "null dataset": (edited(replaced("rewards", data=h5py.Empty("f4"))), "'rewards' has shape"),
    "text of any length": (edited(replaced("rewards", data=["1.0"] * 120)), "'rewards' has type object"),
    "compound": (edited(replaced("rewards", data=np.zeros(120, [("a", "f4"), ("b", "f4")]))), "'rewards' has type"),
    "references": (edited(replaced("rewards", (120,), h5py.ref_dtype)), "'rewards' has type object"),
    "one bound too many": (hdf5(same, {"action_low": [-1.0, -1.0, -1.0]}), "'action_low' has 3 numbers"),
    "bounds as text": (hdf5(same, {"action_low": "low"}), "attribute 'action_low' has type"),
    "bounds upside down": (hdf5(same, {"action_low": [1.0, 1.0], "action_high": [-1.0, 1.0]}), "low < high"),
    "returns of other episodes": (hdf5(lambda c: c.update({"metadata/episode_returns": np.zeros(1)})), "1 episode returns are stated"),
    "returns as text": (hdf5(lambda c: c.update({"metadata/episode_returns": np.zeros(3, "S3")})), "'metadata/episode_returns' has type"),
}  # fmt: skip


def npz(change: Callable[[Columns], object], compressed: bool = False) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            (np.savez_compressed if compressed else np.savez)(file, allow_pickle=False, **changed(change))

    return make


def npy_header(shape: tuple[int, ...], descr: str) -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (63 - (10 + len(head)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def member(name: str, content: Callable[[Path], bytes], compression: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    """A good archive in which the array `name` is `content` instead."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for key, column in plant_rows(120).items():
                held = io.BytesIO()
                np.save(held, column)
                archive.writestr(f"{key}.npy", content(path) if key == name else held.getvalue(), compression)

    return make


def zip_bomb(path: Path) -> None:
    """An honest archive whose observations are 400 MB of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("observations.npy", "w") as stream:
            stream.write(npy_header((1 << 25, 3), "<f4"))
            for _ in range(24):
                stream.write(bytes(16 << 20))
        for key, column in plant_rows(20).items():
            if key != "observations":
                archive.writestr(f"{key}.npy", npy_header(column.shape, column.dtype.str) + column.tobytes())


def pickled_column(path: Path) -> None:
    member("rewards", lambda path: npy_header((120,), "|O") + hostile(path))(path)


NPZ: dict[str, tuple[Callable[[Path], object], str]] = {
    "not a zip": (raw(b"PK\x03\x04 and then nothing"), "not a readable NPZ"),
    "a pickle": (lambda path: path.write_bytes(hostile(path)), "not a readable NPZ"),
    "cut in half": (cut(npz(same), 0.5), "not a readable NPZ"),
    "pickled objects": (pickled_column, "'rewards' holds Python objects"),
    "pickled instead of an array": (member("rewards", hostile), "'rewards' cannot be read"),
    "an empty array file": (member("rewards", lambda p: b""), "'rewards'"),
    "10^9 claimed rows": (member("observations", lambda p: npy_header((GIGA, 3), "<f4") + bytes(100)), "'observations'"),
    "a negative shape": (member("rewards", lambda p: npy_header((-4,), "<f4") + bytes(100)), "'rewards'"),
    "an endless header": (member("rewards", lambda p: b"\x93NUMPY\x02\x00" + b"\xff" * 4), "'rewards'"),
    "code in the header": (member("rewards", lambda p: npy_header((120,), "<f4'*10**9+'")), "'rewards'"),
    "a scalar": (npz(swap("rewards", lambda a: a[0])), "'rewards' has shape ()"),
    "zip bomb": (zip_bomb, "'observations'"),
}


def minari(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """A good dataset folder, its data folder changed."""

    def make(path: Path) -> None:
        from spar.data.sources import minari

        minari.write_log(path, plant_log(120))
        change(path / "data")

    return make


def episode(edit: Callable[[h5py.Group], object]) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        with h5py.File(data / "main_data.hdf5", "r+") as file:
            edit(file["episode_1"])

    return minari(change)


def reset(key: str, change: Callable[[np.ndarray], Any]) -> Callable[[h5py.Group], None]:
    def edit(group: h5py.Group) -> None:
        array = group[key][:]
        del group[key]
        group[key] = change(array)

    return edit


def spoilt(array: np.ndarray) -> np.ndarray:
    array[3] = np.nan
    return array


def metadata(**changes: Any) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        path = data / "metadata.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return minari(change)


def main_data(content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        path = data / "main_data.hdf5"
        path.write_bytes(content(path.read_bytes()))

    return minari(change)


MINARI: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty folder": (lambda path: path.mkdir(), "no Minari dataset"),
    "no main data": (minari(lambda data: (data / "main_data.hdf5").unlink()), "no such file"),
    "main data cut": (main_data(lambda content: content[: len(content) // 2]), "not a readable"),
    "metadata not JSON": (minari(lambda data: (data / "metadata.json").write_text("{")), "metadata.json"),
    "metadata a list": (minari(lambda data: (data / "metadata.json").write_text("[]")), "metadata.json"),
    "10^9 claimed steps": (metadata(total_steps=GIGA), "metadata.json has 1000000000"),
    "one episode too many": (metadata(total_episodes=99), "99"),
    "negative steps": (metadata(total_steps=-1), "'total_steps'"),
    "actions not bounded right": (metadata(action_space="Box"), "'action_space'"),
    "discrete actions": (metadata(action_space='{"type": "Discrete", "n": 3}'), "Discrete"),
    "NaN observation": (episode(reset("observations", spoilt)), "nan"),
    "ragged episode": (episode(reset("rewards", lambda r: r[:-1])), "episode_1"),
    "no final observation": (episode(reset("observations", lambda o: o[:-1])), "episode_1: 'observations' has shape"),
    "an episode without steps": (
        episode(lambda g: [reset(key, lambda a: a[:0])(g) for key in ("actions", "rewards", "terminations", "truncations")]),
        "episode_1 has no steps",
    ),
    "missing array": (episode(lambda g: g.pop("rewards")), "'rewards' is missing"),
    "text": (episode(reset("rewards", lambda r: r.astype("S8"))), "episode_1: 'rewards'"),
    "odd flag": (episode(reset("terminations", lambda t: t + 2.0)), "'terminations'"),
}  # fmt: skip


def _cases() -> dict[str, Case]:
    by_format = {
        "hdf5": HDF5 | {name: (hdf5(change), says) for name, (change, says) in FLAT.items()},
        "npz": NPZ | {name: (npz(change), says) for name, (change, says) in FLAT.items()},
        "csv": CSV | {f"mapping: {name}": case for name, case in MAPPINGS.items()},
        "parquet": PARQUET,
        "minari": MINARI,
    }
    return {f"{kind}: {name}": Case(kind, make, says) for kind, cases in by_format.items() for name, (make, says) in cases.items()}


CORPUS = _cases()
VALID: dict[str, Callable[[Path], object]] = {  # a good small file of each format
    "hdf5": hdf5(same),
    "npz": npz(same),
    "csv": csv(),
    "parquet": lambda path: tables.write_log(path, plant_log(120)),
    "minari": minari(lambda data: None),
}
