"""Replay logs: everything SAC lived through, from its first random action until it was half-way to expert.

D4RL's medium-replay sets were made so (Fu et al. 2020): the replay buffer of SAC at the time its policy reached a medium level. Ours
differ in the implementation of SAC, in the simulator (gymnasium's current version of the task), and in their size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from spar import files
from spar.data.recipes import collect
from spar.data.sources import d4rl
from spar.types import SparError

MANTISSA_BITS = 15  # kept of each float32: relative rounding error at most 2**-16


@dataclass(frozen=True)
class Recipe:
    """What decides a replay log, byte for byte, on equal versions and an equal processor."""

    env_id: str
    seed: int
    until: float  # mean return of the last 10 training episodes at which the log ends
    until_means: str


RECIPES: dict[str, Recipe] = {
    "hopper-replay": Recipe("Hopper-v5", 1, 1607.0, "half-way between D4RL's random (-20.3) and expert (3234.3) returns"),
}


def make(name: str, out: Path, say: Callable[[str], None] = print) -> Path:
    """Collect the log `name` into the new file `out` (D4RL-layout HDF5), with its data sheet beside it (`.json`).

    Raises SparError for an unknown name or when `out` exists.
    """
    if name not in RECIPES:
        raise SparError(f"no recipe named '{name}'; there are: {', '.join(RECIPES)}")
    if out.exists():
        raise SparError(f"{out}: exists already; nothing is written over, choose another path")
    recipe = RECIPES[name]
    replay, curve = collect.collect(collect.Collector(recipe.env_id, recipe.seed), until=recipe.until, say=say)
    write(name, recipe, replay, curve, out)
    return out


def write(name: str, recipe: Recipe, replay: collect.Replay, curve: list[tuple[int, float, float]], out: Path) -> None:
    """The file and its data sheet."""
    columns = {
        "observations": collect.round_mantissa(replay.obs, MANTISSA_BITS),
        "actions": replay.action,  # rounded before they were executed
        "rewards": collect.round_mantissa(replay.reward, MANTISSA_BITS),
        "terminals": replay.terminated,
        "timeouts": replay.truncated,
    }
    d4rl.write(out, columns, {"env_id": recipe.env_id})
    files.write_text(out.with_suffix(".json"), json.dumps(data_sheet(name, recipe, curve, out), indent=2) + "\n")


def data_sheet(name: str, recipe: Recipe, curve: list[tuple[int, float, float]], path: Path) -> dict:
    """What a user should know of the log in `path`, measured from the file itself."""
    log = d4rl.read(path, name=name)
    counts, edges = np.histogram(log.returns, bins=20)
    return {
        "name": name,
        "what": "The replay buffer of SAC, trained from scratch, until its training episodes averaged the return `until`.",
        "recipe": asdict(recipe)
        | {"command": f"python -m spar.data.recipes {name} --out FILE", "collector": asdict(collect.Collector(recipe.env_id, recipe.seed))},
        "differs_from_d4rl": [
            "collected by D4RL's recipe for medium-replay, with this project's SAC instead of rlkit's",
            "gymnasium's current version of the task instead of mujoco-py's v2",
            "smaller, and ends where training episodes (not evaluations) reach the level",
            f"float32 rounded to {MANTISSA_BITS} mantissa bits so that it compresses; actions were rounded before they were executed",
        ],
        "fingerprint": log.fingerprint,
        "transitions": len(log),
        "episodes": len(log.lengths),
        "terminated": int(log.terminated.sum()),
        "truncated": int(log.truncated.sum()),
        "returns": {
            "mean": float(log.returns.mean()),
            "min": float(log.returns.min()),
            "max": float(log.returns.max()),
            "quantiles": {str(q): float(np.quantile(log.returns, q)) for q in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)},
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        },
        "learning_curve": [{"step": step, "return_mean": mean, "return_std": std} for step, mean, std in curve],
        "reader_notes": list(log.notes),
        "versions": {package: version(package) for package in ("spar", "jax", "jaxlib", "flax", "optax", "numpy", "gymnasium", "mujoco")},
    }
