"""The competitors' published settings by task family, with where each was published; what no source gives is said to be ours.

A family is read off the beginning of a task's name, as in `hopper-medium-replay`, `antmaze-umaze-diverse`, `pen-human`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from spar.baselines import awac, bc, bcq, cql, iql, lapo, onestep, plas, spot, td3bc
from spar.types import Config, DataNeeds

Family = Literal["locomotion", "antmaze", "adroit", "maze2d"]
ROBOTS: dict[str, Family] = {
    **dict.fromkeys(("halfcheetah", "hopper", "walker2d", "ant"), "locomotion"),
    "antmaze": "antmaze",
    **dict.fromkeys(("pen", "door", "hammer", "relocate"), "adroit"),
    **dict.fromkeys(("maze2d", "pointmaze"), "maze2d"),
}
FAMILIES: tuple[Family, ...] = get_args(Family)
OURS = "no published settings for this family; ours: the locomotion defaults"


@dataclass(frozen=True)
class Preset:
    """Settings of one algorithm on one task."""

    config: Config
    data: DataNeeds
    source: str


def family(task: str) -> Family | None:
    """The family of a task's name, as `spar.presets.task_name` writes it; None for one that none of the benchmarks has."""
    return ROBOTS.get(task.split("-")[0].lower())


def _edit(config: Config, **changes: Any) -> Config:
    """`config` with fields replaced; a mapping replaces fields of that part."""
    edited = {k: _edit(getattr(config, k), **v) if isinstance(v, Mapping) else v for k, v in changes.items()}
    return dataclasses.replace(config, **edited)


BATCH: dict[str, int] = {"bcq": 100, "plas": 100, "lapo": 512, "onestep": 512}  # rows for one update, of the authors' code; others 256
RAW, SHIFTED = DataNeeds(), DataNeeds(reward_shift=-1.0)  # AntMaze: -1 a step, 0 at the goal
UNSCALED, UNSCALED_SHIFTED = DataNeeds(standardise=False), DataNeeds(standardise=False, reward_shift=-1.0)
NEXT = DataNeeds(standardise=False, next_action=True)
BEST = DataNeeds(top_episodes=0.1)
CORL, SPOT_CODE = "CORL configs", "SPOT code"
LAST = {"actor_last": 1e-3, "critic_last": 3e-3}

_AWAC, _CQL, _IQL, _ONESTEP = awac.Config(), cql.Config(), iql.Config(), onestep.Config()
_ANTMAZE_CQL = _edit(_CQL, weight=5.0, gap=0.8, floor=-200.0, max_backup=True, actor={"learning_rate": 1e-4}, critic={"hidden": (256,) * 5})
_LAPO_DATA = DataNeeds(reward="max")
_ANTMAZE_SPOT = _edit(spot.Config(), lam=0.025, **LAST, actor={"dropout": 0.0, "learning_rate": 1e-4})
_ADROIT_SPOT = _edit(spot.Config(), lam=1.0, online_floor=0.5, **LAST, actor={"dropout": 0.0, "learning_rate": 1e-4})

PRESETS: dict[str, dict[Family, Preset]] = {
    "bc": {name: Preset(bc.Config(), RAW, CORL) for name in FAMILIES},
    "bc10": {name: Preset(bc.Config(), BEST, CORL + "; episodes ranked by their undiscounted returns") for name in FAMILIES},
    "awac": {
        "locomotion": Preset(_AWAC, RAW, CORL),
        "antmaze": Preset(_edit(_AWAC, temperature=0.1), SHIFTED, CORL),
        "adroit": Preset(_edit(_AWAC, temperature=0.1), RAW, CORL),
        "maze2d": Preset(_edit(_AWAC, temperature=0.1), RAW, CORL),
    },
    "td3bc": {
        "locomotion": Preset(td3bc.Config(), RAW, "TD3+BC paper and code"),
        "antmaze": Preset(td3bc.Config(), SHIFTED, CORL),
        "adroit": Preset(td3bc.Config(), RAW, CORL),
        "maze2d": Preset(td3bc.Config(), RAW, CORL),
    },
    "cql": {
        "locomotion": Preset(_CQL, RAW, CORL),
        "antmaze": Preset(
            _ANTMAZE_CQL,
            DataNeeds(standardise=False, reward_scale=10.0, reward_shift=-5.0),
            CORL + "; both critics have five layers, there only the first",
        ),
        "adroit": Preset(_edit(_CQL, weight=1.0, actor={"learning_rate": 1e-4}), RAW, CORL),
        "maze2d": Preset(_edit(_CQL, gap=5.0), RAW, CORL),
    },
    "iql": {
        "locomotion": Preset(_IQL, RAW, CORL),
        "antmaze": Preset(_edit(_IQL, expectile=0.9, temperature=10.0), SHIFTED, CORL),
        "adroit": Preset(_edit(_IQL, expectile=0.8, actor={"dropout": 0.1}), RAW, CORL),
        "maze2d": Preset(_IQL, RAW, CORL),
    },
    "onestep": {
        "locomotion": Preset(_ONESTEP, NEXT, "onestep-rl configs (operator and weight tuned there for each dataset)"),
        "antmaze": Preset(_ONESTEP, dataclasses.replace(NEXT, reward_shift=-1.0), OURS + ", rewards - 1"),
        "adroit": Preset(_ONESTEP, dataclasses.replace(NEXT, reward="return-range"), OURS + ", rewards by the range of returns"),
        "maze2d": Preset(_ONESTEP, NEXT, OURS),
    },
    "bcq": {
        "locomotion": Preset(bcq.Config(), UNSCALED, "BCQ code"),
        "antmaze": Preset(bcq.Config(), UNSCALED_SHIFTED, OURS + ", rewards - 1"),
        "adroit": Preset(bcq.Config(), UNSCALED, OURS),
        "maze2d": Preset(bcq.Config(), UNSCALED, OURS),
    },
    "plas": {
        "locomotion": Preset(plas.Config(), UNSCALED, "PLAS code"),
        "antmaze": Preset(plas.Config(), UNSCALED_SHIFTED, OURS + ", rewards - 1"),
        "adroit": Preset(plas.Config(), UNSCALED, OURS),
        "maze2d": Preset(plas.Config(), UNSCALED, OURS),
    },
    "lapo": {
        "locomotion": Preset(lapo.Config(), _LAPO_DATA, "LAPO code"),
        "antmaze": Preset(_edit(lapo.Config(), mix=0.7, value_range=(0.0, 100.0)), DataNeeds(reward_scale=100.0), "LAPO code"),
        "adroit": Preset(lapo.Config(), _LAPO_DATA, OURS),
        "maze2d": Preset(_edit(lapo.Config(), cvae={"kl_weight": 0.3}), _LAPO_DATA, "LAPO code"),
    },
    "spot": {
        "locomotion": Preset(spot.Config(), RAW, SPOT_CODE),
        "antmaze": Preset(_ANTMAZE_SPOT, UNSCALED_SHIFTED, SPOT_CODE),
        "adroit": Preset(_ADROIT_SPOT, UNSCALED, CORL + " (pen-cloned)"),
        "maze2d": Preset(spot.Config(), RAW, OURS),
    },
}

SPOT_LAMBDA: dict[str, float] = {  # by task, from the SPOT code
    "halfcheetah-medium": 0.05, "halfcheetah-medium-replay": 0.05, "halfcheetah-medium-expert": 1.0,
    "hopper-medium": 0.1, "hopper-medium-replay": 0.1, "hopper-medium-expert": 0.2,
    "walker2d-medium": 0.2, "walker2d-medium-replay": 0.2, "walker2d-medium-expert": 0.5,
    "antmaze-umaze": 0.25, "antmaze-umaze-diverse": 0.25, "antmaze-medium-play": 0.05, "antmaze-medium-diverse": 0.025,
    "antmaze-large-play": 0.025, "antmaze-large-diverse": 0.025,
}  # fmt: skip

_SLOW_IQL = Preset(_edit(_IQL, kind="deterministic", critic={"polyak": 0.001}), DataNeeds(reward="return-range"), CORL)
IQL_TASKS: dict[str, Preset] = {  # that CORL has other settings for than for the rest of their family
    "hopper-medium": _SLOW_IQL,
    "hopper-medium-replay": _SLOW_IQL,
    "hopper-medium-expert": Preset(_edit(_IQL, expectile=0.5, temperature=6.0), RAW, CORL),
}


def preset_for(algo: str, task: str | None) -> Preset | None:
    """The published settings of a baseline on a task (or a family's name); None where the algorithm or the family is not here."""
    kind: Family | None = next((name for name in ROBOTS.values() if name == task), family(task) if task else None)
    if algo not in PRESETS or kind is None:
        return None
    preset = PRESETS[algo][kind]
    if algo == "iql" and task in IQL_TASKS:
        return IQL_TASKS[task]
    if algo == "spot" and task in SPOT_LAMBDA:
        preset = dataclasses.replace(preset, config=_edit(preset.config, lam=SPOT_LAMBDA[task]))
    elif algo == "spot" and preset.source == SPOT_CODE:
        preset = dataclasses.replace(preset, source=f"{SPOT_CODE}, which has no lambda for this task; ours")
    return preset


def equal_sizes(config: Any) -> Any:
    """`config` with SPAR's network sizes in every part: three hidden layers of 256 in a CVAE, two in all others."""
    parts = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    hidden = {name: (256,) * (3 if name == "cvae" else 2) for name, part in parts.items() if hasattr(part, "hidden")}
    return dataclasses.replace(config, **{name: dataclasses.replace(parts[name], hidden=widths) for name, widths in hidden.items()})
