"""The paper's settings, task by task: Table 8 (ten tasks) and Table 14 (three medium tasks) on top of Table 7, which is the defaults.

Table 14 prints scores but no hyper-parameters; its tasks take the medium-replay row of the same robot in Table 8.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from spar import registry
from spar.data.sources import d4rl_names


@dataclass(frozen=True)
class Preset:
    """One row of Table 8, with what the appendix says about its domain."""

    task: str
    env: str  # gymnasium's successor of the D4RL task
    algo: str
    expectile: float  # tau
    lambda_u: float
    lambda_g: float
    filter: Literal["hard", "soft"]
    temperature: float  # T
    eta_rel: float  # eta
    anchor: Literal["deterministic", "gaussian"]  # C.1.2: deterministic for locomotion, Gaussian for Adroit and AntMaze
    reward_shift: float  # -1 for AntMaze (Table 7: rewards untouched except there)
    episodes: int  # of evaluation, as D4RL's users do: 10 for locomotion, 100 for AntMaze and Adroit; the paper says none
    source: str

    def config(self, algo: str | None = None) -> Any:
        """The algorithm's configuration with this row's values; of another algorithm than the row's own where `algo` says so."""
        cfg = registry.get(algo or self.algo).default
        replace = dataclasses.replace
        cfg = replace(
            cfg,
            anchor=replace(cfg.anchor, kind=self.anchor),
            critic=replace(cfg.critic, expectile=self.expectile, lambda_u=self.lambda_u),
            weighting=replace(cfg.weighting, filter=self.filter, temperature=self.temperature),
            gate=replace(cfg.gate, eta_rel=self.eta_rel),
        )
        guided = [f.name for f in dataclasses.fields(cfg) if hasattr(getattr(cfg, f.name), "lambda_g")]
        return replace(cfg, **{name: replace(getattr(cfg, name), lambda_g=self.lambda_g) for name in guided})


def _locomotion(task: str, env: str, algo: str, lambda_u: float, lambda_g: float, temperature: float, source: str = "Table 8") -> Preset:
    return Preset(task, env, algo, 0.5, lambda_u, lambda_g, "hard", temperature, 0.01, "deterministic", 0.0, 10, source)


def _sparse(task: str, env: str, expectile: float, lambda_g: float, reward_shift: float) -> Preset:
    return Preset(task, env, "spar-proj", expectile, 0.5, lambda_g, "soft", 0.3, 0.01, "gaussian", reward_shift, 100, "Table 8")


SUFFIXES = (".hdf5", ".h5", ".npz", ".csv", ".parquet")
MEDIUM = "Table 14, settings of the medium-replay row of Table 8"
PRESETS: dict[str, Preset] = {
    preset.task: preset
    for preset in (
        _locomotion("halfcheetah-medium-replay", "HalfCheetah-v5", "spar-mlp", 0.5, 0.5, 1.0),
        _locomotion("hopper-medium-replay", "Hopper-v5", "spar-mlp", 0.5, 0.5, 1.0),
        _locomotion("walker2d-medium-replay", "Walker2d-v5", "spar-mlp", 0.5, 2.0, 1.0),
        _locomotion("halfcheetah-medium-expert", "HalfCheetah-v5", "spar-proj", 0.5, 0.5, 0.3),
        _locomotion("hopper-medium-expert", "Hopper-v5", "spar-proj", 2.0, 0.5, 0.3),
        _locomotion("walker2d-medium-expert", "Walker2d-v5", "spar-proj", 0.5, 2.0, 0.3),
        _sparse("pen-cloned", "AdroitHandPen-v1", 0.5, 0.5, 0.0),
        _sparse("pen-human", "AdroitHandPen-v1", 0.5, 0.5, 0.0),
        _sparse("antmaze-umaze-diverse", "AntMaze_UMaze-v4", 0.9, 2.0, -1.0),
        _sparse("antmaze-large-diverse", "AntMaze_Large-v4", 0.9, 0.5, -1.0),
        _locomotion("halfcheetah-medium", "HalfCheetah-v5", "spar-mlp", 0.5, 0.5, 1.0, MEDIUM),
        _locomotion("hopper-medium", "Hopper-v5", "spar-mlp", 0.5, 0.5, 1.0, MEDIUM),
        _locomotion("walker2d-medium", "Walker2d-v5", "spar-mlp", 0.5, 2.0, 1.0, MEDIUM),
    )
}


@dataclass(frozen=True)
class Nearest:
    """A maze that the paper does not have, with the row of Table 8 whose settings it takes."""

    env: str
    row: str
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the row's fields


POINT = {"reward_shift": 0.0, "episodes": 10}  # nothing terminates in PointMaze: a shift would only move every value by the same number
NEAREST: dict[str, Nearest] = {
    "antmaze-umaze": Nearest("AntMaze_UMaze-v4", "antmaze-umaze-diverse"),
    "antmaze-medium-play": Nearest("AntMaze_Medium-v4", "antmaze-large-diverse"),
    "antmaze-medium-diverse": Nearest("AntMaze_Medium-v4", "antmaze-large-diverse"),
    "antmaze-large-play": Nearest("AntMaze_Large-v4", "antmaze-large-diverse"),
    **{
        f"{family}-{size}": Nearest(f"PointMaze_{env}-v3", f"antmaze-{'umaze' if size == 'umaze' else 'large'}-diverse", POINT)
        for family in ("pointmaze", "maze2d")
        for size, env in (("umaze", "UMaze"), ("medium", "Medium"), ("large", "Large"))
    },
}


def task_name(dataset: str) -> str:
    """The name of a dataset as D4RL writes tasks, without a version: of `hopper_medium_replay-v2`, of a file's path by its stem (D4RL's own
    files, `hopper_mixed.hdf5`, by the dataset that lies in them), and of Minari's `D4RL/pen/human-v2`, `mujoco/hopper/medium-v0` by the
    parts after the first."""
    path = Path(dataset)
    if path.name in d4rl_names.FILES:
        named = d4rl_names.FILES[path.name].name
    else:
        named = path.stem if path.suffix.lower() in SUFFIXES else "-".join(path.parts[-2:])
    return re.sub(r"-v\d+$", "", re.sub(r"[_\s]+", "-", named.lower())).removeprefix("d4rl-").removeprefix("minari-")


def match(dataset: str) -> Preset | None:
    """The preset of the task that a dataset's name begins with (`hopper_medium_replay-v2`, `D4RL/pen/human-v2`), or None."""
    name = task_name(dataset)
    fitting = [task for task in (*PRESETS, *NEAREST) if re.match(rf"{task}(-|$)", name)]
    if not fitting:
        return None
    task = max(fitting, key=len)
    if task in PRESETS:
        return PRESETS[task]
    near = NEAREST[task]
    source = f"settings of {near.row} in Table 8; the paper has no such task"
    return dataclasses.replace(PRESETS[near.row], task=task, env=near.env, source=source, **near.changes)
