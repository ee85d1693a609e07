"""Datasets by name or path."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from spar.data.episodes import Log
from spar.data.sources import d4rl
from spar.types import SparError

EMBEDDED: dict[str, str] = {  # the name of a dataset that ships with the package -> the preset task whose settings suit it
    "hopper-replay": "hopper-medium-replay",
}


def load(dataset: str | Path, env_id: str | None = None) -> Log:
    """An embedded dataset by its name, or a D4RL-layout HDF5 file by its path.

    Raises SparError in one line naming file, field and row for anything that cannot be trusted.
    """
    name = str(dataset)
    if name in EMBEDDED:
        with resources.as_file(resources.files("spar.data") / "embedded" / f"{name}.hdf5") as path:
            return d4rl.read(path, name=name, env_id=env_id)
    if "/" not in name and "." not in name and not Path(name).exists():
        raise SparError(f"no dataset named '{name}'; embedded: {', '.join(EMBEDDED)}; or give the path of a D4RL-layout HDF5 file")
    return d4rl.read(Path(dataset), env_id=env_id)
