"""D4RL-layout HDF5 files: flat time-major datasets, episodes one after another (Fu et al. 2020).

Keys: `observations` (N, obs_dim), `actions` (N, act_dim), `rewards` (N,), `terminals` (N,); optional `timeouts` (N,) and
`next_observations` (N, obs_dim). Columns may be (N, 1), float64, and flags may be bool or 0/1 numbers.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from spar.data.episodes import Log, check_finite, from_rows
from spar.types import SparError

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")


def read(path: Path, name: str | None = None, env_id: str | None = None) -> Log:
    """The log in the file `path`. Its HDF5 attribute `env_id`, where present, names the environment it came from.

    Raises SparError with file, field and row for anything that cannot be trusted.
    """
    path = Path(path)
    if not path.is_file():
        raise SparError(f"{path}: no such file; give a D4RL-layout HDF5 file or the name of an embedded dataset")
    if path.stat().st_size == 0:
        raise SparError(f"{path}: the file is empty (0 bytes)")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise SparError(f"{path}: not a readable HDF5 file ({str(error).splitlines()[0]})") from None
    with file:
        columns = {key: _column(path, file, key) for key in REQUIRED}
        columns |= {key: _column(path, file, key) for key in OPTIONAL if key in file}
        env_id = env_id or (str(file.attrs["env_id"]) if "env_id" in file.attrs else None)
    rows = len(columns["observations"])
    if rows == 0:
        raise SparError(f"{path}: the file is empty: 'observations' has no rows")
    for key, column in columns.items():
        if len(column) != rows:
            raise SparError(f"{path}: '{key}' has {len(column)} rows but 'observations' has {rows}")
    if "next_observations" in columns and columns["next_observations"].shape != columns["observations"].shape:
        raise SparError(
            f"{path}: 'next_observations' has shape {columns['next_observations'].shape}, 'observations' {columns['observations'].shape}"
        )
    return from_rows(
        name or path.stem,
        columns["observations"],
        columns["actions"],
        columns["rewards"],
        columns["terminals"],
        columns.get("timeouts", np.zeros(rows, bool)),
        columns.get("next_observations"),
        env_id=env_id,
        source=str(path),
    )


def _column(path: Path, file: h5py.File, key: str) -> np.ndarray:
    """One dataset, its shape, type and values checked: matrices (N, D) float32, vectors (N,) float32, flags (N,) bool."""
    if key not in file or not isinstance(file[key], h5py.Dataset):
        raise SparError(f"{path}: '{key}' is missing; the file has: {', '.join(sorted(file)) or 'nothing'}")
    dataset, is_flag, is_matrix = file[key], key in ("terminals", "timeouts"), key in ("observations", "actions", "next_observations")
    if dataset.dtype.kind not in ("biuf" if is_flag else "f"):
        hint = (
            "discrete actions are not supported; continuous ones must be floating point"
            if key == "actions"
            else "it must be floating point"
        )
        raise SparError(f"{path}: '{key}' has type {dataset.dtype}; {hint}")
    if (is_matrix and dataset.ndim != 2) or (
        not is_matrix and dataset.shape not in [(dataset.shape or (0,))[:1], (*(dataset.shape or (0,))[:1], 1)]
    ):
        expected = "(rows, dimensions)" if is_matrix else "(rows,) or (rows, 1)"
        raise SparError(f"{path}: '{key}' has shape {dataset.shape}, expected {expected}")
    try:
        array = dataset[()]
    except OSError as error:
        raise SparError(f"{path}: '{key}' cannot be read ({str(error).splitlines()[0]}); the file is damaged") from None
    array = array if is_matrix else array.reshape(-1)
    if is_flag:
        odd = np.flatnonzero((array != 0) & (array != 1))
        if len(odd):
            raise SparError(f"{path}: '{key}' row {odd[0]} is {array[odd[0]]}; flags are 0 or 1")
        return array.astype(bool)
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    check_finite(str(path), key, array)
    return array


def write(path: Path, columns: dict[str, np.ndarray], attributes: dict[str, str]) -> None:
    """A new D4RL-layout file of step-aligned `columns`, byte-shuffled and gzip-compressed. Raises SparError if `path` exists."""
    if path.exists():
        raise SparError(f"{path}: exists already; nothing is written over, choose another path")
    temporary = path.with_name(path.name + ".tmp")
    with h5py.File(temporary, "w", libver="latest", track_order=True) as file:
        for key, column in columns.items():
            file.create_dataset(key, data=column, compression="gzip", compression_opts=9, shuffle=True, track_times=False)
        for key, value in attributes.items():
            file.attrs[key] = value
    temporary.replace(path)
