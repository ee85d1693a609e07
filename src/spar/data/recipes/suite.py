"""The suite by name: `make(NAME, file)` makes any of its datasets, with a data sheet beside it, from the snapshots kept here."""

from __future__ import annotations

import csv
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np

from spar import files
from spar.data.recipes import antmaze, collectors, locomotion, pointmaze, replay, rollouts
from spar.data.recipes.names import RECIPES, Recipe
from spar.data.sources import d4rl
from spar.types import SparError

PACKAGES = ("spar", "jax", "jaxlib", "numpy", "gymnasium", "mujoco", "gymnasium-robotics", "h5py")
SHEETS = Path(__file__).parent / "sheets"  # of the datasets as they were made
REFERENCES = Path(__file__).parent / "references.json"  # {env_id: mean returns of random actions and of the best planner}


def make(name: str, out: Path, say: Callable[[str], None] = print, snapshots: Path = collectors.SNAPSHOTS) -> Path:
    """The dataset `name` as the new file `out` (D4RL-layout HDF5), with its data sheet beside it (`.json`).

    Raises SparError for an unknown name, a missing snapshot, or when `out` exists.
    """
    if name in replay.RECIPES:
        return replay.make(name, out, say)
    if name not in RECIPES:
        raise SparError(f"no recipe named '{name}'; there are: {', '.join([*replay.RECIPES, *RECIPES])}")
    if out.exists():
        raise SparError(f"{out}: exists already; nothing is written over, choose another path")
    began = time.process_time()
    columns, attributes = RECIPES[name].columns(say, snapshots)
    d4rl.write(out, columns, attributes)
    seconds = time.process_time() - began
    files.write_json(out.with_suffix(".json"), data_sheet(name, out, snapshots) | {"processor_seconds_to_make": round(seconds)})
    return out


def write_references(out: Path, say: Callable[[str], None] = print, episodes: int = 50, snapshots: Path = collectors.SNAPSHOTS) -> None:
    """The file `out` (JSON): mean returns of random actions and of the best that leads to the goal here, for each maze."""
    table = {}
    for recipe in RECIPES.values():
        if isinstance(recipe, pointmaze.Recipe):
            table[recipe.task.env_id] = pointmaze.reference(recipe, episodes, 0)
        elif isinstance(recipe, antmaze.Recipe):
            table[recipe.task.env_id] = antmaze.reference(recipe, episodes, 0, snapshots)
        else:
            continue
        table[recipe.task.env_id]["episodes"] = episodes
        say(f"{recipe.task.env_id}: {table[recipe.task.env_id]}")
    files.write_json(out, table)


def trajectory_ends(columns: rollouts.Columns) -> np.ndarray:
    """Where a trajectory ends (N,) bool: at timeouts, and wherever the successor is not the next row."""
    jump = (columns["next_observations"][:-1] != columns["observations"][1:]).any(-1)
    return np.append(jump, True) | columns["timeouts"].astype(bool)


def data_sheet(name: str, path: Path, snapshots: Path) -> dict:
    """What a user should know of the dataset `name` in `path`, measured from the file itself."""
    recipe, log = RECIPES[name], d4rl.read(path, name=name)
    settings = {key: value for key, value in asdict(recipe).items() if key not in ("level", "differs")}
    with h5py.File(path) as file:
        columns = {key: file[key][()] for key in ("observations", "next_observations", "rewards", "terminals", "timeouts")}
        attributes = {key: str(value) for key, value in file.attrs.items()}
    ends = np.flatnonzero(trajectory_ends(columns))
    returns = np.add.reduceat(columns["rewards"].astype(np.float64), np.append(0, ends[:-1] + 1))
    counts, edges = np.histogram(returns, bins=20)
    return {
        "name": name,
        "recipe": settings | {"command": f"python -m spar.data.recipes {name} --out FILE"},
        "snapshots": snapshots_of(recipe, snapshots),
        "attributes": attributes,
        "level": recipe.level,
        "differs_from_d4rl": list(recipe.differs),
        "fingerprint": log.fingerprint,
        "rows": len(columns["rewards"]),
        "trajectories": len(ends),
        "terminals": int(columns["terminals"].sum()),
        "timeouts": int(columns["timeouts"].sum()),
        "returns": {
            "mean": float(returns.mean()),
            "std": float(returns.std()),
            "min": float(returns.min()),
            "max": float(returns.max()),
            "quantiles": {str(q): float(np.quantile(returns, q)) for q in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)},
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        },
        "reader_notes": list(log.notes),
        "versions": {package: version(package) for package in PACKAGES},
    }


def snapshots_of(recipe: Recipe, folder: Path) -> list[dict]:
    """Each snapshot that acts: its step, the SHA-256 of its file, and its scores where they have been measured."""
    if isinstance(recipe, pointmaze.Recipe):
        return []
    folder, scores = folder / recipe.collector, {}
    if (folder / "scores.csv").exists():
        with (folder / "scores.csv").open() as file:
            scores = {int(row.pop("step")): {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)}
    steps = recipe.steps if isinstance(recipe, locomotion.Recipe) else (recipe.step,)
    paths = [collectors.path_of(folder, step) for step in steps]
    return [
        {"collector": recipe.collector, "step": step, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} | scores.get(step, {})
        for step, path in zip(steps, paths, strict=True)
    ]
