"""Datasets by name or path, whatever their format."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import h5py

from spar.data import memory
from spar.data.blocks import cache_folder, heap, mapped
from spar.data.download import Progress
from spar.data.episodes import Log
from spar.data.sources import d4rl, d4rl_names, minari, npz, ogbench, tables
from spar.types import SparError

EMBEDDED: dict[str, str] = {  # the name of a dataset that ships with the package -> the preset task whose settings suit it
    "hopper-replay": "hopper-medium-replay",
}
HDF5, NPZ, TABLES = (".hdf5", ".h5"), (".npz",), (".csv", ".parquet")
PACKED, PICKLED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz"), (".pkl", ".pickle", ".pt", ".pth", ".joblib")
FORMATS = "a D4RL-layout .hdf5, an .npz, a .csv or .parquet table with its mapping, or a Minari dataset"


def suite_folder() -> Path:
    """Where `spar data make` puts a dataset of the suite, and where its name is looked for."""
    return cache_folder() / "suite"


def load(
    dataset: str | Path,
    env_id: str | None = None,
    *,
    tier: Literal["auto"] | memory.Tier = "auto",
    strict: bool = True,
    mapping: Path | None = None,
    observation_keys: Sequence[str] = (),
    goal: tuple[float, float] | None = None,
    radius: float | None = None,
    progress: Progress | None = None,
) -> Log:
    """A log by its name (embedded, of the suite, D4RL's, a local Minari dataset's) or its path (FORMATS).

    An HDF5 file or Minari dataset that does not fit into memory, or any with `tier` mapped, is read into memory-mapped files. `mapping` is
    that of a table; `observation_keys` are the parts of a Minari dataset's dict observation to take; `goal` (x, y) and `radius` make the
    rewards of an OGBench maze. `strict` off reads bad values as they are, to be looked at. Raises SparError in one line naming file, field
    and row for anything that cannot be trusted.
    """
    name = str(dataset)
    if name in EMBEDDED:
        with resources.as_file(resources.files("spar.data") / "embedded" / f"{name}.hdf5") as path:
            return d4rl.read(path, name, env_id, strict)
    made = suite_folder() / f"{name}.hdf5"
    if made.is_file() and Path(name).name == name:  # no path, which would lead out of the folder
        return _hdf5(made, name, env_id, tier, strict)
    if d4rl_names.find(name):
        return d4rl_names.read(name, strict, progress=progress)
    path, suffix = Path(dataset), Path(dataset).suffix.lower()
    folder = minari.find(dataset)
    if folder:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return minari.read(dataset, None, env_id, strict, mapped if _to_files(tier, size) else heap, observation_keys)
    if suffix in HDF5:
        return _hdf5(path, None, env_id, tier, strict)
    if suffix in NPZ:
        if goal is not None or radius is not None or ogbench.is_ogbench(path):
            return ogbench.read(path, None, env_id, strict, goal=goal, radius=radius)
        return npz.read(path, None, env_id, strict)
    if suffix in TABLES:
        return tables.read(path, mapping, None, env_id, strict)
    if path.is_dir():
        raise SparError(f"{name}: a directory without a Minari dataset (data/main_data.hdf5) in it; give {FORMATS}")
    if path.is_file():
        if suffix in PACKED:
            raise SparError(f"{name}: a packed file; unpack it, and give {FORMATS}")
        if suffix in PICKLED:
            raise SparError(f"{name}: pickles are never loaded, since they can run anything; save the arrays as {FORMATS}")
        if path.stat().st_size and not h5py.is_hdf5(path):
            raise SparError(f"{name}: not a format that is read here; give {FORMATS}")
        return _hdf5(path, None, env_id, tier, strict)
    raise SparError(_unknown(name))


def _hdf5(path: Path, name: str | None, env_id: str | None, tier: str, strict: bool) -> Log:
    to_files = path.is_file() and _to_files(tier, d4rl.reading_bytes(path))
    return d4rl.read(path, name, env_id, strict, mapped if to_files else heap, lazy=to_files)


def _to_files(tier: str, reading_bytes: int) -> bool:
    return tier == "mapped" or (tier == "auto" and not memory.log_fits(reading_bytes))


def _unknown(name: str) -> str:
    from spar.data.recipes.names import RECIPES  # only to tell: they need packages that training does not

    if name in RECIPES:
        return f"'{name}' has not been made yet; make it with `spar data make {name}`"
    if "/" in name or "." in name:
        return f"{name}: no such file; give {FORMATS}"
    close = difflib.get_close_matches(name, [*EMBEDDED, *RECIPES, *d4rl_names.DATASETS], 3)
    hint = f"did you mean {', '.join(close)}?" if close else f"embedded: {', '.join(EMBEDDED)}; `spar data list` shows the others"
    return f"no dataset named '{name}'; {hint}"
