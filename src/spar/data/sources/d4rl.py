"""D4RL-layout HDF5 files: flat time-major datasets, episodes one after another (Fu et al. 2020); `columns.py` has the names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spar.data.blocks import Allocate, check_expansion, heap, reading
from spar.data.episodes import Log
from spar.data.sources import columns, inflate
from spar.types import SparError

DAMAGE = (OSError, RuntimeError, KeyError, UnicodeDecodeError)  # how h5py speaks of damaged files


def read(
    path: Path, name: str | None = None, env_id: str | None = None, strict: bool = True, allocate: Allocate = heap, lazy: bool = False
) -> Log:
    """The log in the file `path`. Its HDF5 attribute `env_id`, where present, names the environment it came from.

    With `lazy`, matrices are read from the file in blocks, straight into what `allocate` gives: for files larger than memory.
    Raises SparError with file, field and row for anything that cannot be trusted (with `strict` off, values are not looked at).
    """
    path = Path(path)
    with open_file(path) as file, reading(str(path), *DAMAGE):
        present = [*columns.REQUIRED, *(key for key in columns.OPTIONAL if key in file)]
        found = {key: columns.column(str(path), key, inflate.Column(_dataset(path, file, key)), lazy) for key in present}
        if columns.RETURNS in file:
            found[columns.RETURNS] = columns.column(str(path), columns.RETURNS, _dataset(path, file, columns.RETURNS))
        attributes = {**file.attrs, **({"env_id": env_id} if env_id else {})}
        return columns.to_rows(str(path), found, attributes, (name, path.stem)).log(name or path.stem, strict, allocate)


def open_file(path: Path) -> h5py.File:
    """Raises SparError where there is no readable HDF5 file."""
    if not path.is_file():
        raise SparError(f"{path}: no such file; give an HDF5, NPZ, CSV or Parquet file, a Minari folder, or a name of `spar data list`")
    if path.stat().st_size == 0:
        raise SparError(f"{path}: the file is empty (0 bytes)")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise SparError(f"{path}: not a readable HDF5 file ({str(error).splitlines()[0]})") from None


def reading_bytes(path: Path) -> int:
    """Bytes that reading the file's matrices into memory takes, by its header alone: as they are stored, and their float32 copies."""
    with open_file(path) as file:
        found = [_dataset(path, file, key) for key in columns.MATRICES if key in file]
        return sum((dataset.dtype.itemsize + 4) * int(np.prod(dataset.shape)) for dataset in found)


def _dataset(path: Path, file: h5py.File, key: str) -> h5py.Dataset:
    """The dataset `key`, which must lie in this very file and be about as large as it claims."""
    parts = key.split("/")
    links = [file.get("/".join(parts[: n + 1]), getlink=True) for n in range(len(parts))]
    dataset = file[key] if all(isinstance(link, h5py.HardLink) for link in links) else None
    if not isinstance(dataset, h5py.Dataset):
        has = ", ".join(sorted(file)) or "nothing"
        raise SparError(f"{path}: '{key}' is missing; the file has: {' '.join(has.split())[:400]}")
    if dataset.is_virtual or dataset.external:
        raise SparError(f"{path}: '{key}' lies in another file; give a file that holds its own data")
    claimed = int(np.prod(dataset.shape or (), dtype=np.float64)) * dataset.dtype.itemsize
    check_expansion(f"{path}: '{key}' {dataset.shape}", claimed, dataset.id.get_storage_size())
    return dataset


def write(path: Path, found: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    """A new D4RL-layout file of step-aligned columns, byte-shuffled and gzip-compressed. Raises SparError if `path` exists."""
    if path.exists():
        raise SparError(f"{path}: exists already; nothing is written over, choose another path")
    temporary = path.with_name(path.name + ".tmp")
    with h5py.File(temporary, "w", libver="latest", track_order=True) as file:
        for key, column in found.items():
            file.create_dataset(key, data=column, compression="gzip", compression_opts=9, shuffle=True, track_times=False)
        for key, value in attributes.items():
            file.attrs[key] = value
    temporary.replace(path)


def write_log(path: Path, log: Log) -> None:
    """`log` as a new D4RL-layout file, from which `read` makes an equal log. Raises SparError if `path` exists."""
    write(path, *columns.from_log(log))
