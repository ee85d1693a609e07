"""Normalised scores: 100 (R - random) / (expert - random) with D4RL's reference returns (Fu et al. 2020, d4rl/infos.py).

The references were measured on D4RL's own simulators. On gymnasium's successors of those tasks they are a common yardstick, no more.
"""

from __future__ import annotations

import functools
import json
from importlib import resources

import numpy as np

REFERENCES: dict[str, tuple[float, float]] = {  # gymnasium's name of the task, without version: return of random and of expert
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
    "AntMaze_UMaze": (0.0, 1.0),
    "AntMaze_Medium": (0.0, 1.0),
    "AntMaze_Large": (0.0, 1.0),
    "AdroitHandPen": (96.262799, 3076.8331017826877),
    "AdroitHandHammer": (-274.856578, 12794.134825156867),
    "AdroitHandDoor": (-56.512833, 2880.5693087298737),
    "AdroitHandRelocate": (-6.425911, 4233.877797728884),
    "FrankaKitchen": (0.0, 4.0),
}


@functools.cache
def measured() -> dict[str, dict[str, float]]:
    """Returns of random actions and of the best policy known, measured here, for tasks that D4RL has no reference for, by full id."""
    return dict(json.loads((resources.files("spar.data") / "recipes" / "references.json").read_text()))


def reference(env_id: str | None) -> tuple[float, float] | None:
    """(random, expert) returns of the task behind a gymnasium id such as `Hopper-v5`, or None."""
    if env_id is None:
        return None
    name = env_id.split("/")[-1].rsplit("-v", 1)[0]
    for known in (name, name.removesuffix("_Diverse_GR"), name.removesuffix("_Diverse_G")):
        if known in REFERENCES:
            return REFERENCES[known]
    own = measured().get(env_id)
    return (own["random"], own["expert"]) if own else None


def normalise(env_id: str | None, returns: np.ndarray) -> np.ndarray | None:
    """Normalised scores of `returns`, any shape; None where the task has no reference."""
    bounds = reference(env_id)
    return None if bounds is None else 100.0 * (np.asarray(returns) - bounds[0]) / (bounds[1] - bounds[0])
